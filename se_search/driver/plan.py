"""The plan of a search: its space, exact costs, and the time, memory and disk that it is estimated to take."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.image_data import ImageData
from ..errors import first_reason
from ..evidence.known import known_in_brief
from ..memory import peak_memory
from ..network.config import SEConfig
from ..network.overhead import added_flops, added_parameters, backbone_costs, backbone_parameters
from ..progress import Phase, Schedule, console, print_table, say
from ..study.definitions import StudyDefinition
from ..study.space import SearchSpace
from ..training.evaluator import EstimatingEvaluator, Evaluator
from ..trials.latency import StudyLatency
from ..words import counted, duration, percent, size_of_files
from .trial_loop import EVALUATING

_REPORT = "Writing the report"

# Of benchmarks/tool_cost.py and benchmarks/report_page.py.
_SECONDS_PER_PROPOSAL = 0.04
_SECONDS_OF_REPORT, _SECONDS_PER_ROW = 2.0, 0.003
_BYTES_OF_REPORT, _BYTES_PER_ROW, _BYTES_PER_IMAGE = 5_000_000, 1_500, 6


@dataclass(frozen=True)
class Corner:
    """A configuration at one end of the space, and its exact costs.

    Attributes:
        name: What it is.
        parameters: Parameters of the network.
        parameter_overhead: The same relative to the backbone.
        flops: Multiply-additions for one image.
        flops_overhead: The same relative to the backbone.
    """

    name: str
    parameters: int
    parameter_overhead: float
    flops: int
    flops_overhead: float


@dataclass(frozen=True)
class Plan:
    """What a search will do, and what it is estimated to take. Costs of configurations are exact.

    Attributes:
        backbone: The backbone.
        folder: The run folder.
        points: Combinations of the space's parameters; several can be the same network.
        sites: Number of sites by stage.
        trials: Number of trials to come.
        known: What is published about SE in the backbone, in one sentence.
        first: Names of the configurations that are evaluated first.
        corners: The configurations with the fewest and with the most parameters.
        phases: Phases with their steps and estimated seconds per step.
        memory: Most memory used while steps were timed, in bytes, if the system tells.
        device: Where that memory is.
        disk: Size of the run folder in bytes; ``None`` if it is unknown.
        problem: Why parts of the estimate are missing; empty if none is.
    """

    backbone: str
    folder: Path
    points: int
    sites: Mapping[int, int]
    trials: int
    known: str
    first: tuple[str, ...]
    corners: tuple[Corner, ...]
    phases: tuple[Phase, ...]
    memory: int | None
    device: str
    disk: int | None
    problem: str

    @property
    def seconds(self) -> float | None:
        """Estimated duration of all phases (s); ``None`` if one is unknown."""
        return Schedule(self.phases).seconds_left

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"folder": str(self.folder), "seconds": self.seconds}

    def show(self, known: bool = True) -> None:
        """Print the plan, by default with what is published about the backbone."""
        by_stage = ", ".join(f"stage {stage}: {sites}" for stage, sites in self.sites.items())
        say(f"Space: {self.points:,} combinations at {counted(sum(self.sites.values()), 'site')} ({by_stage}).")
        for one in self.corners:
            say(
                f"{one.name}: {one.parameters:,} parameters ({percent(one.parameter_overhead, sign='+')}), "
                f"{one.flops / 1e9:.3g} GFLOPs ({percent(one.flops_overhead, sign='+')})."
            )
        say(f"Evaluated first: {', '.join(self.first)}.")
        if known:
            say(self.known)
        self.show_estimate()

    def show_estimate(self) -> None:
        """Print the phases with their estimates."""
        rows = [
            (phase.title, f"{phase.steps:,}", "unknown" if phase.duration is None else duration(phase.duration))
            for phase in self.phases
        ]
        print_table(("phase", "steps", "time"), rows, right=("steps", "time"))
        if self.problem:
            say(self.problem)
        needs = [] if self.seconds is None else [f"about {duration(self.seconds)}"]
        if self.memory is not None:
            needs.append(f"{size_of_files(self.memory)} of memory ({self.device})")
        if self.disk is not None:
            needs.append(f"{size_of_files(self.disk)} of disk in {self.folder}")
        if needs:
            say(f"Estimated: {', '.join(needs)}.")


def make_plan(
    definition: StudyDefinition,
    folder: Path,
    space: SearchSpace,
    data: ImageData,
    evaluator: Evaluator,
    latency: StudyLatency,
    done: int = 0,
    parallel: int | None = 1,
) -> Plan:
    """Plan a search, with estimates from a few timed steps. Nothing is written, and random states stay as they are.

    Args:
        definition: The study.
        folder: The run folder, which may not exist.
        space: Its space.
        data: Its data.
        evaluator: Its evaluator, not prepared.
        latency: Its latency.
        done: Number of trials that are finished already.
        parallel: Number of trials that run at once; ``None`` if it is unknown.
    """
    points = math.prod(len(one.choices) for one in space.distributions.values())
    trials = max(min(definition.budget, points) - done, 0)
    before: tuple[Phase, ...] = ()
    after: tuple[Phase, ...] = ()
    trial, disk, problem = None, None, ""
    with _keeping_random_states(), console.status("Timing a few steps"):
        try:
            looks, before, after = latency.phases(trials)
            if isinstance(evaluator, EstimatingEvaluator):
                effort = evaluator.estimate(folder, space)
                before = effort.phases + before
                if parallel is None:
                    problem = "The nodes of the cluster decide how many trials run at once: their time is unknown."
                else:
                    trial = (effort.trial + _SECONDS_PER_PROPOSAL) / parallel + looks
                per_trial = effort.trial_bytes + _BYTES_PER_ROW + _BYTES_PER_IMAGE * len(data.validation)
                disk = _BYTES_OF_REPORT + effort.shared_bytes + trials * per_trial
            else:
                problem = f"The evaluator {definition.evaluator.name} gives no estimate."
        except Exception as error:  # the search itself decides whether it can go on
            problem = f"No estimate: {first_reason(error)}."
    report = Phase(_REPORT, 1, _SECONDS_OF_REPORT + _SECONDS_PER_ROW * definition.budget)
    return Plan(
        backbone=definition.backbone,
        folder=folder,
        points=points,
        sites=dict(sorted(Counter(map(space.stage_of, space.sites)).items())),
        trials=trials,
        known=known_in_brief(definition.backbone),
        first=tuple(space.known_answers()),
        corners=find_corners(space, latency.size),
        phases=(*before, Phase(EVALUATING, trials, trial), *after, report),
        memory=peak_memory(definition.device),
        device=definition.device,
        disk=disk,
        problem=problem,
    )


def find_corners(space: SearchSpace, size: tuple[int, int, int]) -> tuple[Corner, ...]:
    """Return the configurations of a space with the fewest and with the most parameters.

    Parameters add up over blocks, so each choice is settled by itself, and again until none changes.

    Args:
        space: The space.
        size: Input size ``(channels, height, width)`` at which FLOPs are counted.
    """
    names = {config: f" ({name})" for name, config in space.known_answers().items()}
    corners = []
    for name, blocks, best in (("Fewest parameters", False, min), ("Most parameters", True, max)):
        chosen = {
            parameter: blocks if isinstance(one.choices[0], bool) else one.choices[0]
            for parameter, one in space.distributions.items()
        }
        before: dict[str, Any] = {}
        while chosen != before:
            before = dict(chosen)
            for parameter, one in space.distributions.items():
                costs = {value: added_parameters(space.to_config(chosen | {parameter: value})) for value in one.choices}
                if costs[chosen[parameter]] != best(costs.values()):
                    chosen[parameter] = best(costs, key=costs.__getitem__)
        config = space.to_config(chosen)
        corners.append(_corner(f"{name}{names.get(config, '')}", config, size))
    return tuple(corners)


def _corner(name: str, config: SEConfig, size: tuple[int, int, int]) -> Corner:
    parameters, flops = backbone_parameters(config.backbone), backbone_costs(config.backbone, size).flops
    more, work = added_parameters(config), added_flops(config, size)
    return Corner(name, parameters + more, more / parameters, flops + work, work / flops)


@contextmanager
def _keeping_random_states() -> Iterator[None]:
    numpy_state = np.random.get_state()
    devices = range(torch.cuda.device_count())
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
