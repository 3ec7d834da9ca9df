"""Definition of an evaluator: how networks are evaluated."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue
from timm.optim import list_optimizers

from ..errors import did_you_mean
from .base import MOST_IMAGES, Definition

FROM_PYTHON = "python:"
"""What the name of an evaluator begins with that was given as a function from Python."""


def _evaluator_name(name: str) -> str:
    if not re.fullmatch(rf"({FROM_PYTHON})?[A-Za-z_][\w.-]*", name, re.ASCII):
        raise ValueError("must be a name, such as supernet")
    return name


def _optimizer(name: str) -> str:
    known = list_optimizers()
    if name not in known:
        raise ValueError(f"must be an optimizer of timm, such as adamw or sgd{did_you_mean(name, known)}")
    return name


class EvaluatorDefinition(Definition):
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
    batch: Annotated[int, Field(ge=2, le=MOST_IMAGES)] = 64
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
    options: dict[str, JsonValue] = Field(default_factory=dict)
