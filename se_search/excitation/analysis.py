"""Analysis of the role of excitation: what the gates of attention blocks do, and which blocks are idle.

It follows section 7.2 of the journal version of the SENet paper, with numbers and intervals where the paper shows
figures.
"""

import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from torch import nn
from torch.utils.data import Subset, TensorDataset

from ..data.image_data import ImageData, ImageSet, sample
from ..data.image_sources import ImageFiles
from ..devices import check_device
from ..errors import ConfigurationError, DataError, did_you_mean
from ..memory import memory_told
from ..network.config import SEConfig
from ..statistics import CONFIDENCE, confidence_of_each, crossed_difference
from ..training.evaluator import evaluate_network
from ..training.protocols import ProgressBar, no_progress
from ..training.recipe import TrainingRecipe
from ..words import percent
from .gate_statistics import CONSTANT, LEAST_IMAGES, NEAR_ONE, comparable_classes, gate_statistics
from .gates import find_blocks, find_gates, mean_gates, read_gates, replaced_gates
from .observations import (
    CLASS_SPECIFIC,
    MOST,
    SAME_PATTERN,
    TOLERANCE,
    GateChange,
    find_observations,
    in_words,
    last_stage,
    listed,
    rounded,
)

SHOWN_CHANNELS = 50
"""Number of channels to show per block, as in the paper."""

CHOSEN_CLASSES = 4
_LONGEST_NAME = 60

_SHARES = ("specificity", "near_one", "constant", "similarity")
_Values = npt.NDArray[np.float64]
_Gates = npt.NDArray[np.float32]


@memory_told()
def analyze_gates(  # noqa: PLR0913
    model: nn.Module,
    data: ImageData,
    split: Literal["validation", "test"] = "test",
    *,
    classes: Sequence[str | int] | None = None,
    channels: int = SHOWN_CHANNELS,
    images: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    recipe: TrainingRecipe | None = None,
    progress_bar: ProgressBar = no_progress,
) -> dict[str, Any]:
    """Analyse the role of excitation in a network; ``se-search excitation`` shows the result.

    One pass over the images stores every gate value in single precision: 4 bytes × images × channels of all blocks
    (3 GB for ``seresnet50`` on 50,000 images; ``images`` limits their number). One more pass per block evaluates the
    network under mean ablation: the block's gates are replaced by their means over other images, those of
    ``data.calibration``.

    The arguments after ``split`` are independent settings, each with a default.

    Args:
        model: A network with attention. It is in evaluation mode during the call.
        data: Images of the network's classes.
        split: The images to analyse. The network should not have been trained on them.
        classes: Names or indices of at least two classes to show; by default the four that differ most.
        channels: Number of channels to show per block, drawn at random.
        images: Number of images to analyse, drawn at random; by default all.
        seed: Seed of these draws.
        device: A torch device.
        recipe: Provides batch size, precision, memory format and number of loader processes.
        progress_bar: As :func:`se_search.progress.progress_bar`.

    Returns:
        JSON data; ``docs/excitation.md`` describes the keys. Estimates are ``[value, low, high]``.

    Raises:
        ConfigurationError: If no block has a gate that can be analysed, or a number is out of range.
        DataError: If a class is unknown or has too few images, or the network has another number of classes.
        DefinitionError: If PyTorch does not see the device.
        EvaluationError: If the network's outputs are not finite or memory runs out.
    """
    began = time.perf_counter()
    for name, number in (("channels", channels), ("images", images)):
        if number is not None and number < 1:
            raise ConfigurationError(f"{name} is {number}: it must be at least 1")
    if not 0 <= seed < 2**63:
        raise ConfigurationError(f"seed is {seed}: it must be at least 0 and below 2^63")
    check_device(device)
    recipe = recipe or TrainingRecipe(epochs=0, batch=64, learning_rate=0.0)
    asked = None if classes is None else find_classes(classes, data)
    judged: ImageSet = data.test if split == "test" else data.validation
    judged = judged if images is None else sample(judged, images, seed)
    known = _known_labels(judged)
    if known is not None:
        _comparable_classes(known, data, asked)
    modes, home = {module: module.training for module in model.modules()}, next(model.parameters()).device
    try:
        model.to(device).eval()
        blocks, skipped = find_blocks(model, data, recipe, device)
        gates = {name: gate for name, gate in find_gates(model).items() if name in [one.module for one in blocks]}
        with progress_bar("Analysing excitation", len(blocks) + 4, 0) as advance:  # one step per pass over the images
            values, labels = read_gates(model, gates, judged, recipe, device)
            advance(1)
            chosen = _choose_classes(values, labels, _comparable_classes(labels, data, asked), asked)
            means = mean_gates(model, gates, sample(data.calibration, len(judged), seed), recipe, device)
            advance(1)
            intact = evaluate_network(model, judged, recipe.batch, device, recipe)
            advance(1)

            confidence = confidence_of_each(len(blocks))
            last = last_stage(blocks)
            changes = []
            for some in [*([block] for block in blocks), *([last] if last else [])]:
                with replaced_gates({block.module: gates[block.module] for block in some}, means):
                    changed = evaluate_network(model, judged, recipe.batch, device, recipe)
                level = CONFIDENCE if some is last else confidence
                changes.append(
                    GateChange(
                        crossed_difference(changed.correct, intact.correct, level),
                        crossed_difference(changed.losses, intact.losses, level),
                    )
                )
                advance(1)
    finally:
        for module, training in modes.items():
            module.training = training
        model.to(home)
    statistics = [gate_statistics(values[block.module], labels, seed) for block in blocks]
    last_change = changes[-1] if last else None
    guesses = intact.accuracy.low <= 1 / data.classes
    at_chance = (
        f"The network performs at chance level: its accuracy of {in_words(intact.accuracy)} is not significantly above "
        f"{percent(1 / data.classes, 1)}, the accuracy of guessing among {data.classes} classes. The effect of its "
        "blocks cannot be measured."
    )
    described = []
    for depth, (block, of_block, change) in enumerate(zip(blocks, statistics, changes, strict=False), 1):
        drawn = np.sort(np.random.default_rng((seed, depth)).permutation(block.channels)[:channels])
        described.append(
            {
                **{name: value for name, value in asdict(block).items() if name != "module"},
                "depth": depth,
                **_activations(values[block.module], labels, drawn, chosen),
                # An unbiased estimate of a share can be slightly negative; a share is not.
                **{name: [max(one, 0.0) for one in listed(getattr(of_block, name))] for name in _SHARES},
                **change.listed(),
                "verdict": "cannot be told" if guesses else change.verdict,
            }
        )
    config = getattr(model, "se_config", None)
    return {
        "model": type(model).__name__,
        "backbone": config.backbone if isinstance(config, SEConfig) else None,
        "source": f"a {type(model).__name__}",
        "config": config.to_dict() if isinstance(config, SEConfig) else None,
        "data": {"name": data.name, "split": split, "images": len(labels), "classes": data.classes},
        "seed": seed,
        "seconds": round(time.perf_counter() - began, 1),
        "device": device,
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("se-search", "torch", "timm", "numpy")},
        "classes": [{"index": one, "name": class_name(data, one)} for one in chosen],
        "pair": chosen[:2],
        "accuracy": listed(intact.accuracy),
        "log_loss": listed(intact.log_loss),
        "tolerance": TOLERANCE,
        "thresholds": {
            "constant": CONSTANT,
            "near_one": NEAR_ONE,
            "class_specific": CLASS_SPECIFIC,
            "same_pattern": SAME_PATTERN,
            "most": MOST,
            "least_images": LEAST_IMAGES,
            "confidence": CONFIDENCE,
            "removal_confidence": round(confidence, 6),
        },
        "blocks": described,
        "skipped": skipped,
        "last_stage": last_change
        and {"stage": last[0].stage, "blocks": [block.block for block in last], **last_change.listed()},
        "observations": find_observations(blocks, statistics, last, last_change, guesses),
        "cautions": [at_chance] if guesses else [],
        "idle": [one["block"] for one in described if one["verdict"] == "idle"],
    }


def class_name(data: ImageData, index: int) -> str:
    """Return the name of a class, or its index if it has no name."""
    return str(index) if data.label_names is None else data.label_names[index]


def find_classes(classes: Sequence[str | int], data: ImageData) -> list[int]:
    """Return the indices of classes given by name or index; a name takes precedence over an index.

    Raises:
        DataError: If a class is unknown or given twice, or there are fewer than two.
    """
    names = {class_name(data, index): index for index in reversed(range(data.classes))}
    indices = {str(index): index for index in range(data.classes)}
    found = []
    for one in classes:
        text = str(one).strip()
        known = indices if isinstance(one, int) else indices | names
        if text not in known:
            text = text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"
            raise DataError(
                f"class {text!r} is unknown: {data.name} has {data.classes} classes; give a name or an index from 0 "
                f"to {data.classes - 1}{did_you_mean(text, names)}"
            )
        found.append(known[text])
    if len(found) < 2 or len(set(found)) < len(found):
        raise DataError(f"classes {', '.join(map(str, classes))} cannot be compared: give at least two different ones")
    return found


def _known_labels(images: ImageSet) -> npt.NDArray[np.int64] | None:
    """Return the class of each image, or ``None`` if that requires reading the images."""
    if isinstance(images, Subset):
        labels = _known_labels(cast("ImageSet", images.dataset))
        return None if labels is None else labels[np.asarray(images.indices)]
    if isinstance(images, TensorDataset):
        return np.asarray(images.tensors[1])
    if isinstance(images, ImageFiles):
        return np.asarray(images.source.labels)[np.asarray(images.indices)]
    return None


def _comparable_classes(
    labels: npt.NDArray[np.int64], data: ImageData, asked: Sequence[int] | None
) -> npt.NDArray[np.int64]:
    """Return the classes with enough images to compare, or ``asked`` if it is given.

    Raises:
        DataError: If fewer than two classes, or not all of those asked for, have enough images.
    """
    counts = np.bincount(labels, minlength=data.classes)
    for one in asked or ():
        if counts[one] < LEAST_IMAGES:
            raise DataError(
                f"class {class_name(data, one)!r} has {counts[one]} images: at least {LEAST_IMAGES} are needed"
            )
    return np.array(asked) if asked else comparable_classes(labels)


def _choose_classes(
    values: Mapping[str, _Gates],
    labels: npt.NDArray[np.int64],
    candidates: npt.NDArray[np.int64],
    asked: Sequence[int] | None,
) -> list[int]:
    """Return the classes to show, starting with the two that differ most.

    The distance of two classes is the squared distance of their mean gates per channel, summed over blocks. Each
    further class is the one with the largest distance to its nearest chosen class.
    """
    distance = np.zeros((candidates.size, candidates.size))
    for gates in values.values():
        means = np.stack([gates[labels == one].mean(0, dtype=np.float64) for one in candidates])
        square = np.sum(means**2, 1)
        distance += (square[:, None] + square - 2 * means @ means.T) / gates.shape[1]
    np.fill_diagonal(distance, -1.0)
    first, second = np.unravel_index(int(distance.argmax()), distance.shape)
    chosen = sorted((int(first), int(second)))
    while len(chosen) < min(CHOSEN_CLASSES if asked is None else len(asked), candidates.size):
        nearest = distance[:, chosen].min(1)
        nearest[chosen] = -np.inf
        chosen.append(int(nearest.argmax()))
    return [int(candidates[one]) for one in chosen]


def _activations(
    gates: _Gates, labels: npt.NDArray[np.int64], shown: npt.NDArray[np.int64], classes: Sequence[int]
) -> dict[str, Any]:
    parts = {str(one): gates[np.ix_(labels == one, shown)].astype(np.float64) for one in classes}
    means = {name: _rounded(part.mean(0)) for name, part in parts.items()}
    return {
        "shown": shown.tolist(),
        "activation": {"all": _rounded(gates[:, shown].mean(0, dtype=np.float64)), **means},
        "pair": {
            name: {"mean": means[name], "std": _rounded(parts[name].std(0, ddof=1))} for name in map(str, classes[:2])
        },
        "mean": rounded(float(gates.mean(dtype=np.float64))),
    }


def _rounded(values: _Values) -> list[float]:
    return [rounded(float(one)) for one in values]
