"""The trainings of a verification, as files in the run folder."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RunFolderError
from ..files import read_text
from ..network.config import SEConfig
from ..study.objectives import Objective
from ..trials.folder import VERIFICATION
from ..trials.notes import unpack

_NAME = re.compile(r"(\w+)-epochs(\d+)-seed(\d+)", re.ASCII)


@dataclass(frozen=True)
class Outcomes:
    """Results of one training.

    Attributes:
        correct: Whether each test image was classified correctly, of shape (1, images).
        losses: Cross-entropy of each test image, of the same shape.
        validation: Accuracy and log-loss on the validation images by name; ``None`` for a training of version 0.1.0 or
            one that diverged.
        error: Why it diverged; empty if it did not.
        training_losses: Mean training loss of each epoch.
    """

    correct: npt.NDArray[np.bool_]
    losses: npt.NDArray[np.float32]
    validation: Mapping[str, float] | None
    error: str = ""
    training_losses: tuple[float, ...] = ()


def result_file(folder: Path, config: SEConfig, epochs: int, seed: int) -> Path:
    """Return the file with the result of one training."""
    return folder / VERIFICATION / f"{config.id}-epochs{epochs}-seed{seed}.json"


def weights_file(folder: Path, config: SEConfig, epochs: int, seed: int | None) -> Path:
    """Return the file with the weights of one training; without a seed the first's, as version 0.1.0 named it."""
    trained = "" if seed is None else f"-seed{seed}"
    return folder / VERIFICATION / f"{config.id}-epochs{epochs}{trained}.safetensors"


def read_outcomes(folder: Path, only: SEConfig | None = None) -> dict[int, dict[str, dict[int, Outcomes]]]:
    """Return the results by epochs, configuration and seed.

    Args:
        folder: A run folder.
        only: Read the results of this configuration only.

    Raises:
        RunFolderError: If a result is damaged.
    """
    found: dict[int, dict[str, dict[int, Outcomes]]] = {}
    images: dict[int, int] = {}
    for file in sorted((folder / VERIFICATION).glob(f"{only.id if only else ''}*.json")):
        name = _NAME.fullmatch(file.stem)
        if name is None:
            continue
        config, epochs, seed = name[1], int(name[2]), int(name[3])
        try:
            outcomes = _read(json.loads(read_text(file)))
        except Exception as error:  # a damaged file can raise anything on its way through JSON, base64, zlib and NumPy
            raise RunFolderError(f"{file} is damaged ({type(error).__name__}): delete it and verify again") from error
        count = outcomes.correct.shape[1]
        if count != images.setdefault(epochs, count):
            raise RunFolderError(f"{file} has other images than the results beside it: delete it and verify again")
        found.setdefault(epochs, {}).setdefault(config, {})[seed] = outcomes
    return found


def _read(content: Mapping[str, Any]) -> Outcomes:
    correct, losses, judged = unpack(content["correct"]), unpack(content["losses"]), content.get("validation")
    error = content.get("error", "")
    trained = tuple(float(epoch["loss"]) for epoch in content.get("epochs", []))
    validation = None if judged is None else {name: float(judged[name]) for name in ("accuracy", "log_loss")}
    if (
        not isinstance(error, str)
        or len(correct) != 1
        or len(losses) != 1
        or not all(map(math.isfinite, (*(validation or {}).values(), *trained)))
    ):
        raise ValueError("not the result of one training")
    return Outcomes(correct, losses, validation, error, trained)


def seed_to_export(results: Mapping[int, Outcomes], quality: Objective) -> int:
    """Return the seed of the training that is best on the validation images, the lowest seed among equal ones.

    Test images have no part in the choice, so the chosen training's result on them is not the best of several. Without
    validation values it is the first training, whose weights version 0.1.0 kept.

    Args:
        results: The trainings of one network by seed.
        quality: Accuracy or log-loss.
    """
    judged = {seed: one.validation[quality.name] for seed, one in sorted(results.items()) if one.validation}
    return max(judged, key=lambda seed: quality.sign * judged[seed]) if judged else min(results)
