"""Space and study files: read with the safe YAML loader, checked whole, frozen."""

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import ConfigurationError, DefinitionError, did_you_mean
from ..evaluation.data import DATA_NAMES
from ..network.se_block import check_gate, check_ratio

OBJECTIVES: Mapping[str, Literal["maximize", "minimize"]] = {
    "accuracy": "maximize",
    "log_loss": "minimize",
    "parameter_overhead": "minimize",
    "flops_overhead": "minimize",
    "latency_ratio": "minimize",
}
"""Objectives a study may name, with their directions."""

COMMAND_LINE = "the command line"
"""Source of values that are told apart in messages by their option."""


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


def _ratio(value: Any) -> int:
    return _as_value_error(check_ratio, value)


def _gate(value: Any) -> str:
    return _as_value_error(check_gate, value)


def _as_value_error(check: Any, value: Any) -> Any:
    try:
        return check(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("must not hold a value twice")
    return values


def _share_or_none(value: Any) -> float | None:
    return None if value is None else parse_share(value)


class _Definition(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Ratio = Annotated[int, BeforeValidator(_ratio)]
Gate = Annotated[str, BeforeValidator(_gate)]
Share = Annotated[float | None, BeforeValidator(_share_or_none)]
_Listed = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


class SpaceDefinition(_Definition):
    """What may vary.

    Attributes:
        description: One sentence for ``se-search spaces``.
        placement: What is switched on or off: a whole ``"stage"`` or each ``"block"``.
        positions: Positions that SE blocks may have. ``"default"`` is ``existing`` in networks that have attention,
            ``standard`` in others with residual branches, ``post`` in plain ones.
        position_per: Whether one position is chosen for the whole ``"network"`` or for each ``"stage"``.
        ratios: Reduction ratios that a stage may have.
        gates: Gates of which a configuration uses one.
        bias: Whether the SE blocks have biases.
        rounding: Rounding of hidden widths; 1 for none.
    """

    description: str = ""
    placement: Literal["stage", "block"]
    positions: Annotated[
        tuple[Literal["default", "standard", "pre", "post", "identity", "3x3", "existing"], ...],
        _Listed,
        Field(min_length=1),
        AfterValidator(_distinct),
    ] = ("default",)
    position_per: Literal["network", "stage"] = "network"
    ratios: Annotated[tuple[Ratio, ...], _Listed, Field(min_length=1), AfterValidator(_distinct)]
    gates: Annotated[tuple[Gate, ...], _Listed, Field(min_length=1), AfterValidator(_distinct)]
    bias: bool = True
    rounding: Annotated[int, Field(ge=1)] = 8


class ConstraintsDefinition(_Definition):
    """Limits; ``None`` is no limit.

    Attributes:
        max_params: Greatest parameter overhead, as a share of the backbone's parameters.
        max_latency: Greatest latency ratio.
    """

    max_params: Share = None
    max_latency: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class EvaluatorDefinition(_Definition):
    """How networks are evaluated; see :class:`se_search.evaluation.supernet.TrainingSchedule`."""

    name: Literal["supernet"] = "supernet"
    epochs: Annotated[int, Field(ge=1)] = 8
    batch: Annotated[int, Field(ge=2)] = 64
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.002
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    recalibration_images: Annotated[int, Field(ge=2)] = 512


class LatencyDefinition(_Definition):
    """How latency is measured.

    Attributes:
        batch: Images in a forward pass.
        size: Height and width of the images; the data's own by default.
        pairs: Paired measurements for each configuration.
    """

    batch: Annotated[int, Field(ge=1)] = 1
    size: Annotated[int, Field(ge=1)] | None = None
    pairs: Annotated[int, Field(ge=10)] = 100


def _data(value: str) -> str:
    if value not in DATA_NAMES:
        raise ValueError(f"must be one of {', '.join(DATA_NAMES)}")
    return value


def _device(value: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise ValueError("must be cpu, cuda or cuda:N")
    return value


class StudyDefinition(_Definition):
    """How a space is searched.

    Attributes:
        description: One sentence for ``se-search studies``.
        backbone: A timm architecture name.
        data: Name of the data.
        space: Name of a shipped space, path of a file, or the space itself.
        objectives: Two or three of :data:`OBJECTIVES`.
        sampler: ``"tpe"`` (Optuna's multi-objective TPE) or ``"random"``.
        budget: Distinct configurations to complete.
        seed: Fixes the supernet, the sampler and the order of measurements.
        device: A torch device: ``"cpu"``, ``"cuda"`` or ``"cuda:0"``.
        threads: Threads of a CPU operation; PyTorch's own choice by default.
        constraints: Limits on what a configuration may cost.
        evaluator: How accuracy is estimated.
        latency: How latency is measured.
    """

    description: str = ""
    backbone: str
    data: Annotated[str, AfterValidator(_data)] = "digits"
    space: str | SpaceDefinition = "stages"
    objectives: Annotated[
        tuple[Literal["accuracy", "log_loss", "parameter_overhead", "flops_overhead", "latency_ratio"], ...],
        _Listed,
        Field(min_length=2, max_length=3),
        AfterValidator(_distinct),
    ] = ("accuracy", "parameter_overhead", "latency_ratio")
    sampler: Literal["tpe", "random"] = "tpe"
    budget: Annotated[int, Field(ge=1)] = 50
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: Annotated[str, AfterValidator(_device)] = "cpu"
    threads: Annotated[int, Field(ge=1)] | None = None
    constraints: ConstraintsDefinition = ConstraintsDefinition()
    evaluator: EvaluatorDefinition = EvaluatorDefinition()
    latency: LatencyDefinition = LatencyDefinition()

    @property
    def resolved_space(self) -> SpaceDefinition:
        """The space itself.

        Raises:
            DefinitionError: If the study only names it; :func:`load_study` resolves it.
        """
        if isinstance(self.space, SpaceDefinition):
            return self.space
        raise DefinitionError(f"space {self.space!r} is only named: resolve the study with load_study")


_D = TypeVar("_D", bound=_Definition)
_Kind = Literal["search_spaces", "studies"]


def shipped_names(kind: _Kind) -> tuple[str, ...]:
    """Names of the definitions that travel with the package."""
    files = resources.files("se_search").joinpath(kind).iterdir()
    return tuple(sorted(Path(file.name).stem for file in files if file.name.endswith(".yaml")))


def load_space(name: str) -> SpaceDefinition:
    """Read a space by the name of a shipped one or by path.

    Raises:
        DefinitionError: If it does not exist, is malformed or holds an impossible value.
    """
    return check_definition(SpaceDefinition, _read(name, "search_spaces", "space"), name)


def load_study(name: str, **overrides: Any) -> StudyDefinition:
    """Read a study by the name of a shipped one or by path, and resolve it: its space is in it, not named.

    Args:
        name: Name or path.
        **overrides: Values that replace the file's, those of the command line; ``None`` replaces nothing.
            ``max_params`` and ``max_latency`` go to the constraints.

    Raises:
        DefinitionError: If it does not exist, is malformed or holds an impossible value.
    """
    data = _read(name, "studies", "study")
    if isinstance(data, dict) and isinstance(data.get("space"), dict):
        data = data | {"space": check_definition(SpaceDefinition, data["space"], f"{name}: space")}
    study = check_definition(StudyDefinition, data, name)

    given = {key: value for key, value in overrides.items() if value is not None}
    merged = {key: getattr(study, key) for key in StudyDefinition.model_fields} | given
    limits = {key: merged.pop(key) for key in ConstraintsDefinition.model_fields if key in given}
    merged["constraints"] = check_definition(
        ConstraintsDefinition, study.constraints.model_dump() | limits, COMMAND_LINE
    )
    study = check_definition(StudyDefinition, merged, COMMAND_LINE)
    if isinstance(study.space, SpaceDefinition):
        return study
    return study.model_copy(update={"space": load_space(study.space)})


def check_definition(kind: type[_D], data: Any, source: str) -> _D:
    """Check plain data against a definition.

    Args:
        kind: The definition.
        data: What was read.
        source: The file it comes from, or :data:`COMMAND_LINE`.

    Raises:
        DefinitionError: Naming the source, the key and what would be right.
    """
    if not isinstance(data, dict):
        raise DefinitionError(f"{source} is not a mapping of keys such as {', '.join(kind.model_fields)}")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise DefinitionError(_one_sentence(error, kind, source)) from error


def _one_sentence(error: ValidationError, kind: type[_Definition], source: str) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("str", "SpaceDefinition"))
    where = f"--{where.replace('_', '-')}" if source == COMMAND_LINE else f"{source}: {where}"
    if first["type"] == "extra_forbidden":
        known = _keys(kind, first["loc"][:-1])
        near = did_you_mean(str(first["loc"][-1]), known)
        return f"{where} is not a known key{near}; known are {', '.join(known)}"
    if first["type"] == "missing":
        return f"{where} is missing"
    reason = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    return f"{where} is {first['input']!r}: {reason}"


def _keys(kind: type[_Definition], parents: tuple[int | str, ...]) -> list[str]:
    for parent in parents:
        kind = type(kind.model_fields[str(parent)].default)
    return list(kind.model_fields)


def _read(name: str, kind: _Kind, word: str) -> Any:
    known = shipped_names(kind)
    if name in known:
        text = resources.files("se_search").joinpath(kind, f"{name}.yaml").read_text(encoding="utf-8")
    else:
        path = Path(name)
        if not path.is_file():
            raise DefinitionError(
                f"{word} {name!r} is neither a file nor a shipped {word}: shipped are {', '.join(known)}"
                f"{did_you_mean(name, known)}"
            )
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DefinitionError(f"{name} cannot be read as text: {error}") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not readable"
        raise DefinitionError(f"{name} is not valid YAML{where}: {problem}") from error
