"""Spaces and studies: plain data checked whole, and frozen."""

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
)
from timm.optim import list_optimizers

from ..errors import ConfigurationError, DefinitionError, did_you_mean
from ..latency.meter import LIMIT, TARGET
from ..network.attention.se import check_gate, check_ratio
from ..network.config import MOST_ROUNDING
from .objectives import OBJECTIVES, RESERVED, Direction

FROM_PYTHON = "python:"
"""What the name of an evaluator begins with that was given as a function from Python."""

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


def _evaluator_name(name: str) -> str:
    if not re.fullmatch(rf"({FROM_PYTHON})?[A-Za-z_][\w.-]*", name, re.ASCII):
        raise ValueError("must be a name, such as supernet")
    return name


def _optimizer(name: str) -> str:
    known = list_optimizers()
    if name not in known:
        raise ValueError(f"must be an optimizer of timm, such as adamw or sgd{did_you_mean(name, known)}")
    return name


class _Definition(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Ratio = Annotated[int, BeforeValidator(_ratio)]
Gate = Annotated[str, BeforeValidator(_gate)]
Share = Annotated[float | None, BeforeValidator(_share_or_none)]
_MOST_PIXELS, _MOST_IMAGES = 2**14, 2**20  # what is beyond is a slip, or meant to use up a machine
_Threads = Annotated[int, Field(ge=1, le=4096)]
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
    rounding: Annotated[int, Field(ge=1, le=MOST_ROUNDING)] = 8


class ConstraintsDefinition(_Definition):
    """Limits; ``None`` is no limit.

    Attributes:
        max_params: Greatest parameter overhead, as a share of the backbone's parameters.
        max_latency: Greatest latency ratio.
    """

    max_params: Share = None
    max_latency: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class EvaluatorDefinition(_Definition):
    """How networks are evaluated.

    Attributes:
        name: ``"supernet"``, ``"finetune"``, ``"scratch"``, the name of a plugin, or that of a function given from
            Python after :data:`FROM_PYTHON`.
        epochs: As in :class:`se_search.training.recipe.TrainingRecipe`, like all further ones to ``compile``.
        batch: Images in one step.
        learning_rate: Peak learning rate; by default 0.0005 for ``finetune`` and 0.002 for all others.
        weight_decay: Weight decay of the weights.
        optimizer: A name of ``timm.optim.list_optimizers``.
        scheduler: A schedule of timm.
        warm_up: Part of the training in which the learning rate rises.
        clip_gradient: Largest norm of the gradient.
        label_smoothing: Share of each label that is spread over all classes.
        mixup: Alpha of mixup.
        cutmix: Alpha of CutMix.
        ema_decay: Decay of an average of the weights.
        precision: ``"float32"`` or ``"bfloat16"``.
        channels_last: Whether tensors keep their channels last in memory.
        compile: Whether ``torch.compile`` compiles the network; not with the supernet.
        recalibration_images: Supernet: training images from which normalisation statistics are estimated anew.
        distillation: Supernet: share of the smaller network's loss that is about the outputs of the larger one.
        patience: Supernet: epochs without a lower training loss after which training ends.
        seeds: Finetune and scratch: trainings of each configuration.
        halving: Finetune and scratch: factor of successive halving; none without it.
        pretrained: Finetune: ``"timm"``, ``"local-dir:FOLDER"`` or the path of a checkpoint.
        options: What a plugin takes besides, plain data.
    """

    name: Annotated[str, AfterValidator(_evaluator_name)] = "supernet"
    epochs: Annotated[int, Field(ge=1)] = 8
    batch: Annotated[int, Field(ge=2, le=_MOST_IMAGES)] = 64
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    optimizer: Annotated[str, AfterValidator(_optimizer)] = "adamw"
    scheduler: Literal["cosine", "tanh", "poly", "wsd", "constant"] = "cosine"
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.1
    clip_gradient: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    mixup: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    cutmix: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    recalibration_images: Annotated[int, Field(ge=2)] = 512
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    patience: Annotated[int, Field(ge=1)] | None = None
    seeds: Annotated[int, Field(ge=1)] = 1
    halving: Annotated[int, Field(ge=2)] | None = None
    pretrained: str | None = None
    options: dict[str, JsonValue] = {}


class SplitsDefinition(_Definition):
    """Names of the parts of a folder or dataset; what is not named is found or cut from the training images.

    Attributes:
        train: The part to train on.
        validation: The part that the search compares configurations on.
        test: The part kept for verification.
    """

    train: str | None = None
    validation: str | None = None
    test: str | None = None


class LatencyDefinition(_Definition):
    """How latency is measured.

    Attributes:
        source: ``"measured"`` for each configuration, or by the additive ``"model"``, and measured on the front only.
        runtime: What runs the networks.
        optimized: Whether networks go through :func:`se_search.optimize_for_inference` first.
        batch: Images in a forward pass.
        size: Height and width of the images; the data's own by default.
        threads: Threads of a CPU operation; the study's own by default.
        dtype: Of weights and images.
        memory_format: Of both.
        cuda_graph: Whether a CUDA graph is replayed.
        target: Half-width of the interval at which a measurement stops, as a share of the ratio.
        limit: Seconds after which it stops.
    """

    source: Literal["measured", "model"] = "measured"
    runtime: Literal["eager", "compile", "onnxruntime", "openvino"] = "eager"
    optimized: bool = False
    batch: Annotated[int, Field(ge=1, le=_MOST_IMAGES)] = 1
    size: Annotated[int, Field(ge=1, le=_MOST_PIXELS)] | None = None
    threads: _Threads | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    memory_format: Literal["contiguous", "channels_last"] = "contiguous"
    cuda_graph: bool = False
    target: Annotated[float, Field(gt=0, le=1)] = TARGET
    limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = LIMIT


def _device(value: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise ValueError("must be cpu, cuda or cuda:N")
    return value


class StudyDefinition(_Definition):
    """How a space is searched.

    Attributes:
        description: One sentence for ``se-search studies``.
        backbone: A timm architecture name.
        data: Name of embedded data, folder of images, or name of a timm dataset.
        data_root: Where a timm dataset is.
        image_size: Height and width at which images of a folder or dataset are shown; the backbone's own by default.
        splits: Names of the parts of such data.
        data_workers: Processes that load images.
        space: Name of a shipped space, path of a file, or the space itself.
        custom_objectives: Directions of objectives that functions given from Python measure.
        objectives: Two or three of :data:`OBJECTIVES` and of ``custom_objectives``, whose every one is among them.
        sampler: ``"ehvi"`` (expected hypervolume improvement, :class:`~se_search.sampling.ehvi.EHVISampler`), or Optuna's
            multi-objective ``"tpe"``, ``"nsga2"`` or ``"random"``.
        priors: Which configurations are tried first: the ``"known"`` answers, or with ``"excitation"`` also those
            without the SE blocks that idle in the trained supernet.
        budget: Distinct configurations to complete.
        trial_limit: Seconds after which a trial fails; none by default.
        seed: Fixes the supernet, the sampler and the order of measurements.
        device: A torch device: ``"cpu"``, ``"cuda"`` or ``"cuda:0"``.
        threads: Threads of a CPU operation; PyTorch's own choice by default.
        constraints: Limits on what a configuration may cost.
        evaluator: How accuracy is estimated.
        latency: How latency is measured.
    """

    description: str = ""
    backbone: str
    data: str = "digits"
    data_root: str | None = None
    image_size: Annotated[int, Field(ge=8, le=_MOST_PIXELS)] | None = None
    splits: SplitsDefinition = SplitsDefinition()
    data_workers: Annotated[int, Field(ge=0, le=1024)] = 0
    space: str | SpaceDefinition = "stages"
    custom_objectives: dict[Annotated[str, AfterValidator(_objective_name)], Direction] = {}
    objectives: Annotated[
        tuple[Annotated[str, AfterValidator(_objective)], ...],
        _Listed,
        Field(min_length=2, max_length=3, validate_default=True),
        AfterValidator(_distinct),
        AfterValidator(_all_custom_ones),
    ] = ("accuracy", "parameter_overhead", "latency_ratio")
    sampler: Literal["ehvi", "tpe", "nsga2", "random"] = "ehvi"
    priors: Literal["known", "excitation"] = "known"
    budget: Annotated[int, Field(ge=1)] = 50
    trial_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    device: Annotated[str, AfterValidator(_device)] = "cpu"
    threads: _Threads | None = None
    constraints: ConstraintsDefinition = ConstraintsDefinition()
    evaluator: EvaluatorDefinition = EvaluatorDefinition()
    latency: LatencyDefinition = LatencyDefinition()

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The direction of each objective."""
        known = {**OBJECTIVES, **self.custom_objectives}
        return tuple(known[name] for name in self.objectives)

    @property
    def resolved_space(self) -> SpaceDefinition:
        """The space itself.

        Raises:
            DefinitionError: If the study only names it; ``load_study`` resolves it.
        """
        if isinstance(self.space, SpaceDefinition):
            return self.space
        raise DefinitionError(f"space {self.space!r} is only named: resolve the study with load_study")


_D = TypeVar("_D", bound=_Definition)


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
    if kind is StudyDefinition and isinstance(data.get("space"), dict):  # the study's errors would be about its name
        whose = "--space" if source == COMMAND_LINE else f"{source}: space"
        data = data | {"space": check_definition(SpaceDefinition, data["space"], whose)}
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise DefinitionError(_one_sentence(error, kind, source)) from error


def _one_sentence(error: ValidationError, kind: type[_Definition], source: str) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("str", "[key]"))
    if source == COMMAND_LINE:
        option = where.removesuffix(".name").removesuffix(".source").removeprefix("evaluator.")
        where = f"--{option.replace('latency.', 'latency-').replace('_', '-')}"
    else:
        where = f"{source}: {where}"
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
