"""A hand-written script with Optuna and timm: each trial is a training from scratch.

Optuna's default sampler proposes a ratio per stage. timm's ResNets accept one attention layer for the whole network
(``block_args``), so ``se_search.create_model`` inserts the blocks; hand-written code would be longer and no faster.
Optimizer and schedule are those with which the benchmark verifies all methods.
"""

from typing import Any, cast

import optuna
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn
from torch.utils.data import DataLoader, Dataset

from baselines import Evaluate, optimize
from se_search import SEConfig, create_model
from se_search.data.image_data import ImageData
from se_search.study.space import SearchSpace


def search(evaluate: Evaluate, space: SearchSpace, budget: int, seed: int) -> list[SEConfig]:
    """Search with Optuna's default sampler; ``evaluate`` is :func:`train` and :func:`log_loss`."""
    study = optuna.create_study(directions=["minimize", "minimize"])
    study.sampler = type(study.sampler)(seed=seed)  # type: ignore[call-arg]  # the default one, made repeatable
    return optimize(study, evaluate, space, budget)


def train(
    config: SEConfig, data: ImageData, epochs: int, batch: int, learning_rate: float, seed: int, device: str
) -> nn.Module:
    """Train one configuration from scratch."""
    torch.manual_seed(seed)
    model = create_model(config, num_classes=data.classes).to(device)
    loader: DataLoader[Any] = DataLoader(cast("Dataset[Any]", data.train), batch_size=batch, shuffle=True)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=learning_rate, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=epochs,
        warmup_epochs=0.1 * epochs,
        warmup_lr=learning_rate / 100,
        step_on_epochs=False,
        updates_per_epoch=len(loader),
    )
    model.train()
    step = 0
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(images.to(device)), labels.to(device)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            scheduler.step_update(step)
    return model.eval()


@torch.inference_mode()
def log_loss(model: nn.Module, data: ImageData, batch: int, device: str) -> float:
    """Log-loss on the validation images."""
    total = 0.0
    for images, labels in DataLoader(cast("Dataset[Any]", data.validation), batch_size=batch):
        total += float(F.cross_entropy(model(images.to(device)), labels.to(device), reduction="sum"))
    return total / len(data.validation)
