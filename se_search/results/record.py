"""What a run folder records: its table of trials, its front and the description that the report shows."""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import RunFolderError, SeSearchError
from ..files import read_json, write_text
from ..latency.additive import MeasuredLatency
from ..latency.meter import remarks
from ..network.config import SEConfig
from ..network.overhead import backbone_parameters, flops_overhead, parameter_share
from ..study.definitions import StudyDefinition
from ..study.space import SearchSpace
from ..trials.folder import PARETO_FILE, RUN_FILE, TRIALS_FILE, load_trials, read_definition
from ..trials.latency import latency_size, learned_latencies
from ..trials.notes import ENDED, FOREIGN, latency_conditions, quality_of, with_measured_latency
from .contributions import describe_contributions, outcomes_by_image
from .excitation import find_analyses
from .hypervolume import hypervolume_history
from .table import cautions, front_of, gain_over_none, pick_trials, trials_table
from .verified import add_verified, read_verified


def read_results(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a run folder: its table of trials and a description of the run, as the report needs them.

    Raises:
        RunFolderError: If it is no run folder or is damaged.
    """
    try:
        return _read_results(folder)
    except SeSearchError:
        raise
    except FOREIGN as error:
        raise RunFolderError(f"{folder} holds what se-search did not write: {error!r}") from error


def _read_results(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    study = read_definition(folder)
    optuna_study = with_measured_latency(load_trials(folder))
    learned = learned_latencies(folder)
    table = trials_table(optuna_study)
    space = SearchSpace(study.backbone, study.resolved_space)
    if "data" not in optuna_study.user_attrs:
        raise RunFolderError(f"{folder} has no data noted: nothing has been searched in it yet")
    data = optuna_study.user_attrs["data"]
    schedules = read_verified(folder, table, SEConfig.without_attention(study.backbone).id)
    table = add_verified(table, schedules)
    complete = table[table["state"] == "complete"]
    shared = study.evaluator.shared
    epochs = read_json(folder / f"{shared}.json").get("epochs", []) if shared else []
    worst = {
        "accuracy": 1 / data["classes"],
        "log_loss": 10.0,
        "parameter_overhead": max(0.0, parameter_share(space.largest())),
        "flops_overhead": max(0.0, flops_overhead(space.largest(), latency_size(study, data["size"]))),
        "latency_ratio": 2.0,
    }
    for name, direction in study.custom_objectives.items():
        worst[name] = float(complete[name].min() if direction == "maximize" else complete[name].max())
    sites = [
        {"block": site.block, "stage": site.stage, "position": site.position, "channels": site.channels}
        for site in space.sites
    ]
    quality = quality_of(optuna_study)
    gain = gain_over_none(optuna_study)
    description = {
        "name": folder.resolve().name,
        "folder": str(folder),
        "backbone": study.backbone,
        "backbone_parameters": backbone_parameters(study.backbone),
        "data": data | {"unreadable": list(map(str, optuna_study.user_attrs.get("unreadable_images", [])))},
        "study": study.description,
        "space": study.resolved_space.description,
        "seed": study.seed,
        "budget": study.budget,
        "device": study.device,
        "evaluator": study.evaluator,
        "objectives": list(study.objectives),
        "custom_objectives": list(study.custom_objectives),
        "constraints": study.constraints.model_dump(),
        "latency_learned_from": len(learned),
        "latency": latency_conditions(optuna_study),
        "sites": sites,
        "picks": pick_trials(table, quality),
        "cautions": [*cautions(table, 1 / data["classes"]), *_latency_remarks(table, learned, study)],
        "gain": "" if gain is None else gain.sentence,
        "gain_is_measurable": gain is not None and gain.measurable,
        "quality": quality.replace("_", "-"),
        "contributions": describe_contributions(table, sites, quality, outcomes_by_image(optuna_study, quality)),
        "verified": schedules,
        "excitation": find_analyses(folder),
        "hypervolume_history": hypervolume_history(optuna_study, [worst[name] for name in study.objectives]),
        "hypervolume_reference": {name: worst[name] for name in study.objectives},
        "timings": {
            **({shared: sum(epoch["seconds"] for epoch in epochs)} if epochs else {}),
            "trials": float(table["seconds"].sum()),
        },
        "finished": optuna_study.user_attrs.get(ENDED) == study.budget,
    }
    return table, read_json(folder / RUN_FILE) | description


def write_results(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Write ``trials.csv``, ``pareto.csv`` and ``run.json``, and return what :func:`read_results` does.

    Raises:
        RunFolderError: As :func:`read_results`.
    """
    table, run = read_results(folder)
    write_text(folder / TRIALS_FILE, table.to_csv(index=False))
    write_text(folder / PARETO_FILE, front_of(table).to_csv(index=False))
    plain = run | {"evaluator": run["evaluator"].model_dump(exclude={"options"})}
    write_text(folder / RUN_FILE, json.dumps(_finite(plain), indent=2, allow_nan=False))
    return table, run


def _latency_remarks(table: pd.DataFrame, learned: list[MeasuredLatency], study: StudyDefinition) -> list[str]:
    columns = ["latency_low", "latency_high", "latency_interruptions"]
    measured = table.loc[table["latency_stopped"].isin(["target", "limit"]), columns]
    for_the_model = [(one.ratio.low, one.ratio.high, one.ratio.interruptions) for one in learned]
    both = pd.concat([measured, pd.DataFrame(for_the_model, columns=columns, dtype=float)])
    return remarks(both, study.latency.target, study.latency.limit)


def _finite(value: Any) -> Any:
    """Return plain data with ``None`` in place of numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
