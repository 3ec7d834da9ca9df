"""Configurations in parallel coordinates."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from ..results.record import RunRecord
from ..study.objectives import OBJECTIVES
from .configuration import BlockDrawing, draw_configuration
from .groups import MANY, complete_trials, group_trials
from .style import EDGE, LABEL, category_axis, cut, empty_figure, style_figure

_NONE = "off"
_GOLDEN = (math.sqrt(5) - 1) / 2
_MOST_TICKS = 8
_LONGEST_TICK = 4


def parallel_coordinates(trials: pd.DataFrame, run: RunRecord) -> go.Figure:
    """Draw each complete trial as a line over the choices of its configuration and its values.

    Lines that share a choice are spread a little; values are at their exact place between least and greatest.
    """
    complete = complete_trials(trials)
    if complete.empty:
        return empty_figure("No complete trial yet.")
    axes = [*axes_of_choices(complete, run), *_axes_of_values(complete, run)]
    places = {number: index for index, number in enumerate(complete["number"].tolist())}
    figure = go.Figure()
    for group in group_trials(complete):
        numbers = group.rows["number"].tolist()
        figure.add_scatter(
            x=[*range(len(axes)), None] * len(numbers),
            y=[y for one in numbers for y in (*(axis.place(places[one], one) for axis in axes), None)],
            mode="lines+markers" if group.prominent else "lines",
            name=group.label,
            line={"color": group.line, "width": 2 if group.prominent else 1, "dash": group.dash},
            opacity=0.35 if len(numbers) > MANY and not group.prominent else 1,
            legendgroup=group.label,
            showlegend=group.label not in {trace.name for trace in figure.data},
            marker={"symbol": group.symbol, "size": 7},
            customdata=[number for one in numbers for number in (*[one] * len(axes), None)],
            hovertemplate="%{text}<extra></extra>",
        )
    edges, labels, edge = [], [], {"color": EDGE, "width": 1}
    for index, axis in enumerate(axes):
        edges.append({"type": "line", "x0": index, "x1": index, "y0": -0.03, "y1": 1.03, "line": edge})
        for place, label in axis.ticks:
            angle = -90 if len(label) > _LONGEST_TICK else 0
            # Beside the axis: on it, the label would cover the lines' markers.
            labels.append(
                LABEL
                | {
                    "x": index,
                    "y": place,
                    "text": label,
                    "textangle": angle,
                    "borderpad": 2,  # or a dashed line that ends at it would look like a minus sign
                    "xanchor": "right",
                    "xshift": -7,
                }
            )
    style_figure(figure, "", "")
    return figure.update_layout(
        height=460,
        xaxis=category_axis([axis.title for axis in axes]) | {"showline": False, "ticks": ""},
        yaxis={"visible": False, "range": [-0.06, 1.06]},
        shapes=edges,
        annotations=labels,
    )


@dataclass(frozen=True)
class ParallelAxis:
    """One axis of parallel coordinates: the trials' places from 0 to 1.

    Attributes:
        title: Title of the axis.
        places: Place of each trial.
        ticks: Places with labels.
        gap: Height over which lines that share a choice are spread.
        choices: The choices in ascending order; empty for numbers.
        chosen: Choice of each trial; empty for numbers.
    """

    title: str
    places: list[float]
    ticks: list[tuple[float, str]]
    gap: float = 0.0
    choices: Sequence[str] = ()
    chosen: Sequence[str] = ()

    def place(self, index: int, number: int) -> float | None:
        """Return where the line of a trial crosses; lines that share a choice are spread by their numbers."""
        if math.isnan(self.places[index]):
            return None
        return round(self.places[index] + self.gap * spread(number), 4)


def spread(number: int) -> float:
    """Return an offset from -0.5 to 0.5 for each trial number, evenly spread over any range of numbers."""
    return number * _GOLDEN % 1 - 0.5


def axes_of_choices(complete: pd.DataFrame, run: RunRecord) -> list[ParallelAxis]:
    """Return an axis for each part of the configuration that varies: stages, their blocks and positions, the gate."""
    drawings = [draw_configuration(config, run.sites, run.attention) for config in complete["config"]]
    ranks = {_value(cell): cell.rank or 0 for one in drawings for stage in one for cell in stage.cells}

    def fewest_parameters_first(choice: str) -> tuple[int, int, str]:
        return (0, 0, "") if choice == _NONE else (1, -ranks[choice], "") if ranks.get(choice) else (2, 0, choice)

    axes = []
    used = [[[cell for cell in stage.cells if cell.label] for stage in drawing] for drawing in drawings]
    # One scale for all stages: a ratio has the same height on each axis.
    scale = sorted({_common_value(cells) for one in used for cells in one}, key=fewest_parameters_first)
    for index, stage in enumerate(drawings[0]):
        cells = [one[index] for one in used]
        axes.append(_choices(f"stage {stage.stage}", [_common_value(one) for one in cells], scale))
        counts = [len(one) for one in cells]
        if set(counts) - {0, len(stage.cells)}:
            axes.append(_choices(f"blocks {stage.stage}", list(map(str, counts)), list(map(str, sorted({*counts})))))
        positions = [one[0].position if one else _NONE for one in cells]
        if len(set(positions) - {_NONE}) > 1:
            axes.append(_choices(f"position {stage.stage}", positions, _none_first(positions)))
    gates = [gate or _NONE for gate in complete["gate"]]
    if len(set(gates) - {_NONE}) > 1:
        axes.append(_choices("gate", gates, _none_first(gates)))
    return axes


def _axes_of_values(complete: pd.DataFrame, run: RunRecord) -> list[ParallelAxis]:
    measured = [run.quality, OBJECTIVES["parameter_overhead"], OBJECTIVES["latency_ratio"]]
    return [
        _scale(one.short_title, (complete[one.name] * one.factor).tolist(), f"{{:.{min(one.decimals, 2)}f}}")
        for one in dict.fromkeys([*measured, *run.objectives])
    ]


def _value(cell: BlockDrawing) -> str:
    """Return the value of an option such as ``r=16``."""
    return cell.option.rpartition("=")[2] or "kept"


def _common_value(cells: Sequence[BlockDrawing]) -> str:
    values = {_value(cell) for cell in cells}
    return _NONE if not values else values.pop() if len(values) == 1 else "mixed"


def _none_first(chosen: Iterable[str]) -> list[str]:
    return sorted({*chosen}, key=lambda choice: (choice != _NONE, choice))


def _choices(title: str, chosen: list[str], choices: Sequence[str]) -> ParallelAxis:
    """Return an axis of choices in their order."""
    step = 1 / max(len(choices) - 1, 1)
    places = {choice: place * step if len(choices) > 1 else 0.5 for place, choice in enumerate(choices)}
    ticks = [(places[choice], cut(choice, 12)) for choice in choices[:: -(-len(choices) // _MOST_TICKS)]]
    return ParallelAxis(title, [places[one] for one in chosen], ticks, min(0.35 * step, 0.08), choices, chosen)


def _scale(title: str, values: list[float], pattern: str) -> ParallelAxis:
    """Return an axis of numbers in ascending order."""
    known = [value for value in values if math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    width = high - low
    places = [math.nan if not math.isfinite(value) else (value - low) / width if width > 0 else 0.5 for value in values]
    ends = ((0.0, low), (0.5, (low + high) / 2), (1.0, high)) if width > 0 else ((0.5, low),)
    return ParallelAxis(title, places, [(place, pattern.format(value)) for place, value in ends] if known else [])
