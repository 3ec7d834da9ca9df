"""Spaces and studies: plain data checked whole, and frozen."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
)

from ..definition import Definition, Listed, distinct
from ..deployment.deployment import DTYPES, RUNTIMES
from ..errors import DefinitionError, did_you_mean
from ..latency.stopping import LIMIT, TARGET
from .base import MOST_IMAGES, MOST_PIXELS, Threads
from .evaluator_definition import AnyEvaluator, SupernetDefinition
from .objectives import OBJECTIVES, RESERVED, Direction, Objective, custom_objective
from .space_definition import SpaceDefinition


def parse_share(value: Any) -> float:
    """Read a share such as ``"5%"`` or ``0.05``.

    Raises:
        ValueError: If it is neither, or negative.
    """
    number = value
    if isinstance(value, str):
        text = value.strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < float("inf"):
        raise ValueError("must be a share of at least 0, such as 5% or 0.05")
    return float(number)


def _share_or_none(value: Any) -> float | None:
    return None if value is None else parse_share(value)


def _objective(name: str, info: ValidationInfo) -> str:
    known = [*OBJECTIVES, *info.data.get("custom_objectives", ())]
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}{did_you_mean(name, known)}")
    return name


def _all_custom_ones(names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    for name in info.data.get("custom_objectives", ()):
        if name not in names:
            raise ValueError(f"must name {name}, which custom_objectives holds")
    return names


def _objective_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z]\w{0,63}", name, re.ASCII) or name in RESERVED:
        raise ValueError("an objective of your own needs a name of letters, digits and _ that is not in use")
    return name


Share = Annotated[float | None, BeforeValidator(_share_or_none)]


class ConstraintsDefinition(Definition):
    """Limits; ``None`` is no limit."""

    max_params: Share = None
    """Greatest parameter overhead, as a share of the backbone's parameters, such as 5%; no limit by default."""

    max_latency: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Greatest latency ratio, such as 1.03; no limit by default."""

    def most_of(self, objective: Objective) -> float | None:
        """Return the greatest value that an objective may have; ``None`` without a limit."""
        return getattr(self, objective.limit) if objective.limit else None


class SplitsDefinition(Definition):
    """Names of the parts of a folder or dataset; what is not named is found or cut from the training images."""

    train: str | None = None
    """The part to train on."""

    validation: str | None = None
    """The part that the search compares configurations on."""

    test: str | None = None
    """The part kept for verification."""


class LatencyDefinition(Definition):
    """How latency is measured."""

    source: Literal["measured", "model"] = "measured"
    """Latency is ``"measured"`` for each configuration, or predicted by an additive ``"model"`` of the costs of single
    sites and measured on the front only."""

    runtime: Literal[RUNTIMES] = "eager"  # type: ignore[valid-type]
    """What runs the networks."""

    optimized: bool = False
    """Whether networks go through :func:`se_search.optimize_for_inference` first."""

    batch: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = 1
    """Images in a forward pass."""

    size: Annotated[int, Field(ge=1, le=MOST_PIXELS)] | None = None
    """Height and width of the images; the data's own by default."""

    threads: Threads | None = None
    """Threads of a CPU operation while latency is measured; the study's own by default."""

    dtype: Literal[DTYPES] = "float32"  # type: ignore[valid-type]
    """Data type of weights and images."""

    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    """Memory format of weights and images."""

    cuda_graph: bool = False
    """Whether a CUDA graph is replayed."""

    target: Annotated[float, Field(gt=0, le=1)] = TARGET
    """Half-width of the interval at which a measurement stops, as a share of the ratio."""

    limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = LIMIT
    """Seconds after which a measurement stops."""


def _device(value: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise ValueError("must be cpu, cuda or cuda:N")
    return value


class StudyDefinition(Definition):
    """How a space is searched."""

    description: str = ""
    """One sentence for ``se-search studies``."""

    backbone: str
    """A timm architecture name."""

    data: str = "digits"
    """Name of embedded data, folder of images, or name of a timm dataset."""

    data_root: str | None = None
    """Where a timm dataset is."""

    image_size: Annotated[int, Field(ge=8, le=MOST_PIXELS)] | None = None
    """Height and width at which images of a folder or dataset are shown; the backbone's own by default."""

    splits: SplitsDefinition = SplitsDefinition()
    """Names of the parts of such data."""

    data_workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes that load images."""

    space: str | SpaceDefinition = "stages"
    """Name of a shipped space, path of a file, or the space itself."""

    custom_objectives: dict[Annotated[str, AfterValidator(_objective_name)], Direction] = Field(default_factory=dict)
    """Directions of objectives that functions given from Python measure."""

    objectives: Annotated[
        tuple[Annotated[str, AfterValidator(_objective)], ...],
        Listed,
        Field(min_length=2, max_length=3, validate_default=True),
        AfterValidator(distinct),
        AfterValidator(_all_custom_ones),
    ] = ("accuracy", "parameter_overhead", "latency_ratio")
    """Two or three of :data:`OBJECTIVES` and of ``custom_objectives``, whose every one is among them."""

    sampler: Literal["ehvi", "tpe", "nsga2", "random"] = "ehvi"
    """``"ehvi"`` (expected hypervolume improvement, :class:`~se_search.sampling.ehvi.EHVISampler`), or Optuna's
    multi-objective ``"tpe"``, ``"nsga2"`` or ``"random"``."""

    priors: Literal["known", "excitation"] = "known"
    """Which configurations are tried first: the ``"known"`` answers, or with ``"excitation"`` also those without the SE
    blocks that idle in the trained supernet."""

    budget: Annotated[int, Field(ge=1)] = 50
    """Distinct configurations to complete."""

    trial_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds after which a trial fails; none by default."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Fixes the supernet, the sampler and the order of measurements."""

    device: Annotated[str, AfterValidator(_device)] = "cpu"
    """A torch device: ``"cpu"``, ``"cuda"`` or ``"cuda:0"``."""

    threads: Threads | None = None
    """Threads of a CPU operation; PyTorch's own choice by default."""

    constraints: ConstraintsDefinition = ConstraintsDefinition()
    """Limits on what a configuration may cost."""

    evaluator: AnyEvaluator = SupernetDefinition()
    """How accuracy is estimated."""

    latency: LatencyDefinition = LatencyDefinition()
    """How latency is measured."""

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The direction of each objective."""
        return tuple(one.direction for one in self.goals)

    @property
    def goals(self) -> tuple[Objective, ...]:
        """The objectives themselves."""
        own = {name: custom_objective(name, direction) for name, direction in self.custom_objectives.items()}
        return tuple((OBJECTIVES | own)[name] for name in self.objectives)

    @property
    def resolved_space(self) -> SpaceDefinition:
        """The space itself.

        Raises:
            DefinitionError: If the study only names it; ``load_study`` resolves it.
        """
        if isinstance(self.space, SpaceDefinition):
            return self.space
        raise DefinitionError(f"space {self.space!r} is only named: resolve the study with load_study")
