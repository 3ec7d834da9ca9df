"""The tables of the SENet paper (Hu et al., journal version, arXiv:1709.01507v4) beside counted costs."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..network.config import SEConfig
from ..network.overhead import added_flops, added_parameters, backbone_costs, backbone_parameters, formula_by_stage
from .published import PublishedPair, published_pairs

ABLATIONS: Mapping[str, str] = {
    "ratio": "ratio",
    "squeeze": "squeeze",
    "gate": "gate",
    "stage": "stage",
    "position": "position",
    "extent": "extent",
}
"""What the paper's ablations vary, with the shipped space that varies the same."""

_MILLION, _GIGA = 1e6, 1e9
_SOURCE = "SENet paper (journal version), table "
_ABLATED = "resnet50"

_CONFIGS: Mapping[str, Callable[[str], SEConfig]] = {
    "ratio": lambda name: SEConfig.uniform(_ABLATED, int(name.removeprefix("r="))),
    "squeeze": lambda name: SEConfig.uniform(_ABLATED, squeeze=name),
    "gate": lambda name: SEConfig.uniform(_ABLATED, gate=name),
    "stage": lambda name: SEConfig.uniform(
        _ABLATED, stages=None if name == "all stages" else [int(name.removeprefix("stage "))]
    ),
    "position": lambda name: SEConfig.uniform(_ABLATED, position=name),
    "extent": lambda name: SEConfig.uniform(_ABLATED, extent=int(name.removeprefix("extent "))),
}
_NOT_IN_TIMM = {"BN-Inception", "ShuffleNet"}


@dataclass(frozen=True)
class PaperFigure:
    """One network in a table of the paper.

    Attributes:
        varies: The property that the table compares: one of :data:`ABLATIONS`, or ``backbone``.
        table: Number of the table.
        name: Its name there.
        config: The network.
        pair: Its accuracy beside that without SE; ``None`` for a network without SE.
        millions: Parameters in millions, to one decimal place; ``None`` if the table does not tell.
        giga_flops: Multiply-additions per image in 10⁹, to two or three decimal places; ``None`` likewise.
    """

    varies: str
    table: str
    name: str
    config: SEConfig
    pair: PublishedPair | None = None
    millions: float | None = None
    giga_flops: float | None = None


@dataclass(frozen=True)
class CountedFigure:
    """Counted costs of a network in the paper.

    Attributes:
        formula: Parameters in millions: the backbone's plus Σ 2C²/r.
        counted: Parameters of the network in millions, with timm's biases and rounding.
        giga_flops: Multiply-additions per image in 10⁹, at the network's default resolution.
    """

    figure: PaperFigure
    formula: float
    counted: float
    giga_flops: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON; ``published`` is what the table tells."""
        one = self.figure
        published = {"millions": one.millions, "giga_flops": one.giga_flops}
        return {
            "table": one.table,
            "varies": one.varies,
            "name": one.name,
            "config": one.config.to_dict(),
            "published": published | {"accuracy": one.pair and one.pair.to_json()},
            "formula_millions": self.formula,
            "counted_millions": self.counted,
            "counted_giga_flops": self.giga_flops,
        }


def paper_pairs() -> tuple[PublishedPair, ...]:
    """Return the pairs of the paper's tables without ablations, also of networks that timm lacks."""
    return tuple(pair for pair in published_pairs() if pair.source.startswith(_SOURCE) and not pair.varies)


def published_figures() -> Iterator[PaperFigure]:
    """Yield the networks of the paper's ablations, then those of its tables 2 and 3 that timm has."""
    for varies in ABLATIONS:
        pairs = [pair for pair in published_pairs() if pair.varies == varies]
        without = pairs[0]
        yield PaperFigure(
            varies, _table(without), "no SE", SEConfig(_ABLATED), None, without.params_m_without, without.gflops_without
        )
        for pair in pairs:
            name, config = f"SE, {pair.with_attention}", _CONFIGS[varies](pair.with_attention)
            yield PaperFigure(varies, _table(pair), name, config, pair, pair.params_m_with, pair.gflops_with)
    for pair in paper_pairs():
        if pair.dataset == "ImageNet-1k" and pair.without not in _NOT_IN_TIMM:
            plain, with_se = SEConfig(pair.without), SEConfig.uniform(pair.without, position="default")
            table = _table(pair)
            yield PaperFigure("backbone", table, pair.without, plain, None, pair.params_m_without, pair.gflops_without)
            yield PaperFigure(
                "backbone", table, pair.with_attention, with_se, pair, pair.params_m_with, pair.gflops_with
            )


def _table(pair: PublishedPair) -> str:
    return pair.source.removeprefix(_SOURCE)


def count_figure(figure: PaperFigure) -> CountedFigure:
    """Count parameters and FLOPs of a published network."""
    backbone = backbone_parameters(figure.config.backbone)
    return CountedFigure(
        figure,
        (backbone + sum(formula_by_stage(figure.config).values())) / _MILLION,
        (backbone + added_parameters(figure.config)) / _MILLION,
        (backbone_costs(figure.config.backbone).flops + added_flops(figure.config)) / _GIGA,
    )


def command_for(varies: str, data: str = "path/to/images") -> str:
    """Return the command that runs an ablation of the paper on the user's images.

    Args:
        varies: One of :data:`ABLATIONS`.
        data: The images.
    """
    words = ("se-search", "run", "--backbone", _ABLATED, "--data", data, "--space", ABLATIONS[varies])
    return shlex.join(words)
