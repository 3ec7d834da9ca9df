"""Definition of an evaluator: how networks are evaluated."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from ..errors import did_you_mean
from .base import MOST_IMAGES, Definition

FROM_PYTHON = "python:"
"""What the name of an evaluator begins with that was given as a function from Python."""


def _evaluator_name(name: str) -> str:
    if not re.fullmatch(rf"({FROM_PYTHON})?[A-Za-z_][\w.-]*", name, re.ASCII):
        raise ValueError("must be a name, such as supernet")
    return name


def _optimizer(name: str) -> str:
    from timm.optim import list_optimizers  # PyTorch with it, which only this check needs

    known = list_optimizers()
    if name not in known:
        raise ValueError(f"must be an optimizer of timm, such as adamw or sgd{did_you_mean(name, known)}")
    return name


class EvaluatorDefinition(Definition):
    """How networks are evaluated."""

    name: Annotated[str, AfterValidator(_evaluator_name)] = "supernet"
    """``"supernet"``, ``"finetune"``, ``"scratch"``, the name of a plugin, or that of a function given from Python
    after :data:`FROM_PYTHON`."""

    epochs: Annotated[int, Field(ge=1)] = 8
    """As in :class:`se_search.training.recipe.TrainingRecipe`, like all further ones to ``compile``."""

    batch: Annotated[int, Field(ge=2, le=MOST_IMAGES)] = 64
    """Images in one step."""

    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Peak learning rate; by default 0.0005 for ``finetune`` and 0.002 for all others."""

    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.05
    """Weight decay of the weights."""

    optimizer: Annotated[str, AfterValidator(_optimizer)] = "adamw"
    """A name of ``timm.optim.list_optimizers``."""

    scheduler: Literal["cosine", "tanh", "poly", "wsd", "constant"] = "cosine"
    """A schedule of timm."""

    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Part of the training in which the learning rate rises."""

    clip_gradient: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Largest norm of the gradient."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread over all classes."""

    mixup: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Alpha of mixup."""

    cutmix: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Alpha of CutMix."""

    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an average of the weights."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """``"float32"`` or ``"bfloat16"``."""

    channels_last: bool = False
    """Whether tensors keep their channels last in memory."""

    compile: bool = False
    """Whether ``torch.compile`` compiles the network; not with the supernet."""

    recalibration_images: Annotated[int, Field(ge=2)] = 512
    """Supernet: training images from which normalisation statistics are estimated anew."""

    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Supernet: share of the smaller network's loss that is about the outputs of the larger one."""

    patience: Annotated[int, Field(ge=1)] | None = None
    """Supernet: epochs without a lower training loss after which training ends."""

    seeds: Annotated[int, Field(ge=1)] = 1
    """Finetune and scratch: trainings of each configuration."""

    halving: Annotated[int, Field(ge=2)] | None = None
    """Finetune and scratch: factor of successive halving; none without it."""

    pretrained: str | None = None
    """Finetune: ``"timm"``, ``"local-dir:FOLDER"`` or the path of a checkpoint."""

    options: dict[str, JsonValue] = Field(default_factory=dict)
    """What a plugin takes besides, plain data."""
