"""Where the weights of a found network come from, as its model card says it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from timm.models import get_pretrained_cfg_value

from ..data.image_files import PREFIXES
from ..export.card import Origin, Result
from ..report.measures import interval_of, with_interval, write_value
from ..results.record import RunRecord
from ..study.objectives import OBJECTIVES
from ..trials.notes import PREDICTED
from ..words import by, counted


def published_name(data: str) -> str:
    """Return the name of a study's data without the path of a machine: a card may be read by everybody.

    ``"/home/me/pets"`` is ``"pets"``, ``"wds//home/me/pets"`` is ``"wds/pets"``, and ``"hfds/me/pets"`` stays.
    """
    prefix = next((prefix for prefix in PREFIXES if data.startswith(prefix)), "")
    path = PurePath(data.removeprefix(prefix))
    return prefix + path.name if path.is_absolute() else data


def origin_of_trial(trial: Mapping[Any, Any], run: RunRecord, verified: bool = False) -> Origin:
    """Return the origin of a trial's weights.

    Args:
        trial: Its row, in the columns of ``trials.csv``.
        run: The description of the run.
        verified: Whether the weights are those of its verification, instead of those that the search evaluated.
    """
    data, latency = replace(run.data, name=published_name(run.data.name)), run.latency
    assert latency is not None  # noqa: S101  # for mypy: a run with a complete trial has one
    prefix = "verified_" if verified else ""
    judged = f"{data.test} test images" if verified else f"{data.validation} validation images"
    if verified:
        images = (
            f"{judged} of {data.name} that neither training nor the search saw, 95 % interval; mean over "
            f"{counted(int(trial['verified_seeds']), 'training seed')}, of which the first gave these weights"
        )
    else:
        images = (
            f"{judged} of {data.name} that no training step saw, 95 % interval; the "
            "search compared configurations on them: this ranks configurations and does not tell what one reaches when "
            "it is trained on its own"
        )
    size = by(latency.size)
    if trial["latency_stopped"] == PREDICTED:
        how = (
            f"predicted by an additive model of {run.latency_learned_from} measured configurations, 95 % prediction "
            "interval"
        )
    else:
        how = f"{counted(int(trial['latency_pairs']), 'pair')} of calls, 95 % interval"
    timed = f"time over that of the bare backbone, {how}; {latency.description}"
    added = write_value(trial["flops_overhead"], OBJECTIVES["flops_overhead"])
    evaluator = run.evaluator
    epochs = int(trial["verified_epochs"]) if verified else evaluator.epochs
    seen = f"saw {data.train} training images of {data.name} for {counted(epochs, 'epoch')}"
    weights = evaluator.describe_verified_weights(seen) if verified else evaluator.describe_weights(seen, data.name)
    published = evaluator.starts_from_published_weights
    return Origin(
        weights,
        get_pretrained_cfg_value(run.backbone, "license") if published else None,
        results=(
            Result("accuracy", _estimate(trial, "accuracy", prefix), images),
            Result("log-loss", _estimate(trial, "log_loss", prefix), f"the same {judged}"),
            Result("latency ratio", _estimate(trial, "latency_ratio"), timed),
            Result("multiply-additions", added, f"counted at {size}, over the backbone's"),
        ),
    )


def _estimate(trial: Mapping[Any, Any], name: str, prefix: str = "") -> str:
    return with_interval(interval_of(trial, OBJECTIVES[name], prefix), OBJECTIVES[name])
