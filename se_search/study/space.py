"""A space of configurations as Optuna sees it: names, distributions and the way back to configurations."""

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution

from ..errors import BackboneError, ConfigurationError
from ..network.attention.se import hidden_channels
from ..network.config import PlacedSE, SEConfig
from ..network.sites import Site, default_position, find_sites
from .space_definition import SpaceDefinition

OFF = "none"
"""Choice of a stage's ratio that leaves the stage without SE."""

KEEP = "keep"
"""Choice of a stage's ratio that leaves the attention that the backbone has there as it is."""


class SearchSpace:
    """The configurations that a space definition allows on a backbone.

    Its parameters are flat, so that every sampler can use them jointly: ``stage2.ratio`` and so on, ``gate``, where
    there is a choice of positions ``position`` or ``stage2.position``, and, where blocks are placed one by one, one
    switch named after each block.

    Args:
        backbone: A timm architecture name.
        definition: What may vary.

    Raises:
        BackboneError: If the backbone is unknown, has no sites, or lacks a position.
    """

    def __init__(self, backbone: str, definition: SpaceDefinition) -> None:
        self.backbone = backbone
        self.definition = definition
        found = find_sites(backbone)
        offered = tuple(dict.fromkeys(site.position for site in found))
        default = default_position(backbone)
        named = (default if position == "default" else position for position in definition.positions)
        self.positions = tuple(dict.fromkeys(named))
        for position in self.positions:
            if position not in offered:
                raise BackboneError(
                    f"position {position!r} does not exist in {backbone}: it offers {', '.join(offered)}"
                )
        self.sites = tuple(site for site in found if site.position in self.positions)
        self.stages = tuple(sorted({site.stage for site in self.sites}))
        self.distributions: dict[str, CategoricalDistribution] = {
            f"stage{stage}.ratio": CategoricalDistribution(self._ratios(stage)) for stage in self.stages
        }
        if len(self.positions) > 1:
            names = (self._position_name(stage) for stage in self.stages)
            self.distributions |= {name: CategoricalDistribution(self.positions) for name in names}
        if definition.placement == "block":
            self.distributions |= {site.block: CategoricalDistribution((False, True)) for site in self.sites}
        self.distributions["gate"] = CategoricalDistribution(definition.gates)

    def _ratios(self, stage: int) -> tuple[str | int, ...]:
        existing = any(site.stage == stage and site.position == "existing" for site in self.sites)
        off = (OFF,) if self.definition.placement == "stage" else ()
        return (*off, *((KEEP,) if existing else ()), *self.definition.ratios)

    def _position_name(self, stage: int) -> str:
        return f"stage{stage}.position" if self.definition.position_per == "stage" else "position"

    def to_config(self, parameters: Mapping[str, Any]) -> SEConfig:
        """Return the configuration that ``parameters`` describe; different parameters may describe the same one."""
        placed, removed = self.chosen(parameters)
        blocks = tuple(self._place(site, ratio, parameters["gate"]) for site, ratio in placed)
        return SEConfig(self.backbone, blocks, tuple(removed))

    def chosen(self, parameters: Mapping[str, Any]) -> tuple[list[tuple[Site, int]], list[Site]]:
        """Return the sites that get an SE block, with its ratio, and those whose own attention is taken out."""
        placed, removed = [], []
        for site in self.sites:
            if site.position != parameters.get(self._position_name(site.stage), self.positions[0]):
                continue
            ratio = parameters[f"stage{site.stage}.ratio"]
            if ratio == OFF or not parameters.get(site.block, True):
                if site.position == "existing":
                    removed.append(site)
            elif ratio != KEEP:
                placed.append((site, ratio))
        return placed, removed

    def to_parameters(self, config: SEConfig) -> dict[str, Any]:
        """Return parameters that describe ``config``.

        Raises:
            ConfigurationError: If the space does not hold the configuration.
        """
        used = {placed.site: placed for placed in config.placed}
        parameters: dict[str, Any] = {"gate": next((one.gate for one in config.placed), self.definition.gates[0])}
        for stage in self.stages:
            here = [site for site in config.sites if site.stage == stage]
            name = self._position_name(stage)
            if here or name not in parameters:
                parameters[name] = here[0].position if here else self.positions[0]
            parameters[f"stage{stage}.ratio"] = self._ratio_of(config, stage)
        if self.definition.placement == "block":
            parameters |= {site.block: False for site in self.sites}
            for site in self.sites:
                if site.position == parameters.get(self._position_name(site.stage), self.positions[0]):
                    kept = site.position == "existing" and site not in config.removed
                    parameters[site.block] |= site in used or kept
        parameters = {name: parameters[name] for name in self.distributions}
        allowed = all(value in self.distributions[name].choices for name, value in parameters.items())
        if not allowed or self.to_config(parameters) != config:
            raise ConfigurationError(f"configuration {config.id} is not in this space")
        return parameters

    def _ratio_of(self, config: SEConfig, stage: int) -> str | int:
        for placed in config.placed:
            if placed.site.stage == stage:
                return placed.ratio
        existing = [site for site in self.sites if site.stage == stage and site.position == "existing"]
        if existing and not set(existing) <= set(config.removed):
            return KEEP
        return OFF if self.definition.placement == "stage" else self.definition.ratios[0]

    def draw(self, rng: random.Random) -> SEConfig:
        """Draw a configuration, each parameter uniformly from its choices."""
        return self.to_config({name: rng.choice(one.choices) for name, one in self.distributions.items()})

    def enumerate(self) -> Iterator[dict[str, Any]]:
        """Yield the parameters of every point, those without SE first."""
        choices = [distribution.choices for distribution in self.distributions.values()]
        for values in itertools.product(*choices):
            yield dict(zip(self.distributions, values, strict=True))

    def largest(self) -> SEConfig:
        """Return a configuration with the widest SE block at every site of one position."""
        return self._uniform(min(self.definition.ratios))

    def widest_blocks(self) -> dict[Site, int]:
        """Return the hidden width of the widest SE block of each site."""
        definition = self.definition
        ratio = min(definition.ratios)
        return {site: hidden_channels(site.channels, ratio, definition.rounding) for site in self.sites}

    def widen(self, config: SEConfig) -> SEConfig:
        """Return the widest relative of a configuration: its gate and positions, the widest block at each of them.

        Raises:
            ConfigurationError: If the space does not hold the configuration.
        """
        parameters = self.to_parameters(config)
        parameters |= {f"stage{stage}.ratio": min(self.definition.ratios) for stage in self.stages}
        return self.to_config(parameters | {site.block: True for site in self.sites})

    def known_answers(self) -> dict[str, SEConfig]:
        """Return the configurations to try first, by name, as far as the space holds them.

        They are no SE, the paper's uniform r=16, and that without the last stage, which the paper found nearly as
        accurate for far fewer parameters; for a backbone with attention also the backbone as it is.
        """
        bare = SEConfig.without_attention(self.backbone)
        known = {} if bare == SEConfig(self.backbone) else {"as published": SEConfig(self.backbone)}
        known |= {
            "no SE": bare,
            "uniform r=16": self._uniform(16),
            "r=16 without the last stage": self._uniform(16).without_stage(self.stages[-1]),
        }
        return {name: config for name, config in known.items() if self._holds(config)}

    def paper_variants(self) -> dict[str, SEConfig]:
        """Return further configurations of the paper's ablations, by name, as far as the space holds them.

        They are uniform with other reduction ratios (section 6.1 of the journal version) and r=16 in one stage alone
        (6.4). A search marks them where it comes upon them.
        """
        uniform = {f"uniform r={ratio}": self._uniform(ratio) for ratio in self.definition.ratios if ratio != 16}
        all_stages = self._uniform(16)
        single = {}
        for kept in self.stages:
            config = all_stages
            for stage in self.stages:
                config = config if stage == kept else config.without_stage(stage)
            single[f"r=16 in stage {kept} alone"] = config
        return {name: config for name, config in (uniform | single).items() if self._holds(config)}

    def _uniform(self, ratio: int) -> SEConfig:
        gate = self.definition.gates[0]
        sites = [site for site in self.sites if site.position == self.positions[0]]
        return SEConfig(self.backbone, tuple(self._place(site, ratio, gate) for site in sites))

    def _holds(self, config: SEConfig) -> bool:
        try:
            self.to_parameters(config)
        except ConfigurationError:
            return False
        return True

    def _place(self, site: Site, ratio: int, gate: str) -> PlacedSE:
        return PlacedSE(site, ratio, gate, self.definition.bias, self.definition.rounding)
