"""The results in a run folder: the table of trials, and the description of the run that the report shows."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..data.folders import ImageCounts
from ..data.load import published_name
from ..errors import RunFolderError, SeSearchError
from ..evidence.power import Power
from ..files import plain, read_json, write_text
from ..latency.additive import MeasuredLatency
from ..latency.meter import LatencyConditions, remarks
from ..network.overhead import backbone_parameters
from ..sampling.exact import EXACT
from ..study.definitions import ConstraintsDefinition, StudyDefinition
from ..study.evaluator_definition import EvaluatorDefinition
from ..study.files import load_study, shipped_names
from ..study.objectives import OBJECTIVES, Objective
from ..study.space import SearchSpace
from ..trials.folder import CURVES_FILE, PARETO_FILE, RUN_FILE, TRIALS_FILE, load_trials, read_definition
from ..trials.latency import latency_size, read_latency_measurements
from ..trials.notes import ENDED, FOREIGN, latency_conditions, quality_of, with_measured_latency
from ..trials.pooling import pooled_trials
from .contributions import Contributions, describe_contributions, outcomes_by_image
from .curves import Curve, curves_table, read_curves
from .decision import decide
from .excitation import AnalysisPage, find_analyses
from .focus import focus_of_trials
from .hypervolume import hypervolume_history, hypervolume_intervals
from .picks import Picks, pick_trials, pick_verified
from .power import power_of_run
from .table import SE, Gain, cautions, front_of, gain_over_none, to_csv, trials_table
from .verified import Schedule, add_verified, read_verified


@dataclass(frozen=True)
class DataRecord:
    """The images of a run.

    Attributes:
        name: Name of the data; ``train``, ``validation``, ``test`` and ``classes`` are numbers.
        size: ``(channels, height, width)`` of an image.
        unreadable: Files that could not be read and were skipped.
        fingerprint: Digests of an image folder, from ``se_search.data.fingerprint``; ``None`` for other data.
    """

    name: str
    train: int
    validation: int
    test: int
    classes: int
    size: tuple[int, ...]
    unreadable: tuple[str, ...] = ()
    fingerprint: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SiteRecord:
    """A site of the space, as the report and ``run.json`` show it."""

    block: str
    stage: int
    position: str
    channels: int


@dataclass(frozen=True)
class Provenance:
    """Start time and environment of a run; fields that its ``run.json`` lacks are empty."""

    started: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""
    git_commit: str = ""


@dataclass(frozen=True)
class RunRecord:
    """The description of a run; :meth:`to_json` returns the content of ``run.json``.

    Attributes:
        folder: Path of the run folder, as given.
        study: Description of the study; empty without one, or if it is about another backbone or other data.
        space: Description of the space.
        placement: Unit in which the space adds attention: ``"stage"`` or ``"block"``.
        budget: Number of distinct configurations to complete.
        evaluator: How accuracy was estimated.
        latency_learned_from: Number of measured configurations that the additive latency model was fitted to.
        latency_pooled_over: Number of measurements that the latencies are pooled over; 0 if each is measured alone.
        latency: How latency was measured; ``None`` before a trial is complete.
        sites: Every site of the space, in forward order.
        picks: The networks that the run recommends.
        cautions: Sentences about the limits of the results.
        gain: Gain of attention (estimated by the search); ``None`` without a comparison.
        quality: The objective that networks are judged by: accuracy or log-loss.
        verified: Verified schedules, the shortest first.
        hypervolume_history: Hypervolume of the front of estimates after each complete trial.
        hypervolume_reference: Reference value of each objective.
        timings: Seconds of shared training and of all trials.
        power: The smallest differences that the data can show.
        hypervolume_intervals: Ends of the hypervolumes' intervals.
        attention: The word for the kinds of attention that were searched, such as SE.
        focus: Whether local focus helps, by verification or else the search; empty unless both kinds were tried.
        latency_elsewhere: Whether latencies are predicted from measurements of another device.
        baselines: Names of the networks that verification always retrains, the one without attention first.
        curves: Training losses of all finished trainings, which ``curves.csv`` holds.
    """

    name: str
    folder: str
    backbone: str
    backbone_parameters: int
    data: DataRecord
    study: str
    space: str
    placement: str
    seed: int
    budget: int
    device: str
    evaluator: EvaluatorDefinition
    objectives: tuple[Objective, ...]
    constraints: ConstraintsDefinition
    latency_learned_from: int
    latency: LatencyConditions | None
    sites: tuple[SiteRecord, ...]
    picks: Picks
    cautions: tuple[str, ...]
    gain: Gain | None
    quality: Objective
    contributions: Contributions
    verified: tuple[Schedule, ...]
    excitation: tuple[AnalysisPage, ...]
    hypervolume_history: tuple[float, ...]
    hypervolume_reference: Mapping[str, float]
    timings: Mapping[str, float]
    finished: bool
    hypervolume_intervals: tuple[tuple[float, float], ...] = ()
    provenance: Provenance = Provenance()
    power: Power | None = None
    latency_pooled_over: int = 0
    attention: str = SE
    baselines: tuple[str, ...] = ()
    focus: str = ""
    latency_elsewhere: bool = False
    curves: tuple[Curve, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON, without the curves, and the provenance, which the start of a run writes."""
        names = [one.name for one in self.objectives]
        latency = self.latency.to_dict() | {"description": self.latency.description} if self.latency else {}
        return {name: plain(value) for name, value in vars(self).items() if name not in ("provenance", "curves")} | {
            "evaluator": self.evaluator.model_dump(exclude={"options"}),
            "objectives": names,
            "picks": dict(self.picks),
            "picks_source": self.picks.source,
            "custom_objectives": [name for name in names if name not in OBJECTIVES],
            "latency": latency,
            "gain": self.gain.sentence if self.gain else "",
            "gain_is_measurable": self.gain is not None and self.gain.measurable,
            "quality": self.quality.heading,
        }


def read_results(folder: Path) -> tuple[pd.DataFrame, RunRecord]:
    """Read the table of trials and the description of a run.

    Raises:
        RunFolderError: If the folder is not a run folder or is damaged.
    """
    try:
        return _read_results(folder)
    except SeSearchError:
        raise
    except FOREIGN as error:
        raise RunFolderError(f"{folder} contains data that se-search did not write: {error!r}") from error


def _read_results(folder: Path) -> tuple[pd.DataFrame, RunRecord]:
    definition = read_definition(folder)
    stored = load_trials(folder)
    study, pooled = with_measured_latency(stored), pooled_trials(stored)
    learned = read_latency_measurements(folder)
    table = trials_table(study)
    space = SearchSpace(definition.backbone, definition.resolved_space)
    noted = study.user_attrs
    if "data" not in noted:
        raise RunFolderError(f"{folder} has no trials yet: run the search first")
    data = DataRecord(
        **noted["data"] | {"size": tuple(noted["data"]["size"]), "name": published_name(noted["data"]["name"])},
        unreadable=tuple(map(str, noted.get("unreadable_images", []))),
    )
    quality = quality_of(study)
    schedules = read_verified(folder, table, space, definition.goals, 1 / data.classes)
    table = add_verified(table, schedules)
    reference = _reference(definition, space, data, table)
    record = RunRecord(
        name=folder.resolve().name,
        folder=str(folder),
        backbone=definition.backbone,
        backbone_parameters=backbone_parameters(definition.backbone),
        data=data,
        study=_describe_study(definition),
        space=definition.resolved_space.description,
        placement=definition.resolved_space.placement,
        seed=definition.seed,
        budget=definition.budget,
        device=definition.device,
        evaluator=definition.evaluator,
        objectives=definition.goals,
        constraints=definition.constraints,
        latency_learned_from=len(learned),
        latency=latency_conditions(study),
        sites=tuple(SiteRecord(site.block, site.stage, site.position, site.channels) for site in space.numbered_sites),
        picks=_pick(table, schedules, quality),
        cautions=(
            *cautions(table, 1 / data.classes, space.attention, bool(schedules and schedules[-1].helps)),
            *_latency_remarks(table, learned, definition, pooled is not None),
        ),
        gain=gain_over_none(study, table, space.attention),
        quality=quality,
        contributions=describe_contributions(
            table, space.numbered_sites, quality, outcomes_by_image(study, quality), space.attention
        ),
        verified=schedules,
        excitation=find_analyses(folder),
        hypervolume_history=tuple(hypervolume_history(study, list(reference.values()))),
        hypervolume_intervals=tuple(hypervolume_intervals(study, list(reference.values()))),
        hypervolume_reference=reference,
        timings=_timings(folder, definition, table),
        finished=noted.get(ENDED) == definition.budget,
        provenance=_provenance(read_json(folder / RUN_FILE)),
        power=power_of_run(definition, study, folder, ImageCounts(data.train, data.validation, data.test)),
        latency_pooled_over=len(pooled.measurements) if pooled else 0,
        attention=space.attention,
        baselines=tuple(space.baselines()),
        focus=(schedules[-1].focus if schedules else "") or focus_of_trials(study, table, quality),
        latency_elsewhere=definition.latency.model_file is not None,
        curves=read_curves(folder, study, definition.seed),
    )
    return table, record


def write_results(folder: Path) -> tuple[pd.DataFrame, RunRecord]:
    """Write the tables as CSV files and ``run.json``, and return what :func:`read_results` returns.

    Raises:
        RunFolderError: As for :func:`read_results`.
    """
    table, run = read_results(folder)
    write_text(folder / TRIALS_FILE, to_csv(table))
    write_text(folder / PARETO_FILE, to_csv(front_of(table)))
    write_text(folder / CURVES_FILE, to_csv(curves_table(run.curves)))
    content = plain(read_json(folder / RUN_FILE)) | run.to_json() | {"decision": plain(decide(table, run))}
    write_text(folder / RUN_FILE, json.dumps(content, indent=2, allow_nan=False))
    return table, run


def _pick(table: pd.DataFrame, schedules: Sequence[Schedule], quality: Objective) -> Picks:
    """Return the picks of verification as soon as it has a network with SE, else the search's."""
    decides = schedules and len(schedules[-1].members) > 1
    return pick_verified(table, schedules[-1], quality) if decides else pick_trials(table, quality)


def _describe_study(definition: StudyDefinition) -> str:
    """Return the study's description, unless it is that of a shipped study with another backbone or other data.

    Version 0.1.0 kept the description when an option changed these.
    """
    text, ran = definition.description, (definition.backbone, definition.data)
    shipped = [one for one in map(load_study, shipped_names("studies")) if one.description == text] if text else []
    return text if all((one.backbone, one.data) == ran for one in shipped) else ""


def _reference(
    definition: StudyDefinition, space: SearchSpace, data: DataRecord, table: pd.DataFrame
) -> dict[str, float]:
    """Return the reference value of each objective for hypervolumes."""
    complete = table[table["state"] == "complete"]
    size = latency_size(definition, data.size)
    reference = {}
    for one in definition.goals:
        if one.exact:
            worst = EXACT[one.name](space.largest(), size)
        else:
            worst = float(one.sign * (one.sign * complete[one.name]).min())
        reference[one.name] = one.worst(data.classes, worst)
    return reference


def _timings(folder: Path, definition: StudyDefinition, table: pd.DataFrame) -> dict[str, float]:
    spent = {}
    for shared in dict.fromkeys(("backbone", definition.evaluator.shared)):  # a supernet can start from a backbone
        epochs = read_json(folder / f"{shared}.json").get("epochs", []) if shared else []
        if epochs:
            spent[shared] = float(sum(epoch["seconds"] for epoch in epochs))
    return spent | {"trials": float(table["seconds"].sum())}


def _provenance(content: Mapping[str, Any]) -> Provenance:
    versions = {str(name): str(version) for name, version in dict(content.get("versions") or {}).items()}
    started, platform, commit = (str(content.get(key) or "") for key in ("started", "platform", "git_commit"))
    return Provenance(started, versions, platform, commit)


def _latency_remarks(
    table: pd.DataFrame, learned: list[MeasuredLatency], definition: StudyDefinition, is_pooled: bool
) -> list[str]:
    if definition.latency.model_file is not None:
        device = learned[0].ratio.conditions.processor if learned else "another device"
        return [f"Latencies are predicted from measurements on {device}; nothing was measured on this machine."]
    columns = ["latency_low", "latency_high", "latency_interruptions"]
    shown = front_of(table) if is_pooled else table
    measured = shown.loc[shown["latency_stopped"].isin(["target", "limit"]), columns]
    fitted = [(one.ratio.low, one.ratio.high, one.ratio.interruptions) for one in learned]
    both = pd.concat([measured, pd.DataFrame(fitted, columns=columns, dtype=float)])
    limit = None if is_pooled else definition.latency.limit
    return remarks(both, definition.latency.target, limit)
