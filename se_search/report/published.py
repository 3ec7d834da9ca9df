"""The figure of published gains against the size of networks."""

from html import escape

import pandas as pd
import plotly.graph_objects as go

from .style import PALETTE, error_bars, style_figure

_SYMBOLS = ("circle", "square", "diamond", "triangle-up")
_MILLIONS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def published_gains(results: pd.DataFrame) -> go.Figure:
    """Draw published gains of SE against parameters, one colour and symbol for each family.

    Results without parameters are left out. Open symbols: more than the attention differs.

    Args:
        results: What :func:`se_search.published_results` returns.
    """
    figure = go.Figure()
    shown = results[(results["attention"] == "se") & (results["varies"] == "") & results["params_m_without"].notna()]
    for number, (family, rows) in enumerate(shown.groupby("family", sort=False)):
        colour, symbol = PALETTE[number % len(PALETTE)], _SYMBOLS[number // len(PALETTE) % len(_SYMBOLS)]
        gains = 100 * rows["gain"]
        figure.add_scatter(
            x=rows["params_m_without"],
            y=gains,
            error_y=error_bars(colour, gains, 100 * rows["gain_low"], 100 * rows["gain_high"]),
            mode="markers",
            name=escape(str(family)),
            marker={
                "color": colour,
                "size": 9,
                "symbol": [f"{symbol}-open" if differs else symbol for differs in rows["what_else_differs"]],
            },
            text=[_hover(row) for row in rows.to_dict("records")],
            hovertemplate="%{text}<extra></extra>",
        )
    style_figure(figure, "parameters without attention (millions)", "gain in top-1 accuracy (points)")
    figure.add_hline(y=0, line_width=1)
    return figure.update_layout(height=480, xaxis={"type": "log", "tickvals": _MILLIONS})


def _hover(row: dict[object, object]) -> str:
    names = f"{row['without']} → {row['with_attention']}, {row['image_size']} pixels"
    lines = (names, f"{100 * float(str(row['gain'])):+.2f} points", row["what_else_differs"], row["source"])
    return "<br>".join(escape(str(line)) for line in lines if line)
