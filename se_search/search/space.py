"""A space of configurations as Optuna sees it: names, distributions and the way back to configurations."""

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution

from ..errors import ConfigurationError
from ..network.config import PlacedSE, SEConfig
from ..network.sites import Site, find_sites
from .definitions import SpaceDefinition

OFF = "none"
"""Choice of a stage's ratio that leaves the stage without SE."""


class SearchSpace:
    """The configurations that a space definition allows on a backbone.

    Its parameters are flat, so that every sampler can use them jointly: ``stage2.ratio`` and so on, ``gate``, and,
    where blocks are placed one by one, one switch named after each block.

    Args:
        backbone: A timm architecture name.
        definition: What may vary.

    Raises:
        BackboneError: If the backbone is unknown or has no sites.
    """

    def __init__(self, backbone: str, definition: SpaceDefinition) -> None:
        self.backbone = backbone
        self.definition = definition
        self.sites = find_sites(backbone)
        self.stages = tuple(sorted({site.stage for site in self.sites}))
        ratios: tuple[str | int, ...] = definition.ratios
        if definition.placement == "stage":
            ratios = (OFF, *ratios)
        self.distributions: dict[str, CategoricalDistribution] = {
            f"stage{stage}.ratio": CategoricalDistribution(ratios) for stage in self.stages
        }
        if definition.placement == "block":
            self.distributions |= {site.block: CategoricalDistribution((False, True)) for site in self.sites}
        self.distributions["gate"] = CategoricalDistribution(definition.gates)

    def to_config(self, parameters: Mapping[str, Any]) -> SEConfig:
        """Return the configuration that ``parameters`` describe; different parameters may describe the same one."""
        placed = []
        for site in self.sites:
            ratio = parameters[f"stage{site.stage}.ratio"]
            if ratio != OFF and parameters.get(site.block, True):
                placed.append(self._place(site, ratio, parameters["gate"]))
        return SEConfig(self.backbone, tuple(placed))

    def to_parameters(self, config: SEConfig) -> dict[str, Any]:
        """Return parameters that describe ``config``.

        Raises:
            ConfigurationError: If the space does not hold the configuration.
        """
        used = {placed.site: placed for placed in config.placed}
        parameters: dict[str, Any] = {"gate": next((one.gate for one in config.placed), self.definition.gates[0])}
        for stage in self.stages:
            ratios = [used[site].ratio for site in self.sites if site.stage == stage and site in used]
            absent = OFF if self.definition.placement == "stage" else self.definition.ratios[0]
            parameters[f"stage{stage}.ratio"] = ratios[0] if ratios else absent
        if self.definition.placement == "block":
            parameters |= {site.block: site in used for site in self.sites}
        parameters = {name: parameters[name] for name in self.distributions}
        allowed = all(value in self.distributions[name].choices for name, value in parameters.items())
        if not allowed or self.to_config(parameters) != config:
            raise ConfigurationError(f"configuration {config.id} is not in this space")
        return parameters

    def draw(self, rng: random.Random) -> SEConfig:
        """Draw a configuration, each parameter uniformly from its choices."""
        return self.to_config({name: rng.choice(one.choices) for name, one in self.distributions.items()})

    def enumerate(self) -> Iterator[dict[str, Any]]:
        """Yield the parameters of every point, those without SE first."""
        choices = [distribution.choices for distribution in self.distributions.values()]
        for values in itertools.product(*choices):
            yield dict(zip(self.distributions, values, strict=True))

    def largest(self) -> SEConfig:
        """Return the configuration with the widest SE block at every site."""
        ratio, gate = min(self.definition.ratios), self.definition.gates[0]
        return SEConfig(self.backbone, tuple(self._place(site, ratio, gate) for site in self.sites))

    def known_answers(self) -> dict[str, SEConfig]:
        """Return the configurations to try first, by name, as far as the space holds them.

        They are no SE, the paper's uniform r=16, and that without the last stage, which the paper found nearly as
        accurate for far fewer parameters.
        """
        uniform = SEConfig(self.backbone, tuple(self._place(site, 16, self.definition.gates[0]) for site in self.sites))
        known = {
            "no SE": SEConfig(self.backbone),
            "uniform r=16": uniform,
            "r=16 without the last stage": uniform.without_stage(self.stages[-1]),
        }
        return {name: config for name, config in known.items() if self._holds(config)}

    def _holds(self, config: SEConfig) -> bool:
        try:
            self.to_parameters(config)
        except ConfigurationError:
            return False
        return True

    def _place(self, site: Site, ratio: int, gate: str) -> PlacedSE:
        return PlacedSE(site, ratio, gate, self.definition.bias, self.definition.rounding)
