"""Origin of the weights of an exported network, for its model card."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from timm.models import get_pretrained_cfg_value

from ..data.image_data import ImageData
from ..data.load import published_name
from ..export.card import Metric, Origin, Result
from ..report.measures import interval_of, with_interval, write_value
from ..results.record import DataRecord, RunRecord
from ..results.verified import VerifiedWeights
from ..statistics import Interval
from ..study.evaluator_definition import EvaluatorDefinition
from ..study.objectives import OBJECTIVES
from ..trials.notes import PREDICTED
from ..words import by, counted


def image_settings(images: ImageData) -> dict[str, Any]:
    """Return what images say about themselves as arguments of :func:`se_search.export_timm`."""
    names = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "label_names")
    return {name: getattr(images, name) for name in names}


def origin_of_trial(trial: Mapping[Any, Any], run: RunRecord, weights: VerifiedWeights | None = None) -> Origin:
    """Return the origin of a trial's weights.

    Args:
        trial: Its row, in the columns of ``trials.csv``.
        run: The description of the run.
        weights: The verified network that gave the weights; ``None`` if they are those of the search.
    """
    data = replace(run.data, name=published_name(run.data.name))
    described = (
        _of_search(trial, run.evaluator, data) if weights is None else _of_training(weights, run.evaluator, data)
    )
    published = run.evaluator.starts_from_published_weights
    return Origin(
        described.weights,
        get_pretrained_cfg_value(run.backbone, "license") if published else None,
        results=(*described.results, *_costs(trial, run)),
        base_model=get_pretrained_cfg_value(run.backbone, "hf_hub_id") if published else None,
    )


def _of_search(trial: Mapping[Any, Any], evaluator: EvaluatorDefinition, data: DataRecord) -> Origin:
    judged = f"{data.validation} validation images"
    images = (
        f"{judged} of {data.name} that training did not use, 95 % interval; the search compared configurations on "
        "them, so the value ranks configurations and does not predict the result of independent training"
    )
    return Origin(
        evaluator.describe_weights(_seen(data, evaluator.epochs), data.name),
        results=(
            Result(
                "accuracy",
                _estimate(trial, "accuracy"),
                images,
                Metric("accuracy", float(trial["accuracy"]), data.name, "validation"),
            ),
            Result("log-loss", _estimate(trial, "log_loss"), f"the same {judged}"),
        ),
    )


def _of_training(weights: VerifiedWeights, evaluator: EvaluatorDefinition, data: DataRecord) -> Origin:
    member, exported = weights.member, weights.member.exported
    judged, seeds = f"{data.test} test images", counted(len(member.trainings), "training seed")
    chosen = f"seed {exported.seed}"
    if exported.validation is not None:
        chosen += ", whose training is the best on the validation images"
    learned = "" if exported.learned else ". This training did not learn"
    images = f"{judged} of {data.name} that neither training nor the search used, 95 % interval{learned}"
    failure = f"; {member.failure}" if member.failure else "; all trainings learned"
    return Origin(
        evaluator.describe_verified_weights(_seen(data, weights.epochs), chosen),
        results=(
            Result(
                f"accuracy of these weights (seed {exported.seed})",
                _accuracy(exported.accuracy),
                images,
                Metric("accuracy", exported.accuracy[0], data.name, "test"),
            ),
            Result("log-loss of these weights", _log_loss(exported.log_loss), f"the same {judged}"),
            Result(
                "accuracy, mean over seeds",
                _accuracy(member.accuracy),
                f"{seeds}, the same {judged}, 95 % interval over images and seeds{failure}",
            ),
            Result("log-loss, mean over seeds", _log_loss(member.log_loss), f"the same {seeds} and {judged}"),
        ),
    )


def _costs(trial: Mapping[Any, Any], run: RunRecord) -> Iterator[Result]:
    latency, flops = run.latency, OBJECTIVES["flops_overhead"]
    assert latency is not None  # noqa: S101  # for mypy: a run with a complete trial has one
    if trial["latency_stopped"] == PREDICTED:
        how = (
            f"predicted by an additive model of {run.latency_learned_from} measured configurations, 95 % prediction "
            "interval"
        )
    else:
        pooled = f", pooled over {run.latency_pooled_over} measurements" if run.latency_pooled_over else ""
        how = f"{counted(int(trial['latency_pairs']), 'pair')} of calls{pooled}, 95 % interval"
    yield Result(
        "latency ratio",
        _estimate(trial, "latency_ratio"),
        f"latency over that of the bare backbone, {how}; {latency.description}",
    )
    yield Result(
        "multiply-additions",
        write_value(trial[flops.name], flops),
        f"counted at {by(latency.size)}, relative to the backbone",
    )


def _seen(data: DataRecord, epochs: int) -> str:
    return f"saw {data.train} training images of {data.name} for {counted(epochs, 'epoch')}"


def _accuracy(values: Interval) -> str:
    return with_interval(values, OBJECTIVES["accuracy"])


def _log_loss(values: Interval) -> str:
    return with_interval(values, OBJECTIVES["log_loss"])


def _estimate(trial: Mapping[Any, Any], name: str) -> str:
    return with_interval(interval_of(trial, OBJECTIVES[name]), OBJECTIVES[name])
