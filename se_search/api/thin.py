"""Thin a trained network: which of its attention blocks can become constants, at what loss and what gain."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import timm
from torch import nn

from ..data.image_data import ImageData, ImageSet, sample
from ..data.load import published_name
from ..deployment.deployment import Deployment
from ..devices import check_device
from ..errors import ConfigurationError, as_given
from ..excitation.observations import TOLERANCE
from ..excitation.thinning import ConstantBlocks, Thinnable, choose, compare_constants
from ..export.card import Origin, Result
from ..export.timm_folder import Exported, export_timm
from ..files import plain
from ..latency.meter import LatencyMeter, Ratio
from ..latency.stopping import TARGET
from ..memory import memory_told
from ..network.backbones import copy_network
from ..network.config import SEConfig
from ..network.folding import fold_gates
from ..network.insertion import count_parameters
from ..progress import progress_bar
from ..results.front import Judged, Measured, TrialValues, find_front
from ..statistics import CONFIDENCE, Estimate, crossed_difference, normal_quantile
from ..training.evaluator import Evaluation, evaluate_network
from ..training.protocols import ProgressBar
from ..training.recipe import TrainingRecipe
from ..words import counted, percent
from .networks import TrainedNetwork, find_network
from .origin import image_settings
from .run import Run

_AT_CHANCE = (
    "The network performs at chance level on these images: {} accuracy with {} classes. The effect of its blocks "
    "cannot be measured."
)


@dataclass(frozen=True)
class Thinning:
    """What :func:`thin` found. It has no trials and no training that could resume, so it is not a :class:`Run`.

    Attributes:
        name: The network, in words.
        images: Number of validation images.
        data: Name of the data.
        table: One row for each compared network: ``blocks`` that are constant, ``parameters``, ``parameter_change`` as
            a share, ``accuracy_change`` and ``log_loss_change`` against the original network with the ends of their
            intervals (``…_low``, ``…_high``), ``latency_ratio`` likewise with ``latency_low`` and ``latency_high`` if
            it was measured, whether it is on the ``front`` and whether it is ``chosen``.
        blocks: One row for each block that can become constant: ``block``, its gate's ``spread`` over images and the
            ``log_loss_change`` with its interval if this block alone is constant.
        skipped: Why other blocks cannot become constant, by block.
        tolerance: Largest rise of the log-loss of a chosen network, in nats.
        conditions: How latency was measured, in words; empty if it was not.
        confirmed: The change of the chosen network's log-loss on the test images, which did not choose it; ``None`` if
            none is chosen.
        caution: What limits the result, in one sentence; empty if nothing does.
    """

    name: str
    data: str
    images: int
    table: pd.DataFrame = field(repr=False)
    blocks: pd.DataFrame = field(repr=False)
    skipped: dict[str, str]
    tolerance: float
    conditions: str
    confirmed: Estimate | None
    caution: str
    _found: TrainedNetwork = field(repr=False)
    _thinnable: Thinnable = field(repr=False)

    @property
    def chosen(self) -> int | None:
        """Row of the smallest network whose rise of log-loss is significantly below the tolerance."""
        rows = self.table.index[self.table["chosen"]]
        return int(rows[0]) if len(rows) else None

    @property
    def criterion(self) -> str:
        """The rule for the chosen network, which is the smallest one, in words."""
        return (
            f"rise of log-loss significantly below {self.tolerance:g} (paired interval on {self.images} images, "
            f"corrected for {counted(len(self.table), 'network')})"
        )

    def network(self, row: int | None = None) -> nn.Module:
        """Return the folded network of a row; by default of the chosen one.

        Raises:
            ConfigurationError: If there is no such row, or none is chosen.
        """
        row = self.chosen if row is None else row
        if row is None:
            raise ConfigurationError(f"no network is chosen: none has a {self.criterion}; give a row of the table")
        if row not in self.table.index:
            raise ConfigurationError(f"row {row} does not exist: the table has rows 0 to {len(self.table) - 1}")
        return _folded(self._found, self._thinnable, self._thinnable.compared[row])

    def export(
        self, to: str | os.PathLike[str] = "thinned", row: int | None = None, formats: Sequence[str] = ()
    ) -> Exported:
        """Export a row's network as a timm folder; by default the chosen one.

        Args:
            to: Output folder; new, empty or of an earlier export.
            row: A row of the table.
            formats: As in :func:`se_search.export_timm`.

        Raises:
            ConfigurationError: As :meth:`network`, or if timm does not know the network.
            ExportError: If the network cannot be exported in this form.
            RunFolderError: If the folder cannot be used.
        """
        network = self.network(row)
        values = self.table.loc[self.chosen if row is None else row]
        images = self._found.data
        origin = (
            f"Weights of {self._found.source}, without training: {counted(len(values['blocks']), 'attention block')} "
            f"({', '.join(values['blocks'])}) became constant, the mean of the gate over training images of "
            f"{published_name(images.name)}, and were folded into the weights beside them."
        )
        change = Result(
            "log-loss against the original network",
            "{:+.4f} [{:+.4f}, {:+.4f}]".format(*(values[f"log_loss_change{end}"] for end in ("", "_low", "_high"))),
            f"{self.images} validation images of {published_name(images.name)}, paired, 95 % interval",
        )
        return export_timm(
            network,
            to,
            **image_settings(images),
            description=origin,
            origin=Origin(origin, results=(change,)),
            formats=formats,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        confirmed = self.confirmed
        return {
            "network": self.name,
            "data": self.data,
            "images": self.images,
            "networks": plain(self.table),
            "blocks": plain(self.blocks),
            "skipped": self.skipped,
            "tolerance": self.tolerance,
            "criterion": self.criterion,
            "chosen": self.chosen,
            "latency": self.conditions or None,
            "confirmed": confirmed and [confirmed.value, confirmed.low, confirmed.high],
            "caution": self.caution or None,
        }


@memory_told()
def thin(  # noqa: PLR0913
    model: str | os.PathLike[str] | Run | nn.Module,
    data: str | ImageData | None = None,
    *,
    pick: str | None = None,
    trial: int | None = None,
    verified: bool = False,
    pretrained: str | None = None,
    images: int | None = None,
    tolerance: float = TOLERANCE,
    limit: float = 1.0,
    seed: int = 0,
    device: str = "cpu",
    progress_bar: ProgressBar = progress_bar,
) -> Thinning:
    """Find which attention blocks of a trained network can become constants; ``se-search thin`` calls this.

    A block becomes constant if its gate is replaced by its mean over training images. It then is a factor in the
    weights beside it and costs nothing. Nothing is trained. All arguments but the first two are independent options.

    Args:
        model: A run folder, an exported folder, a timm architecture name, or a network.
        data: Images of the network's classes, named as in a study; by default those of the run.
        pick: For a run, as in :meth:`Run.config`; ``"knee"`` by default.
        trial: For a run, as in :meth:`Run.config`.
        verified: For a run, use the weights of the longest verification instead of the search's.
        pretrained: Weights of a timm architecture: ``"timm"``, ``"local-dir:FOLDER"``, ``"hf-hub:NAME"`` or the path
            of a checkpoint.
        images: Number of validation images, drawn at random; by default all.
        tolerance: Largest rise of the log-loss of the chosen network, in nats.
        limit: Time limit of each measurement of latency, in seconds; 0 measures none.
        seed: Seed of the draws of images and of the order of calls.
        device: A torch device.
        progress_bar: As :func:`se_search.progress.progress_bar`, the default.

    Raises:
        SeSearchError: If an argument is invalid, or no block can become constant.
    """
    if images is not None and images < 2:
        raise ConfigurationError(f"{as_given('images')} is {images}: it must be at least 2")
    if not 0 <= seed < 2**63:
        raise ConfigurationError(f"{as_given('seed')} is {seed}: it must be at least 0 and below 2^63")
    for name, value in (("tolerance", tolerance), ("limit", limit)):
        if not 0 <= value < float("inf"):
            raise ConfigurationError(f"{as_given(name)} is {value}: it must be a finite number of at least 0")
    check_device(device)
    found = find_network(model, data, pick, trial, verified, pretrained)
    found = replace(found, network=copy_network(found.network))  # a network of the user's stays as it is
    network, recipe = found.network, found.recipe or TrainingRecipe(epochs=0, batch=64, learning_rate=0.0)
    if not isinstance(getattr(network, "se_config", None), SEConfig) and timm.is_model(found.backbone or ""):
        network.se_config = SEConfig(str(found.backbone))  # type: ignore[assignment]  # for the export
    judged: ImageSet = found.data.validation if images is None else sample(found.data.validation, images, seed)
    network.to(device).eval()
    thinnable = compare_constants(network, found.data, judged, recipe, device, seed, progress_bar)
    compared = thinnable.compared
    parameters = _parameters(network, compared)
    guesses = thinnable.intact.accuracy.low <= 1 / found.data.classes
    chosen = None if guesses else choose(compared, parameters, tolerance)
    ratios = _measure(found, thinnable, device, limit, seed, progress_bar) if limit else []
    confirmed = None if chosen is None else _confirm(found, thinnable, compared[chosen], judged, recipe, device)
    network.cpu()
    return Thinning(
        found.name,
        found.data.name,
        len(judged),
        _table(compared, parameters, count_parameters(network), ratios, chosen),
        _blocks(thinnable),
        dict(thinnable.skipped),
        tolerance,
        ratios[0].conditions.description if ratios else "",
        confirmed,
        _AT_CHANCE.format(percent(thinnable.intact.accuracy.value), found.data.classes) if guesses else "",
        found,
        thinnable,
    )


def _folded(found: TrainedNetwork, thinnable: Thinnable, one: ConstantBlocks) -> nn.Module:
    gates = {name: thinnable.gates[name] for name in one.blocks}
    return fold_gates(found.network, gates, found.data.input_size, thinnable.folds).eval()


def _parameters(network: nn.Module, compared: Sequence[ConstantBlocks]) -> list[int]:
    """Return the parameters of each folded network: those of its constant blocks are gone."""
    whole = count_parameters(network)
    return [whole - sum(count_parameters(network.get_submodule(name)) for name in one.blocks) for one in compared]


def _measure(
    found: TrainedNetwork, thinnable: Thinnable, device: str, limit: float, seed: int, progress_bar: ProgressBar
) -> list[Ratio]:
    """Return the latency ratio of each folded network over the original one."""
    deployment = Deployment(device=device, size=found.data.input_size)
    meter = LatencyMeter(found.network, deployment, TARGET, limit, seed)
    ratios = []
    with progress_bar("Measuring latency", len(thinnable.compared), 0) as advance:
        for one in thinnable.compared:
            ratios.append(meter.measure(_folded(found, thinnable, one)))
            advance(1, f"{counted(len(one.blocks), 'block')} constant: latency ratio {ratios[-1].median:.4f}")
    return ratios


def _confirm(
    found: TrainedNetwork,
    thinnable: Thinnable,
    chosen: ConstantBlocks,
    judged: ImageSet,
    recipe: TrainingRecipe,
    device: str,
) -> Estimate:
    """Return the change of the log-loss on the test images, after a check that folding changed nothing else."""
    folded = _folded(found, thinnable, chosen).to(device)
    again = evaluate_network(folded, judged, recipe.batch, device, recipe)
    if recipe.precision == "float32" and not np.allclose(again.losses, chosen.evaluation.losses, atol=1e-3, rtol=1e-3):
        raise ConfigurationError(
            f"the folded {type(folded).__name__} has other outputs than with constant gates: its forward pass does not "
            "follow the trace"
        )
    after, before = (_on_test(model, found, recipe, device) for model in (folded, found.network))
    return crossed_difference(after.losses, before.losses)


def _on_test(model: nn.Module, found: TrainedNetwork, recipe: TrainingRecipe, device: str) -> Evaluation:
    return evaluate_network(model, found.data.test, recipe.batch, device, recipe)


def _table(
    compared: Sequence[ConstantBlocks],
    parameters: Sequence[int],
    whole: int,
    ratios: Sequence[Ratio],
    chosen: int | None,
) -> pd.DataFrame:
    rows = []
    for index, one in enumerate(compared):
        row: dict[str, Any] = {
            "blocks": one.blocks,
            "parameters": parameters[index],
            "parameter_change": parameters[index] / whole - 1,
        }
        row |= _columns("accuracy_change", one.accuracy_change) | _columns("log_loss_change", one.log_loss_change)
        if ratios:
            ratio = ratios[index]
            row |= {"latency_ratio": ratio.median, "latency_low": ratio.low, "latency_high": ratio.high}
        rows.append(row | {"chosen": index == chosen})
    table = pd.DataFrame(rows)
    table["front"] = _front(compared, parameters, ratios)
    return table


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _front(compared: Sequence[ConstantBlocks], parameters: Sequence[int], ratios: Sequence[Ratio]) -> list[bool]:
    """Return which networks are on the front of log-loss, parameters and, if measured, latency."""
    values = [[float(number) for number in parameters], [one.evaluation.log_loss.value for one in compared]]
    uncertain: dict[int, Judged | Measured] = {1: Judged([one.evaluation.losses for one in compared], -1)}
    if ratios:
        medians = np.array([one.median for one in ratios])
        errors = medians * np.log([one.high / one.low for one in ratios]) / 2 / normal_quantile(CONFIDENCE)
        values.append(medians.tolist())
        uncertain[2] = Measured(medians, np.diag(errors**2))
    columns = np.array(values).T
    return find_front(TrialValues(columns, uncertain, columns[:, 0])).members.tolist()


def _blocks(thinnable: Thinnable) -> pd.DataFrame:
    alone = {one.blocks[0]: one for one in thinnable.compared if len(one.blocks) == 1}
    return pd.DataFrame(
        {
            "block": block.block,
            "module": block.module,
            "stage": block.stage,
            "spread": thinnable.spreads[block.module],
            **_columns("log_loss_change", alone[block.module].log_loss_change),
        }
        for block in thinnable.blocks
    )
