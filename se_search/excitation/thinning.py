"""Thin a trained network: evaluate it with some of its gates constant, without training."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from ..data.image_data import ImageData, ImageSet, sample
from ..errors import ConfigurationError
from ..network.folding import Fold, find_folds
from ..network.gates import find_gates, replaced_gates
from ..statistics import Estimate, confidence_of_each, crossed_difference
from ..training.evaluator import Evaluation, evaluate_network
from ..training.mean_gates import CALIBRATION_IMAGES, gate_moments
from ..training.protocols import ProgressBar
from ..training.recipe import TrainingRecipe
from ..words import counted
from .gates import ExcitedBlock, find_blocks


@dataclass(frozen=True)
class ConstantBlocks:
    """The network with some blocks constant, compared with the original network image by image.

    The intervals of all compared networks hold together at 95 %.

    Attributes:
        blocks: Names of the constant attention modules, in forward order.
        evaluation: Accuracy and log-loss on the images.
        accuracy_change: Accuracy minus that of the original network.
        log_loss_change: Log-loss minus that of the original network.
    """

    blocks: tuple[str, ...]
    evaluation: Evaluation
    accuracy_change: Estimate
    log_loss_change: Estimate


@dataclass(frozen=True)
class Thinnable:
    """A network's blocks that can become constant, and the network with some of them constant.

    Attributes:
        blocks: The blocks whose gate can be folded, in forward order.
        skipped: Why others cannot become constant, by the name of the block.
        gates: The mean gate of each block over calibration images, by the name of its module.
        spreads: How much each gate depends on the image, see :attr:`~se_search.training.mean_gates.GateMoments.spread`.
        folds: Where each gate is folded.
        intact: The original network on the images.
        compared: Each block alone, then growing sets of blocks.
    """

    blocks: tuple[ExcitedBlock, ...]
    skipped: Mapping[str, str]
    gates: Mapping[str, npt.NDArray[np.float64]]
    spreads: Mapping[str, float]
    folds: Mapping[str, Fold | str]
    intact: Evaluation
    compared: tuple[ConstantBlocks, ...]


def compare_constants(
    model: nn.Module,
    data: ImageData,
    images: ImageSet,
    recipe: TrainingRecipe,
    device: str,
    seed: int,
    progress_bar: ProgressBar,
) -> Thinnable:
    """Evaluate a network with single blocks constant, and with growing sets of them.

    A constant gate is its mean over calibration images. The sets grow in two orders: by how little a gate depends on
    the image, and by how little the log-loss rises with this block alone constant.

    Args:
        model: A network in evaluation mode on ``device``; it is not changed.
        data: Its data.
        images: Images to evaluate on.
        recipe: Batch size, precision and so on.
        device: A torch device.
        seed: Seed of the draw of calibration images.
        progress_bar: As :func:`se_search.progress.progress_bar`.

    Raises:
        ConfigurationError: If no block can become constant, with the reasons.
        DataError: If the network does not fit to the data.
        EvaluationError: If outputs are not finite.
    """
    found, other = find_blocks(model, data, recipe, device)
    folds = find_folds(model, [block.module for block in found], data.input_size)
    skipped = {one["block"]: one["reason"] for one in other}
    skipped |= {block.block: str(folds[block.module]) for block in found if isinstance(folds[block.module], str)}
    blocks = tuple(block for block in found if isinstance(folds[block.module], Fold))
    if not blocks:
        name, reason = next(iter(skipped.items()))
        raise ConfigurationError(f"no block of this {type(model).__name__} can become constant: {name}: {reason}")
    names = [block.module for block in blocks]
    gates = {name: gate for name, gate in find_gates(model).items() if name in names}
    with progress_bar("Thinning", 3 * len(blocks), 0) as advance:  # about one step per pass over the images
        moments = gate_moments(model, gates, sample(data.calibration, CALIBRATION_IMAGES, seed), recipe, device)
        means = {name: one.mean for name, one in moments.items()}
        spreads = {name: moments[name].spread for name in names}
        intact = evaluate_network(model, images, recipe.batch, device, recipe)
        advance(2, f"no block constant: log-loss {intact.log_loss.value:.4f}")
        evaluated: dict[tuple[str, ...], Evaluation] = {}

        def evaluate(chosen: Iterable[str]) -> None:
            some = set(chosen)
            key = tuple(name for name in names if name in some)
            line = None
            if key not in evaluated:
                with replaced_gates({name: gates[name] for name in key}, means):
                    evaluated[key] = evaluate_network(model, images, recipe.batch, device, recipe)
                what = key[0] if len(key) == 1 else counted(len(key), "block")
                line = f"{what} constant: log-loss {evaluated[key].log_loss.value:.4f}"
            advance(1, line)

        for name in names:
            evaluate([name])
        by_spread = sorted(names, key=spreads.__getitem__)
        by_loss = sorted(names, key=lambda name: evaluated[(name,)].log_loss.value)
        for order in (by_spread, by_loss):
            for count in range(2, len(order) + 1):
                evaluate(order[:count])
    level = confidence_of_each(len(evaluated))
    compared = tuple(
        ConstantBlocks(
            key,
            one,
            crossed_difference(one.correct, intact.correct, level),
            crossed_difference(one.losses, intact.losses, level),
        )
        for key, one in evaluated.items()
    )
    return Thinnable(blocks, skipped, means, spreads, folds, intact, compared)


def choose(compared: Sequence[ConstantBlocks], parameters: Sequence[int], tolerance: float) -> int | None:
    """Return the smallest network whose rise of log-loss is significantly below the tolerance; ``None`` without one.

    Args:
        compared: The networks.
        parameters: Parameters of each.
        tolerance: Largest rise of the log-loss, in nats: the end of the interval must be below it.
    """
    good = [index for index, one in enumerate(compared) if one.log_loss_change.high < tolerance]
    return min(good, key=lambda index: (parameters[index], compared[index].log_loss_change.value), default=None)
