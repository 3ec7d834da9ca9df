"""Origin of the weights of an exported network, for its model card."""

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
    """Return the name of a study's data without local paths, because cards are public.

    ``"/home/me/pets"`` becomes ``"pets"``, ``"wds//home/me/pets"`` ``"wds/pets"``; ``"hfds/me/pets"`` is unchanged.
    """
    prefix = next((prefix for prefix in PREFIXES if data.startswith(prefix)), "")
    path = PurePath(data.removeprefix(prefix))
    return prefix + path.name if path.is_absolute() else data


def origin_of_trial(trial: Mapping[Any, Any], run: RunRecord, verified: bool = False) -> Origin:
    """Return the origin of a trial's weights.

    Args:
        trial: Its row, in the columns of ``trials.csv``.
        run: The description of the run.
        verified: Whether the weights are those of its verification, not those of the search.
    """
    data, latency, evaluator = replace(run.data, name=published_name(run.data.name)), run.latency, run.evaluator
    assert latency is not None  # noqa: S101  # for mypy: a run with a complete trial has one
    judged = f"{data.test} test images" if verified else f"{data.validation} validation images"
    if verified:
        images = (
            f"{judged} of {data.name} that neither training nor the search used, 95 % interval; mean over "
            f"{counted(int(trial['verified_seeds']), 'training seed')}, the first of which gave these weights"
        )
    else:
        images = (
            f"{judged} of {data.name} that training did not use, 95 % interval; the search compared configurations on "
            "them, so the value ranks configurations and does not predict the result of independent training"
        )
    if trial["latency_stopped"] == PREDICTED:
        how = (
            f"predicted by an additive model of {run.latency_learned_from} measured configurations, 95 % prediction "
            "interval"
        )
    else:
        how = f"{counted(int(trial['latency_pairs']), 'pair')} of calls, 95 % interval"
    epochs = int(trial["verified_epochs"]) if verified else evaluator.epochs
    seen = f"saw {data.train} training images of {data.name} for {counted(epochs, 'epoch')}"
    prefix, flops = "verified_" if verified else "", OBJECTIVES["flops_overhead"]
    return Origin(
        evaluator.describe_verified_weights(seen) if verified else evaluator.describe_weights(seen, data.name),
        get_pretrained_cfg_value(run.backbone, "license") if evaluator.starts_from_published_weights else None,
        results=(
            Result("accuracy", _estimate(trial, "accuracy", prefix), images),
            Result("log-loss", _estimate(trial, "log_loss", prefix), f"the same {judged}"),
            Result(
                "latency ratio",
                _estimate(trial, "latency_ratio"),
                f"latency over that of the bare backbone, {how}; {latency.description}",
            ),
            Result(
                "multiply-additions",
                write_value(trial[flops.name], flops),
                f"counted at {by(latency.size)}, relative to the backbone",
            ),
        ),
    )


def _estimate(trial: Mapping[Any, Any], name: str, prefix: str = "") -> str:
    return with_interval(interval_of(trial, OBJECTIVES[name], prefix), OBJECTIVES[name])
