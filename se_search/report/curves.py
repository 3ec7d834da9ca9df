"""Training curves of every training."""

import pandas as pd
import plotly.graph_objects as go

from ..results.curves import SHARED, Curve
from ..results.record import RunRecord
from .style import DASHES, EDGE, INK, PALETTE, empty_figure, short_numbers, style_figure

_STYLES = {
    "backbone": (PALETTE[1], 3, DASHES[1]),
    "supernet": (INK, 3, DASHES[0]),
    "trial": (EDGE, 1, DASHES[0]),
    "verification": (PALETTE[0], 1.5, DASHES[0]),
}
_NAMES = {"trial": "trials, by the search", "verification": "verification"}


def training_curves(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw the mean training loss of each epoch of every finished training.

    Losses are comparable within one kind of training only: a supernet's is the mean over its configurations, and
    mixup or label smoothing raise all.
    """
    if not run.curves:
        return empty_figure("No training has finished yet, or its losses were not kept.", 280)
    figure = go.Figure()
    for training, (colour, width, dash) in _STYLES.items():
        for place, one in enumerate(curve for curve in run.curves if curve.training == training):
            figure.add_scatter(
                x=list(range(1, len(one.losses) + 1)),
                y=short_numbers(one.losses),
                mode="lines+markers" if training in SHARED or len(one.losses) == 1 else "lines",
                name=_NAMES.get(training, training),
                legendgroup=training,
                showlegend=place == 0,
                line={"color": colour, "width": width, "dash": dash},
                marker={"size": 6, "color": colour},
                hovertemplate=f"{_title(one)}<br>epoch %{{x}}: %{{y:.4f}}<extra></extra>",
            )
    style_figure(figure, "epoch", "training loss")
    most = max(len(one.losses) for one in run.curves)
    return figure.update_layout(height=340, showlegend=True, xaxis={"dtick": 1 if most <= 12 else None})


def _title(curve: Curve) -> str:
    return curve.name if curve.trial is not None or curve.seed is None else f"a baseline: {curve.name}"
