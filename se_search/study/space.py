"""A search space: Optuna distributions, and conversion between parameters and configurations."""

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from optuna.distributions import CategoricalDistribution

from ..errors import BackboneError, ConfigurationError
from ..network.attention.kind import PlacedAttention
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..network.sites import Site, check_grids, check_grids_for, default_position, find_sites
from .space_definition import SpaceDefinition

OFF = "none"
"""Value of a stage's first choice (the ratio in SE) for no block in the stage."""

KEEP = "keep"
"""Value of a stage's first choice for the backbone's own attention, unchanged."""


class SearchSpace:
    """The configurations that a space definition allows on a backbone.

    Its parameters do not depend on each other, so that every sampler can model them jointly: ``stage2.ratio`` and so on
    and ``gate``; with several positions ``position`` or ``stage2.position``; with placement by block one boolean named
    after each block.

    Args:
        backbone: Name of a timm architecture.
        definition: The choices.

    Raises:
        BackboneError: If the backbone is unknown, has no sites, or lacks a position.
        ConfigurationError: If a site has no grid for windows.
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
        choices = self.choices = definition.choices
        self._per_stage, self._per_network = choices.per_stage, choices.per_network
        self._switch = next(iter(self._per_stage))
        self.distributions: dict[str, CategoricalDistribution] = {
            f"stage{stage}.{name}": CategoricalDistribution(self._without_block(stage, name) + values)
            for stage in self.stages
            for name, values in self._per_stage.items()
        }
        if len(self.positions) > 1:
            names = (self._position_name(stage) for stage in self.stages)
            self.distributions |= {name: CategoricalDistribution(self.positions) for name in names}
        if definition.placement == "block":
            self.distributions |= {site.block: CategoricalDistribution((False, True)) for site in self.sites}
        self.distributions |= {name: CategoricalDistribution(values) for name, values in self._per_network.items()}
        check_grids(backbone, self._every_block())

    def check_images(self, input_size: tuple[int, int, int]) -> None:
        """Check that the network can have all blocks for images ``(channels, height, width)``.

        Raises:
            BackboneError: If it does not accept such images.
            ConfigurationError: If a block does not find rows and columns of these images.
        """
        network_options(self.backbone, input_size)
        check_grids_for(self.backbone, self._every_block(), input_size)

    def _every_block(self) -> Iterator[PlacedAttention]:
        for options in self.stage_options():
            yield from (self.place(site, self._uniform_options(options)) for site in self.sites)

    def _without_block(self, stage: int, name: str) -> tuple[Any, ...]:
        if name != self._switch:
            return ()
        existing = any(site.stage == stage and site.position == "existing" for site in self.sites)
        return (*((OFF,) if self.definition.placement == "stage" else ()), *((KEEP,) if existing else ()))

    def _position_name(self, stage: int) -> str:
        return f"stage{stage}.position" if self.definition.position_per == "stage" else "position"

    def to_config(self, parameters: Mapping[str, Any]) -> SEConfig:
        """Return the configuration of ``parameters``; different parameters may have the same configuration."""
        placed, removed = self.chosen(parameters)
        return SEConfig(self.backbone, tuple(self.place(*one) for one in placed), tuple(removed))

    def chosen(self, parameters: Mapping[str, Any]) -> tuple[list[tuple[Site, tuple[Any, ...]]], list[Site]]:
        """Return the sites that get a block, with its options for :meth:`place`, and the sites whose own is removed."""
        placed, removed = [], []
        shared = tuple(parameters[name] for name in self._per_network)
        options = {
            stage: (*(parameters[f"stage{stage}.{name}"] for name in self._per_stage), *shared) for stage in self.stages
        }
        for site in self.sites:
            if site.position != parameters.get(self._position_name(site.stage), self.positions[0]):
                continue
            switch = options[site.stage][0]
            if switch == OFF or not parameters.get(site.block, True):
                if site.position == "existing":
                    removed.append(site)
            elif switch != KEEP:
                placed.append((site, options[site.stage]))
        return placed, removed

    def place(self, site: Site, options: Iterable[Any]) -> PlacedAttention:
        """Create a block from the values of the choices per stage, then those per network."""
        kind: Any = self.definition.kind
        names = (*self._per_stage, *self._per_network)
        return kind(site, **dict(zip(names, options, strict=True)), **self.choices.fixed)

    def to_parameters(self, config: SEConfig) -> dict[str, Any]:
        """Return parameters of ``config``.

        Raises:
            ConfigurationError: If the space does not contain the configuration.
        """
        used = {placed.site: placed for placed in config.placed}
        parameters: dict[str, Any] = {
            name: getattr(config.placed[0], name, None) if config.placed else values[0]
            for name, values in self._per_network.items()
        }
        for stage in self.stages:
            here = [site for site in config.sites if site.stage == stage]
            name = self._position_name(stage)
            if here or name not in parameters:
                parameters[name] = here[0].position if here else self.positions[0]
            block = next((placed for placed in config.placed if placed.site.stage == stage), None)
            for option, values in self._per_stage.items():
                without = self._switch_without_block(config, stage) if option == self._switch else values[0]
                parameters[f"stage{stage}.{option}"] = getattr(block, option, None) if block else without
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

    def _switch_without_block(self, config: SEConfig, stage: int) -> Any:
        existing = [site for site in self.sites if site.stage == stage and site.position == "existing"]
        if existing and not set(existing) <= set(config.removed):
            return KEEP
        return OFF if self.definition.placement == "stage" else self._per_stage[self._switch][0]

    def draw(self, rng: random.Random) -> SEConfig:
        """Draw a configuration; each parameter is uniform over its choices."""
        return self.to_config({name: rng.choice(one.choices) for name, one in self.distributions.items()})

    def enumerate(self) -> Iterator[dict[str, Any]]:
        """Yield the parameters of every point of the space, those without SE first."""
        choices = [distribution.choices for distribution in self.distributions.values()]
        for values in itertools.product(*choices):
            yield dict(zip(self.distributions, values, strict=True))

    def largest(self) -> SEConfig:
        """Return a configuration with the widest SE block at every site of one position."""
        return self.uniform(self.choices.widest)

    def widest_blocks(self) -> tuple[PlacedAttention, ...]:
        """Return the widest block of each site."""
        return tuple(self.place(site, self._uniform_options(self.choices.widest)) for site in self.sites)

    def widen(self, config: SEConfig) -> SEConfig:
        """Return the configuration with the same gate and positions, and the widest block at every site.

        Raises:
            ConfigurationError: If the space does not contain the configuration.
        """
        parameters = self.to_parameters(config)
        widest = self.choices.widest.items()
        parameters |= {f"stage{stage}.{name}": value for stage in self.stages for name, value in widest}
        return self.to_config(parameters | {site.block: True for site in self.sites})

    def known_answers(self) -> dict[str, SEConfig]:
        """Return the baselines that the space contains, by name; a search evaluates them first.

        They are no SE, the paper's uniform r=16, and uniform r=16 without the last stage, which the paper found nearly
        as accurate with far fewer parameters; for a backbone with attention also the unchanged backbone.
        """
        bare = SEConfig.without_attention(self.backbone)
        known = {} if bare == SEConfig(self.backbone) else {"as published": SEConfig(self.backbone)}
        known["no SE"] = bare
        if published := self.choices.published:
            uniform, label = self.uniform(published), self.label(published)
            known[f"uniform {label}"] = uniform
            known[f"{label} without the last stage"] = uniform.without_stage(self.stages[-1])
        return {name: config for name, config in known.items() if self._holds(config)}

    def paper_variants(self) -> dict[str, SEConfig]:
        """Return further configurations of the paper's ablations that the space contains, by name.

        They are uniform with other reduction ratios (section 6.1 of the journal version) and r=16 in a single stage
        (6.4). A search names the trials that have such a configuration.
        """
        published = self.choices.published
        first = published and self.uniform(published)
        others = [options for options in self.stage_options() if self.uniform(options) != first]
        uniform = {f"uniform {self.label(options)}": self.uniform(options) for options in others}
        single = {}
        if published:
            for kept in self.stages:
                config = self.uniform(published)
                for stage in self.stages:
                    config = config if stage == kept else config.without_stage(stage)
                single[f"{self.label(published)} in stage {kept} alone"] = config
        return {name: config for name, config in (uniform | single).items() if self._holds(config)}

    def stage_options(self) -> Iterator[dict[str, Any]]:
        """Yield all combinations of a stage's options, without those for no new block."""
        for values in itertools.product(*self._per_stage.values()):
            yield dict(zip(self._per_stage, values, strict=True))

    def uniform(self, options: Mapping[str, Any], sites: Iterable[Site] | None = None) -> SEConfig:
        """Return the configuration with the same block at all sites; choices without a value have their first one.

        Args:
            options: Values of the choices per stage and per network.
            sites: Sites of the blocks; all of the first position by default.
        """
        if sites is None:
            sites = (site for site in self.sites if site.position == self.positions[0])
        values = self._uniform_options(options)
        return SEConfig(self.backbone, tuple(self.place(site, values) for site in sites))

    def label(self, options: Mapping[str, Any]) -> str:
        """Return the label of a block with these options in figures."""
        return self.place(self.sites[0], self._uniform_options(options)).label

    def _uniform_options(self, options: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(options.get(name, values[0]) for name, values in (self._per_stage | self._per_network).items())

    def _holds(self, config: SEConfig) -> bool:
        try:
            self.to_parameters(config)
        except ConfigurationError:
            return False
        return True
