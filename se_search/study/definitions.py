"""The definition of a study."""

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    model_validator,
)

from ..definition import MOST_IMAGES, MOST_PIXELS, Definition, Listed, Threads, distinct
from ..deployment.deployment import DTYPES, RUNTIMES
from ..errors import DefinitionError, did_you_mean
from ..latency.stopping import LIMIT, LOOK, TARGET
from .evaluator_definition import AnyEvaluator, SupernetDefinition
from .objectives import OBJECTIVES, RESERVED, Direction, Objective, custom_objective
from .space_definition import SpaceDefinition


def parse_share(value: Any) -> float:
    """Parse a share such as ``"5%"`` or ``0.05``.

    Raises:
        ValueError: If the value is not a share or is negative, or if it is a text or a whole number above 1 without a
            percent sign, which would be hundreds of per cent.
    """
    number = value
    if isinstance(value, str):
        text = value.strip()
        try:
            number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < float("inf"):
        raise ValueError("must be a non-negative share, such as 5% or 0.05")
    if number > 1 and not (isinstance(value, float) or str(value).strip().endswith("%")):
        raise ValueError(f"would be {100 * number:g} %: write {number:g}% or {100 * number:g}%")
    return float(number)


def _share_or_none(value: Any) -> float | None:
    return None if value is None else parse_share(value)


def _ratio(value: Any) -> Any:
    """Read the texts ``"1.03"`` and ``"3%"`` as the same ratio, and leave other values to pydantic."""
    if not isinstance(value, str):
        return value
    if value.strip().endswith("%"):
        return 1 + parse_share(value)
    try:
        return float(value)
    except ValueError:
        raise ValueError("must be a ratio, such as 1.03 or 3%") from None


def _objective(name: str, info: ValidationInfo) -> str:
    known = [*OBJECTIVES, *info.data.get("custom_objectives", ())]
    if name not in known:
        raise ValueError(f"must be one of {', '.join(known)}{did_you_mean(name, known)}")
    return name


def _all_custom_ones(names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
    for name in info.data.get("custom_objectives", ()):
        if name not in names:
            raise ValueError(f"must include {name}, which custom_objectives defines")
    return names


def _objective_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z]\w{0,63}", name, re.ASCII) or name in RESERVED:
        raise ValueError("must be a name not in use, of at most 64 letters, digits and _, that starts with a letter")
    return name


Share = Annotated[float | None, BeforeValidator(_share_or_none)]


class ConstraintsDefinition(Definition):
    """Limits on the cost of a configuration; ``None`` means no limit."""

    max_params: Share = None
    """Maximum parameter overhead, as a share of the backbone's parameters, such as 5%; no limit by default."""

    max_latency: Annotated[Annotated[float, Field(gt=0, allow_inf_nan=False)] | None, BeforeValidator(_ratio)] = None
    """Maximum latency ratio, such as 1.03 or 3% more; no limit by default."""

    def most_of(self, objective: Objective) -> float | None:
        """Return the upper limit of an objective; ``None`` if it has none."""
        return getattr(self, objective.limit) if objective.limit else None


class SplitsDefinition(Definition):
    """Names of the splits of an image folder or timm dataset.

    A split without a name is detected or cut from the training split.
    """

    train: str | None = None
    """Training split."""

    validation: str | None = None
    """Validation split, on which the search compares configurations."""

    test: str | None = None
    """Test split, which only verification uses."""

    cut: Literal["contents", "order"] = "contents"
    """What decides which training images are cut for a missing split: their ``"contents"``, or the ``"order"`` of their
    names, as up to version 0.1.0."""


def _size(value: Any) -> Any:
    # Version 0.1.0 wrote null for the data's size; the command line passes numbers as text.
    if value is None:
        return "data"
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value, re.ASCII) else value


LatencySize = Annotated[
    Annotated[int, Field(ge=1, le=MOST_PIXELS)] | Literal["auto", "backbone", "data"], BeforeValidator(_size)
]


_OF_THE_FILE = ("runtime", "optimized", "batch", "threads", "dtype", "memory_format", "cuda_graph")


def _without_conditions(file: str | None, info: ValidationInfo) -> str | None:
    """Check that a file of measurements, which has conditions of its own, is not given others."""
    if file is None:
        return None
    if info.data.get("source", "model") != "model":
        raise ValueError("requires the source model")
    for name in _OF_THE_FILE:
        if info.data.get(name) != LatencyDefinition.model_fields[name].default:
            raise ValueError(f"has its own conditions: omit {name}")
    return file


class LatencyDefinition(Definition):
    """How latency is measured."""

    @model_validator(mode="before")
    @classmethod
    def _predict_from_file(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("model_file") is not None and "source" not in data:
            return data | {"source": "model"}
        return data

    source: Literal["pooled", "measured", "model"] = "pooled"
    """Source of latencies: ``"pooled"`` over short measurements of all trials, ``"measured"`` for every trial, or
    predicted by an additive ``"model"`` of the cost of each site and measured on the front only."""

    runtime: Literal[RUNTIMES] = "eager"  # type: ignore[valid-type]
    """Inference runtime."""

    optimized: bool = False
    """Apply :func:`se_search.optimize_for_inference` to all networks first."""

    batch: Annotated[int, Field(ge=1, le=MOST_IMAGES)] = 1
    """Batch size."""

    size: LatencySize = "auto"
    """Image height and width (pixels): a number, that of the ``"data"``, timm's input size of the ``"backbone"``, or
    ``"auto"``: that of the backbone for embedded data, else that of the data."""

    threads: Threads | None = None
    """CPU threads during latency measurement; those of the study by default."""

    dtype: Literal[DTYPES] = "float32"  # type: ignore[valid-type]
    """Data type of weights and images."""

    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    """Memory format of weights and images."""

    cuda_graph: bool = False
    """Replay a CUDA graph."""

    target: Annotated[float, Field(gt=0, le=1)] = TARGET
    """Half-width of the latency ratio's confidence interval at which a measurement stops, relative to the ratio."""

    limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = LIMIT
    """Time limit of a measurement (s)."""

    look: Annotated[float, Field(gt=0, allow_inf_nan=False)] = LOOK
    """Time limit of a measurement that is pooled (s), if lower than ``limit``."""

    model_file: Annotated[str | None, AfterValidator(_without_conditions)] = None
    """File that ``se-search latency --model`` wrote on another device. Latencies are predicted from its measurements,
    and nothing is measured on this machine."""


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, cuda or cuda:N")
    return value


class StudyDefinition(Definition):
    """The definition of a search."""

    description: str = ""
    """One-sentence description for ``se-search studies``."""

    backbone: str
    """Name of a timm architecture."""

    data: str = "digits"
    """Embedded dataset, image folder or timm dataset."""

    data_root: str | None = None
    """Root folder of a timm dataset."""

    image_size: Annotated[int, Field(ge=8, le=MOST_PIXELS)] | None = None
    """Image height and width (pixels) of an image folder or timm dataset; the backbone's input size by default."""

    splits: SplitsDefinition = SplitsDefinition()
    """Names of the splits of an image folder or timm dataset."""

    data_workers: Annotated[int, Field(ge=0, le=1024)] | None = None
    """Processes that load images; by default one for each CPU if a GPU trains on images of a folder or dataset, else
    none."""

    space: str | SpaceDefinition = "stages"
    """Name of a shipped space or of a plugin's, or path of a file; in a study also the space itself."""

    custom_objectives: dict[Annotated[str, AfterValidator(_objective_name)], Direction] = Field(default_factory=dict)
    """Directions of custom objectives, which Python functions measure, by name."""

    objectives: Annotated[
        tuple[Annotated[str, AfterValidator(_objective)], ...],
        Listed,
        Field(min_length=2, max_length=3, validate_default=True),
        AfterValidator(distinct),
        AfterValidator(_all_custom_ones),
    ] = ("accuracy", "parameter_overhead", "latency_ratio")
    """Two or three of :data:`OBJECTIVES` and ``custom_objectives``, including every custom objective."""

    sampler: Literal["ehvi", "gp", "tpe", "nsga2", "random"] = "ehvi"
    """``"ehvi"`` (expected hypervolume improvement, :class:`~se_search.sampling.ehvi.EHVISampler`), or Optuna's
    multi-objective ``"gp"``, ``"tpe"``, ``"nsga2"`` or ``"random"``."""

    priors: Literal["known", "excitation"] = "known"
    """Configurations to evaluate first: the ``"known"`` baselines; with ``"excitation"`` also variants without the SE
    blocks that are idle in the trained supernet."""

    budget: Annotated[int, Field(ge=1)] = 50
    """Number of distinct configurations to complete."""

    track: Literal["tensorboard", "wandb", "mlflow"] | None = None
    """Package to which trial values, training losses and figures are sent too; by default none."""

    trial_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Time limit of a trial (s), after which it fails; no limit by default."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Random seed of the supernet, the sampler and the order of measurements."""

    device: Annotated[str, AfterValidator(_device)] = "auto"
    """PyTorch device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or ``"auto"``: CUDA if PyTorch sees such a device, else the
    CPU. A run folder keeps its device."""

    threads: Threads | None = None
    """CPU threads of PyTorch; PyTorch's choice by default."""

    constraints: ConstraintsDefinition = ConstraintsDefinition()
    """Limits on the cost of a configuration."""

    evaluator: AnyEvaluator = SupernetDefinition()
    """How accuracy is estimated."""

    latency: LatencyDefinition = LatencyDefinition()
    """How latency is measured."""

    @property
    def directions(self) -> tuple[Direction, ...]:
        """Direction of each objective."""
        return tuple(one.direction for one in self.goals)

    @property
    def goals(self) -> tuple[Objective, ...]:
        """Objectives of the study, in order."""
        own = {name: custom_objective(name, direction) for name, direction in self.custom_objectives.items()}
        return tuple((OBJECTIVES | own)[name] for name in self.objectives)

    @property
    def resolved_space(self) -> SpaceDefinition:
        """The space of a resolved study.

        Raises:
            DefinitionError: If the study has only its name.
        """
        if isinstance(self.space, SpaceDefinition):
            return self.space
        raise DefinitionError(f"space {self.space!r} is not resolved: use load_study")
