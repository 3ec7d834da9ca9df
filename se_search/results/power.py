"""What the data of a run can show, with the noise seen in it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import optuna
from optuna.trial import FrozenTrial, TrialState

from ..data.folders import ImageCounts
from ..evidence.power import (
    SEARCH_NOISE,
    VERIFICATION_NOISE,
    Noise,
    Plan,
    Power,
    describe_power,
)
from ..network.config import SEConfig
from ..paired_power import typical_variances, variances_of
from ..study.definitions import StudyDefinition
from ..trials.notes import converting_foreign_trial_errors, unpack
from .trainings import read_outcomes
from .verified import without_gaps

_FEWEST = 3  # networks with SE from which on noise counts as seen
_MOST = 30

_Values = npt.NDArray[np.float64]


def power_of_run(definition: StudyDefinition, study: optuna.Study, folder: Path, counts: ImageCounts) -> Power:
    """Return what a run's data can show.

    The noise is that of the complete trials and of the verified networks against the one without SE, and assumed as
    long as there are fewer than three of them.

    Args:
        definition: The study.
        study: Its trials.
        folder: The run folder.
        counts: Numbers of images.

    Raises:
        RunFolderError: If trials or results are damaged.
    """
    plan = Plan(definition.budget, definition.evaluator.trainings)
    verified = _verified(folder, definition.backbone)
    if verified is not None:
        plan = replace(plan, seeds=verified[0], members=verified[1])
    search = _noise_of_search(study) or SEARCH_NOISE
    verification = verified[2] if verified else VERIFICATION_NOISE
    return describe_power(counts, definition.backbone, plan, search, verification)


def _noise_of_search(study: optuna.Study) -> Noise | None:
    with converting_foreign_trial_errors():
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        none = next((trial for trial in trials if trial.user_attrs["se_blocks"] == 0), None)
        others = [trial for trial in trials if trial.user_attrs["se_blocks"] > 0]
        if none is None or len(others) < _FEWEST:
            return None
        chosen = others[:: -(-len(others) // _MOST)]
        return _noise([_outcomes(trial) for trial in chosen], _outcomes(none))


def _outcomes(trial: FrozenTrial) -> tuple[_Values, _Values]:
    correct, losses = (unpack(trial.user_attrs[name]).astype(float) for name in ("correct", "losses"))
    return correct, losses


def _noise(networks: Sequence[tuple[_Values, _Values]], none: tuple[_Values, _Values]) -> Noise:
    block = none[0].shape[1] // none[1].shape[1]  # losses of many images are kept as means over blocks
    return Noise(
        typical_variances([variances_of(correct - none[0]) for correct, _ in networks]),
        typical_variances([variances_of(losses - none[1], block) for _, losses in networks]),
    )


def _verified(folder: Path, backbone: str) -> tuple[int, int, Noise] | None:
    """Return seeds, networks with SE and noise of the longest verification; ``None`` before two seeds are complete."""
    without_se = SEConfig.without_attention(backbone).id
    outcomes = read_outcomes(folder)
    if not outcomes:
        return None
    results = outcomes[max(outcomes)]
    seeds, configs = without_gaps(results, without_se)
    if len(seeds) < 2 or len(configs) < 2:
        return None
    stacked = {
        config: (
            np.concatenate([results[config][seed].correct for seed in seeds]).astype(float),
            np.concatenate([results[config][seed].losses for seed in seeds]).astype(float),
        )
        for config in configs
    }
    none = stacked.pop(without_se)
    return len(seeds), len(stacked), _noise(list(stacked.values()), none)
