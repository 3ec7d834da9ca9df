"""Definitions of evaluators: settings, factories and descriptions."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, Union

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, JsonValue, Tag

from ..definition import MOST_IMAGES, Definition
from ..errors import did_you_mean
from ..words import counted

if TYPE_CHECKING:  # imports PyTorch, which reading a study does not need
    from ..data.image_data import ImageData
    from ..training.common_start import Adaptation
    from ..training.evaluator import Evaluator
    from ..training.recipe import TrainingRecipe
    from ..training.stand_alone import Scratch
    from .definitions import StudyDefinition
    from .space import SearchSpace

FROM_PYTHON = "python:"
"""Prefix of the name of an evaluator that is a Python function."""


def _own_name(name: str) -> str:
    if not re.fullmatch(rf"({FROM_PYTHON})?[A-Za-z_][\w.-]*", name, re.ASCII) or name in SHIPPED_EVALUATORS:
        raise ValueError("must be a name, such as supernet")
    return name


def _optimizer(name: str) -> str:
    from timm.optim import list_optimizers  # imports PyTorch, which only this check needs

    known = list_optimizers()
    if name not in known:
        raise ValueError(f"must be an optimizer of timm, such as adamw or sgd{did_you_mean(name, known)}")
    return name


def _not_compiled(value: bool) -> bool:
    if value:
        raise ValueError("the supernet changes its blocks in every step, so it cannot be compiled")
    return value


LearningRate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EvaluatorDefinition(Definition):
    """Base class of evaluators' definitions.

    Keys from ``epochs`` to ``compile`` are those of :class:`se_search.training.recipe.TrainingRecipe`.
    """

    shipped: ClassVar[bool] = True
    """Whether this package provides the evaluator, which then trains according to the fields."""

    shares_weights: ClassVar[bool] = False
    """Whether one trained network contains every configuration; its excitation can be analysed."""

    shared: ClassVar[str] = ""
    """Name of the files in the run folder that keep the network trained once for all configurations; or empty."""

    estimates_by: ClassVar[str] = "the evaluator {name}"
    """Template of :attr:`method`, with ``{name}`` and ``{epochs}``."""

    name: str
    """Name of the evaluator."""

    epochs: Annotated[int, Field(ge=1)] = 8
    """Training epochs of each network."""

    batch: Annotated[int, Field(ge=2, le=MOST_IMAGES)] = 64
    """Batch size of training."""

    learning_rate: LearningRate = 0.002
    """Peak learning rate."""

    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """Weight decay."""

    optimizer: Annotated[str, AfterValidator(_optimizer)] = "adamw"
    """Name of a timm optimizer, as in ``timm.optim.list_optimizers``."""

    scheduler: Literal["cosine", "tanh", "poly", "wsd", "constant"] = "cosine"
    """Name of a timm learning rate schedule."""

    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of training with a rising learning rate."""

    clip_gradient: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Maximum gradient norm; no clipping by default."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Label smoothing."""

    mixup: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Alpha of mixup; 0 disables it."""

    cutmix: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Alpha of CutMix; 0 disables it."""

    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the exponential moving average of the weights; no averaging by default."""

    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """Precision of training: ``"float32"``, ``"bfloat16"``, or ``"auto"``: what is fastest in a few training steps."""

    channels_last: bool | Literal["auto"] = False
    """Train in the channels-last memory format; ``"auto"``: only if that is faster in a few training steps."""

    compile: bool = False
    """Compile the network with ``torch.compile``; not possible with the supernet."""

    @classmethod
    def own_settings(cls) -> list[str]:
        """Return the settings that are specific to this evaluator."""
        return [name for name in cls.model_fields if name not in EvaluatorDefinition.model_fields]

    @property
    def method(self) -> str:
        """How accuracies are estimated, with the epochs of training."""
        return self.estimates_by.format(name=self.name, epochs=counted(self.epochs, "epoch"))

    @property
    def function(self) -> str:
        """Name of the Python function that creates the evaluator; empty for all others."""
        return self.name.removeprefix(FROM_PYTHON) if self.name.startswith(FROM_PYTHON) else ""

    @property
    def trainings(self) -> int:
        """Number of trainings of each configuration in the search."""
        return 1

    @property
    def rung_factor(self) -> int | None:
        """Factor of successive halving; ``None`` without it."""
        return None

    @property
    def starts_from_published_weights(self) -> bool:
        """Whether training starts from weights that timm publishes, so that their licence applies."""
        return False

    def check(self, folder: Path, backbone: str, data: "ImageData") -> None:
        """Check the inputs of training in a run folder, without training or writing.

        Raises:
            DefinitionError: If an input is missing or cannot be used.
        """

    def create(
        self, definition: "StudyDefinition", space: "SearchSpace", data: "ImageData", recipe: "TrainingRecipe"
    ) -> "Evaluator":
        """Create a shipped evaluator, unprepared; :func:`se_search.trials.evaluators.find_evaluator` creates others.

        Args:
            definition: The study.
            space: The study's space.
            data: The study's data.
            recipe: Training settings.
        """
        raise NotImplementedError

    def create_trainer(
        self, definition: "StudyDefinition", data: "ImageData", recipe: "TrainingRecipe", folder: Path
    ) -> "Scratch":
        """Create the trainer of verification, which starts from random weights or from weights in the run folder.

        Args:
            definition: The study.
            data: The study's data.
            recipe: Training settings.
            folder: The run folder.

        Raises:
            RunFolderError: If the folder lacks the initial weights.
        """
        from ..training.stand_alone import Scratch

        return Scratch(definition.backbone, data, recipe, definition.device)

    def describe_weights(self, seen: str, data: str) -> str:
        """Describe the origin of the weights that the search evaluates.

        Args:
            seen: Data and length of training, as in ``"saw 1000 training images of digits for 8 epochs"``.
            data: Name of the data.
        """
        return self.describe_verified_weights(seen, "the first seed")

    def describe_verified_weights(self, seen: str, training: str) -> str:
        """Describe the origin of the weights that verification evaluates.

        Args:
            seen: As in :meth:`describe_weights`.
            training: The training that gave the weights, as in ``"seed 1"``.
        """
        return f"Trained independently from random weights: the network {seen} (weights of {training})."


class AdaptDefinition(Definition):
    """How pretrained weights are adapted to the data, once, before configurations are compared."""

    epochs: Annotated[int, Field(ge=1)] = 4
    """Epochs of the adaptation."""

    learning_rate: LearningRate = 0.002
    """Peak learning rate of the adaptation."""

    freeze: Literal["backbone", "none"] = "backbone"
    """What stays as it is: the ``"backbone"``, so that only the classifier is trained, or ``"none"``."""


class _FromBackbone(EvaluatorDefinition):
    """Start all configurations from one backbone, which can have pretrained weights."""

    usual_backbone_rate: ClassVar[float]
    """Learning rate of pretrained weights relative to that of inserted blocks, if the user gives none."""

    pretrained: str | None = None
    """Initial weights of the backbone: ``"timm"``, ``"local-dir:FOLDER"``, ``"hf-hub:NAME"`` or the path of a
    checkpoint."""

    adapt: AdaptDefinition | None = None
    """Adaptation of pretrained weights; by default only a classifier for another number of classes is trained."""

    backbone_lr: Annotated[float, Field(gt=0, le=1)] | None = None
    """Learning rate of pretrained weights relative to that of inserted blocks; by default 0.1 for the supernet and 1
    for finetune."""

    @property
    def backbone_rate(self) -> float:
        """``backbone_lr``, or the evaluator's own."""
        return self.usual_backbone_rate if self.backbone_lr is None else self.backbone_lr

    @property
    def starts_from_published_weights(self) -> bool:
        """Whether ``pretrained`` is ``"timm"``."""
        return self.pretrained == "timm"

    def check(self, folder: Path, backbone: str, data: "ImageData") -> None:
        """Check the weights of ``pretrained``, unless the run folder already has a common backbone.

        Raises:
            DefinitionError: If they do not exist, or those of a file or folder cannot be loaded into the backbone.
        """
        from ..network.backbones import network_options
        from ..training.common_start import BACKBONE_WEIGHTS
        from ..training.pretrained import check_pretrained, is_downloaded, load_pretrained

        if self.pretrained is None or (folder / BACKBONE_WEIGHTS).exists():
            return
        check_pretrained(self.pretrained)
        if not is_downloaded(self.pretrained):
            options = network_options(backbone, data.input_size) | {"num_classes": data.classes}
            load_pretrained(backbone, self.pretrained, options)

    @property
    def has_common_backbone(self) -> bool:
        """Whether the run folder has a backbone from which all configurations start."""
        return True

    @property
    def adaptation(self) -> "Adaptation | None":
        """The adaptation that ``adapt`` sets."""
        from ..training.common_start import Adaptation

        return None if self.adapt is None else Adaptation(**self.adapt.model_dump())

    def create_trainer(
        self, definition: "StudyDefinition", data: "ImageData", recipe: "TrainingRecipe", folder: Path
    ) -> "Scratch":
        """Create the trainer that starts from the common backbone in the run folder, if there is one."""
        if not self.has_common_backbone:
            return super().create_trainer(definition, data, recipe, folder)
        from ..training.stand_alone import Finetune

        trainer = Finetune(definition.backbone, data, recipe, definition.device, backbone_rate=self.backbone_rate)
        trainer.load(folder)
        return trainer

    def describe_verified_weights(self, seen: str, training: str) -> str:
        """Describe retraining from the common backbone, if there is one."""
        if not self.has_common_backbone:
            return super().describe_verified_weights(seen, training)
        return (
            f"Trained independently from {self._describe_start()}, with blocks that have no effect at "
            f"initialisation: the network {seen} (weights of {training})."
        )

    def _describe_start(self) -> str:
        if self.pretrained is None:
            return "a backbone that was first trained on the same images"
        if self.starts_from_published_weights:
            start = "the backbone's weights that timm publishes, whose licence applies"
        elif self.pretrained.startswith("hf-hub:"):
            start = f"the backbone weights {self.pretrained}, whose licence applies"
        else:
            start = "backbone weights that the user gave, whose licence applies"
        if self.adapt is None:
            return f"{start} (with a new classifier if they had other classes)"
        part = "classifier was" if self.adapt.freeze == "backbone" else "weights were"
        return f"{start} and whose {part} first adapted to the same images for {counted(self.adapt.epochs, 'epoch')}"


class SupernetDefinition(_FromBackbone):
    """Train one network that contains every configuration."""

    shares_weights = True
    shared = "supernet"
    usual_backbone_rate = 0.1
    estimates_by = "weight sharing ({epochs} of the shared network)"

    name: Literal["supernet"] = "supernet"
    """Name of the evaluator."""

    compile: Annotated[bool, AfterValidator(_not_compiled)] = False
    """Compile the network with ``torch.compile``; not possible with the supernet."""

    recalibration_images: Annotated[int, Field(ge=2)] = 256
    """Training images from which normalisation statistics are re-estimated, and constant gates averaged."""

    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of distillation from the larger network in the loss of the smaller one."""

    patience: Annotated[int, Field(ge=1)] | None = None
    """Early stopping: epochs without a lower training loss; off by default."""

    train: Literal["attention", "all"] = "all"
    """What is trained from pretrained weights: only the inserted ``"attention"``, or ``"all"`` weights."""

    @property
    def has_common_backbone(self) -> bool:
        """Whether there are pretrained weights."""
        return self.pretrained is not None

    def create(
        self, definition: "StudyDefinition", space: "SearchSpace", data: "ImageData", recipe: "TrainingRecipe"
    ) -> "Evaluator":
        """Create the untrained supernet."""
        from ..training.common_start import CommonStart
        from ..training.pretrained_supernet import PretrainedSupernet
        from ..training.supernet import Supernet

        if self.pretrained is not None:
            backbone = (definition.backbone, data, recipe, definition.device, self.pretrained, self.adaptation)
            rate = self.backbone_rate if self.train == "all" else 0.0
            return PretrainedSupernet(
                CommonStart(*backbone),
                space.widest_blocks(),
                rate,
                self.distillation,
                self.patience,
                self.recalibration_images,
            )
        return Supernet(
            definition.backbone,
            space.widest_blocks(),
            data,
            recipe,
            definition.device,
            self.recalibration_images,
            self.distillation,
            self.patience,
        )

    def describe_weights(self, seen: str, data: str) -> str:
        """Describe a slice of the shared weights."""
        if self.pretrained is not None:
            trained = "" if self.train == "all" else ", of which only the inserted blocks were trained,"
            return (
                "A slice of the search's weight-sharing network, without retraining. That network started from "
                f"{self._describe_start()}, with inserted blocks that have no effect at initialisation; it{trained} "
                f"{seen}."
            )
        return (
            "A slice of the search's weight-sharing network, without retraining. That network started from random "
            f"weights, not from published ones, and {seen}; normalisation statistics were re-estimated for this slice."
        )


class _SingleNetworks(EvaluatorDefinition):
    """Train every configuration independently."""

    seeds: Annotated[int, Field(ge=1)] = 1
    """Number of training seeds of each configuration."""

    halving: Annotated[int, Field(ge=2)] | None = None
    """Factor of successive halving; no halving by default."""

    @property
    def trainings(self) -> int:
        """``seeds``."""
        return self.seeds

    @property
    def rung_factor(self) -> int | None:
        """``halving``."""
        return self.halving


class ScratchDefinition(_SingleNetworks):
    """Train every configuration from scratch."""

    estimates_by = "training each network from scratch ({epochs})"

    name: Literal["scratch"] = "scratch"
    """Name of the evaluator."""

    def create(
        self, definition: "StudyDefinition", space: "SearchSpace", data: "ImageData", recipe: "TrainingRecipe"
    ) -> "Evaluator":
        """Create the evaluator that trains every configuration from scratch."""
        from ..training.stand_alone import Scratch

        return Scratch(definition.backbone, data, recipe, definition.device, self.seeds, self.halving)


class FinetuneDefinition(_SingleNetworks, _FromBackbone):
    """Train every configuration from a common backbone."""

    shared = "backbone"
    usual_backbone_rate = 1.0
    estimates_by = "finetuning each network ({epochs} from a common backbone)"

    name: Literal["finetune"] = "finetune"
    """Name of the evaluator."""

    learning_rate: LearningRate = 0.0005
    """Peak learning rate."""

    def create(
        self, definition: "StudyDefinition", space: "SearchSpace", data: "ImageData", recipe: "TrainingRecipe"
    ) -> "Evaluator":
        """Create the evaluator that trains every configuration from a common backbone."""
        from ..training.stand_alone import Finetune

        return Finetune(
            definition.backbone,
            data,
            recipe,
            definition.device,
            self.seeds,
            self.halving,
            self.pretrained,
            self.adaptation,
            self.backbone_rate,
        )


class OwnEvaluatorDefinition(_SingleNetworks):
    """Use an evaluator of a plugin or a Python function."""

    shipped = False

    name: Annotated[str, AfterValidator(_own_name)]
    """Name of a plugin's evaluator, or :data:`FROM_PYTHON` and the name of a Python function."""

    pretrained: str | None = None
    """Initial weights: ``"timm"``, ``"local-dir:FOLDER"``, ``"hf-hub:NAME"`` or the path of a checkpoint."""

    options: dict[str, JsonValue] = Field(default_factory=dict)
    """Further options of the evaluator, as plain data."""

    def describe_weights(self, seen: str, data: str) -> str:
        """Name the evaluator, since only it knows how it trains."""
        return f"Produced by the evaluator {self.name} on {data}, which defines how it trains."


SHIPPED_EVALUATORS: Mapping[str, type[EvaluatorDefinition]] = {
    "supernet": SupernetDefinition,
    "finetune": FinetuneDefinition,
    "scratch": ScratchDefinition,
}
"""Evaluators of this package, by name."""


_KINDS: tuple[type[EvaluatorDefinition], ...] = (*SHIPPED_EVALUATORS.values(), OwnEvaluatorDefinition)

EVALUATOR_TAGS = {f"[{kind.__name__}]": kind for kind in _KINDS}
"""Classes of definitions by the tag that pydantic uses in the locations of its errors."""


def _kind_of(evaluator: Any) -> type[EvaluatorDefinition]:
    if isinstance(evaluator, EvaluatorDefinition):
        return type(evaluator)
    name = evaluator.get("name", "supernet") if isinstance(evaluator, dict) else "supernet"
    return SHIPPED_EVALUATORS.get(name, OwnEvaluatorDefinition) if isinstance(name, str) else OwnEvaluatorDefinition


_OLD_DEFAULTS = {"recalibration_images": 512}
"""Defaults of version 0.1.0 that have changed since."""


def _without_old_defaults(evaluator: Any) -> Any:
    """Remove settings of other evaluators at their defaults, which files of version 0.1.0 contain.

    In that version every evaluator had the settings of all evaluators, and ``null`` meant the default learning rate.
    Support ends with the release after the next.
    """
    if not isinstance(evaluator, dict):
        return evaluator
    fields = {name: kind.model_fields[name] for kind in _KINDS for name in kind.own_settings()}
    old = {name: field.get_default(call_default_factory=True) for name, field in fields.items()} | _OLD_DEFAULTS
    for name in _kind_of(evaluator).own_settings():
        del old[name]
    gone = {name for name, default in old.items() if evaluator.get(name) == default}
    if evaluator.get("learning_rate", 0) is None:
        gone.add("learning_rate")
    return {name: value for name, value in evaluator.items() if name not in gone}


if TYPE_CHECKING:
    AnyEvaluator: TypeAlias = EvaluatorDefinition
else:
    AnyEvaluator = Annotated[
        Union[tuple(Annotated[kind, Tag(tag)] for tag, kind in EVALUATOR_TAGS.items())],  # noqa: UP007  # of a tuple
        Discriminator(lambda evaluator: f"[{_kind_of(evaluator).__name__}]"),
        BeforeValidator(_without_old_defaults),
    ]
