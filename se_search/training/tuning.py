"""Which weights a training changes, and how fast, if it starts from trained ones."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from timm.optim import param_groups_weight_decay
from torch import nn


@dataclass(frozen=True)
class Tuning:
    """How a training treats the weights that it starts from.

    Attributes:
        new: Names of the parameters that start untrained; they learn at the recipe's rate.
        rate: Learning rate of all other parameters relative to the recipe's. 0 freezes them: only the modules of new
            parameters are then in training mode.
        keeps_statistics: Whether norms keep their running statistics, and normalise by them.
    """

    new: Collection[str]
    rate: float = 0.0
    keeps_statistics: bool = True

    def freeze(self, model: nn.Module) -> None:
        """Let only the parameters that learn require gradients."""
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.rate > 0 or name in self.new)

    def set_modes(self, model: nn.Module) -> None:
        """Set the modes of a network in training mode."""
        learning = {name.rpartition(".")[0] for name in self.new}
        for name, module in model.named_modules():
            fixed = self.rate == 0 and name not in learning
            norm = self.keeps_statistics and getattr(module, "running_mean", None) is not None
            if fixed or norm:
                module.training = False

    def groups(self, model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
        """Return parameter groups with the ``lr_scale`` of timm's schedules; biases and norms have no weight decay."""
        listed: Collection[str] = getattr(model, "no_weight_decay", set)()
        new = {parameter for name, parameter in model.named_parameters() if name in self.new}
        groups = []
        for group in param_groups_weight_decay(model, weight_decay, no_weight_decay_list=listed):
            parts = [one for one in group["params"] if one in new], [one for one in group["params"] if one not in new]
            scaled = zip(parts, (1.0, self.rate), strict=True)
            groups += [{**group, "params": part, "lr_scale": scale} for part, scale in scaled if part]
        return groups
