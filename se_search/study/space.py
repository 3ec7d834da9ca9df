"""A search space: Optuna distributions, and conversion between parameters and configurations."""

import itertools
import random
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from optuna.distributions import CategoricalDistribution

from ..errors import BackboneError, ConfigurationError
from ..network.attention import KINDS, name_attention
from ..network.attention.grid import Grid
from ..network.attention.kind import PlacedAttention
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..network.folding import Fold, foldable_sites
from ..network.sites import Site, check_grids, check_grids_for, default_position, find_sites, grids_at
from .space_definition import SpaceDefinition

OFF = "none"
"""Value of a stage's first choice (the ratio in SE) for no block in the stage."""

KEEP = "keep"
"""Value of a stage's first choice for the backbone's own attention, unchanged."""

CONSTANT = "constant"
"""Value of a stage's first choice, or of a block's, for the backbone's own attention with a constant gate."""

ON = "new"
"""Value of a stage's choice for a block of the network's kind, in a space with several kinds."""

_KIND = "attention"
_UNIT = re.compile(r".*\.\d+(?=\.|$)")


class Block(NamedTuple):
    """A block without a site: its kind, and the values of the options that a space varies."""

    kind: str
    options: tuple[tuple[str, Any], ...]


class SearchSpace:
    """The configurations that a space definition allows on a backbone.

    Its parameters do not depend on each other, so that every sampler can model them jointly: ``stage2.ratio`` and so on
    and ``gate``; with several positions ``position`` or ``stage2.position``; with placement by block one boolean named
    after each block. With several kinds of attention ``stage2.attention`` and, with one kind for the network,
    ``attention`` select the kind, and the others are ``stage2.se.ratio``, ``se.gate`` and so on: they have no effect if
    another kind is selected.

    Stages are those of the backbone. The blocks of a backbone with one stage are split into equal parts by depth
    instead, if the definition says so.

    Args:
        backbone: Name of a timm architecture.
        definition: The choices.

    Raises:
        BackboneError: If the backbone is unknown, has no sites, lacks a position, or none of its attention can become
            constant and the definition says that it may.
        ConfigurationError: If a site has no grid for windows or neighbours.
    """

    def __init__(self, backbone: str, definition: SpaceDefinition) -> None:
        self.backbone = backbone
        self.definition = definition
        self._grids: dict[tuple[str, str], tuple[Grid, ...]] = {}
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
        self._stage_of = _number_parts(self.sites, definition.depth_parts)
        self.stages = tuple(sorted(set(self._stage_of.values())))
        self._foldable = self._find_foldable() if definition.constant else frozenset()
        self.kinds = definition.kinds
        self._one_kind = len(self.kinds) == 1
        self._switch = next(iter(next(iter(self.kinds.values())).per_stage)) if self._one_kind else _KIND
        self.distributions: dict[str, CategoricalDistribution] = {}
        self._names_of: dict[int, list[str]] = {stage: [] for stage in self.stages}
        for stage in self.stages:
            if not self._one_kind:
                values = tuple(self.kinds) if definition.attention_per == "stage" else (ON,)
                self._add(f"stage{stage}.{_KIND}", self._without_block(stage, _KIND) + values, stage)
            for kind, choices in self.kinds.items():
                for name, values in choices.per_stage.items():
                    self._add(self._of_stage(stage, kind, name), self._without_block(stage, name) + values, stage)
        if len(self.positions) > 1:
            for stage in self.stages:
                self._add(self._position_name(stage), self.positions, stage)
        if definition.placement == "block":
            for site in self.sites:
                constant = (CONSTANT,) if site in self._foldable else ()
                self._add(site.block, (False, True, *constant), self._stage_of[site])
        if not self._one_kind and definition.attention_per == "network":
            self._add(_KIND, tuple(self.kinds))
        for kind, choices in self.kinds.items():
            for name, values in choices.per_network.items():
                self._add(self._of_network(kind, name), values)
        check_grids(backbone, self._every_block())

    def _find_foldable(self) -> frozenset[Site]:
        """Return the sites whose attention can become constant.

        Raises:
            BackboneError: If there are none.
        """
        folds = foldable_sites(self.backbone)
        foldable = frozenset(site for site in self.sites if isinstance(folds.get(site), Fold))
        if not foldable:
            reasons = [f"{site.block}: {folds[site]}" for site in self.sites if site in folds]
            raise BackboneError(
                f"no attention of {self.backbone} can become constant ({(reasons or ['it has none there'])[0]}): "
                "remove constant from the space"
            )
        return foldable

    def merge_extents(self, *sizes: tuple[int, int, int]) -> None:
        """Let windows that hold the whole map count as one configuration, for images of these sizes.

        Args:
            *sizes: ``(channels, height, width)`` of the images on which networks are evaluated and timed.
        """
        if any(one.needs_grid for one in self._every_block()):
            self._grids = grids_at(self.backbone, sizes)

    def structure(self, config: SEConfig) -> tuple[tuple[Any, ...], ...]:
        """Return a key that is equal for configurations with the same network on the images of the space."""
        placed = [one.simplest_on(self._grids.get((one.site.block, one.site.position), ())) for one in config.placed]
        return replace(config, placed=tuple(placed)).structure

    def check_images(self, input_size: tuple[int, int, int]) -> None:
        """Check that the network can have all blocks for images ``(channels, height, width)``.

        Raises:
            BackboneError: If it does not accept such images.
            ConfigurationError: If a block does not find rows and columns of these images.
        """
        network_options(self.backbone, input_size)
        check_grids_for(self.backbone, self._every_block(), input_size)

    def _every_block(self) -> Iterator[PlacedAttention]:
        for block in self.blocks():
            yield from (self.place(site, block) for site in self.sites)

    def _add(self, name: str, values: tuple[Any, ...], stage: int | None = None) -> None:
        """Add a parameter of a stage, or of all."""
        self.distributions[name] = CategoricalDistribution(values)
        for names in self._names_of.values() if stage is None else [self._names_of[stage]]:
            if name not in names:
                names.append(name)

    def names_of(self, stage: int) -> list[str]:
        """Return the names of the parameters that the blocks of a stage depend on."""
        return self._names_of[stage]

    def _of_network(self, kind: str, name: str) -> str:
        return name if self._one_kind else f"{kind}.{name}"

    def _of_stage(self, stage: int, kind: str, name: str) -> str:
        return f"stage{stage}.{self._of_network(kind, name)}"

    def _position_name(self, stage: int) -> str:
        return f"stage{stage}.position" if self.definition.position_per == "stage" else "position"

    def _without_block(self, stage: int, name: str) -> tuple[Any, ...]:
        if name != self._switch:
            return ()
        existing = {site for site in self.sites_of(stage) if site.position == "existing"}
        by_stage = self.definition.placement == "stage"
        constant = by_stage and existing and existing <= self._foldable
        choices = {OFF: by_stage, KEEP: existing, CONSTANT: constant}
        return tuple(choice for choice, offered in choices.items() if offered)

    def stage_of(self, site: Site) -> int:
        """Return the number of a site's stage, or of its part of a backbone that has one stage."""
        return self._stage_of[site]

    @property
    def numbered_sites(self) -> tuple[Site, ...]:
        """The sites with the stage numbers of :meth:`stage_of`, for figures and tables."""
        return tuple(replace(site, stage=stage) for site, stage in self._stage_of.items())

    def sites_of(self, stage: int) -> list[Site]:
        """Return the sites of a stage in forward order."""
        return [site for site in self.sites if self._stage_of[site] == stage]

    def to_config(self, parameters: Mapping[str, Any]) -> SEConfig:
        """Return the configuration of ``parameters``; different parameters may have the same configuration."""
        placed, removed, constant = self.chosen(parameters)
        return SEConfig(self.backbone, tuple(self.place(*one) for one in placed), tuple(removed), tuple(constant))

    def chosen(
        self, parameters: Mapping[str, Any], stages: Collection[int] | None = None
    ) -> tuple[list[tuple[Site, Block]], list[Site], list[Site]]:
        """Return the sites that get a block, with the block, and those whose own attention is removed or constant.

        Args:
            parameters: The parameters; for some stages only, those of :meth:`names_of`.
            stages: The stages; by default all.
        """
        placed, removed, constant = [], [], []
        blocks = {stage: self._block_of(parameters, stage) for stage in (self.stages if stages is None else stages)}
        for site in self.sites:
            stage = self._stage_of[site]
            if stage not in blocks or site.position != parameters.get(self._position_name(stage), self.positions[0]):
                continue
            block, own = blocks[stage], parameters.get(site.block, True)
            if own and CONSTANT in (block, own):
                if site.position == "existing":
                    constant.append(site)
            elif block == OFF or not own:
                if site.position == "existing":
                    removed.append(site)
            elif isinstance(block, Block):
                placed.append((site, block))
        return placed, removed, constant

    def _block_of(self, parameters: Mapping[str, Any], stage: int) -> Block | str:
        """Return the block of a stage; :data:`OFF`, :data:`KEEP` or :data:`CONSTANT` if it has none."""
        switch = parameters[f"stage{stage}.{self._switch}"]
        if switch in (OFF, KEEP, CONSTANT):
            return str(switch)
        kind = next(iter(self.kinds))
        if not self._one_kind:
            kind = parameters[_KIND] if switch == ON else switch
        choices = self.kinds[kind]
        options = {name: parameters[self._of_stage(stage, kind, name)] for name in choices.per_stage}
        options |= {name: parameters[self._of_network(kind, name)] for name in choices.per_network}
        return Block(kind, tuple(options.items()))

    def canonical(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return parameters with the first value for each option of a kind that is not selected."""
        if self._one_kind:
            return dict(parameters)
        blocks = {stage: self._block_of(parameters, stage) for stage in self.stages}
        kinds = {stage: block.kind if isinstance(block, Block) else "" for stage, block in blocks.items()}
        idle = set() if any(kinds.values()) else {_KIND}
        for kind, choices in self.kinds.items():
            idle |= {
                self._of_stage(stage, kind, name)
                for stage, used in kinds.items()
                if used != kind
                for name in choices.per_stage
            }
            if kind not in kinds.values():
                idle |= {self._of_network(kind, name) for name in choices.per_network}
        return {
            name: self.distributions[name].choices[0] if name in idle else value for name, value in parameters.items()
        }

    def place(self, site: Site, block: Block) -> PlacedAttention:
        """Place a block at a site."""
        kind: Any = KINDS[block.kind]
        return kind(site, **dict(block.options), **self.kinds[block.kind].fixed)

    def to_parameters(self, config: SEConfig) -> dict[str, Any]:
        """Return parameters of ``config``.

        Raises:
            ConfigurationError: If the space does not contain the configuration.
        """
        used = {placed.site: placed for placed in config.placed}
        first = {placed.kind: placed for placed in reversed(config.placed)}
        parameters: dict[str, Any] = {_KIND: config.placed[0].kind if config.placed else next(iter(self.kinds))}
        for kind, choices in self.kinds.items():
            for name, values in choices.per_network.items():
                parameters[self._of_network(kind, name)] = getattr(first.get(kind), name, values[0])
        for stage in self.stages:
            sites = set(self.sites_of(stage))
            here = [site for site in config.sites if site in sites]
            name = self._position_name(stage)
            if here or name not in parameters:
                parameters[name] = here[0].position if here else self.positions[0]
            block = next((placed for placed in config.placed if placed.site in sites), None)
            parameters |= self._options_of(block, stage)
            if block is None:
                parameters[f"stage{stage}.{self._switch}"] = self._switch_without_block(config, stage)
        if self.definition.placement == "block":
            parameters |= {site.block: False for site in self.sites}
            for site in self.sites:
                if site.position == parameters.get(self._position_name(self._stage_of[site]), self.positions[0]):
                    kept = site.position == "existing" and site not in config.removed
                    parameters[site.block] |= site in used or kept
                if site in config.constant:
                    parameters[site.block] = CONSTANT
        parameters = {name: parameters[name] for name in self.distributions}
        allowed = all(value in self.distributions[name].choices for name, value in parameters.items())
        if not allowed or self.to_config(parameters) != config:
            raise ConfigurationError(f"configuration {config.id} is not in this space")
        return parameters

    def _options_of(self, block: PlacedAttention | None, stage: int) -> dict[str, Any]:
        """Return the parameters of a stage for a block; other kinds have the first value of each option."""
        options = {}
        for kind, choices in self.kinds.items():
            for name, values in choices.per_stage.items():
                own = block if block is not None and block.kind == kind else None
                options[self._of_stage(stage, kind, name)] = getattr(own, name, values[0])
        if block is not None and not self._one_kind:
            options[f"stage{stage}.{_KIND}"] = block.kind if self.definition.attention_per == "stage" else ON
        return options

    def _switch_without_block(self, config: SEConfig, stage: int) -> Any:
        existing = {site for site in self.sites_of(stage) if site.position == "existing"}
        if existing and existing <= set(config.constant) and self.definition.placement == "stage":
            return CONSTANT
        if existing and not existing <= set(config.removed):
            return KEEP
        return self.distributions[f"stage{stage}.{self._switch}"].choices[0]

    def draw(self, rng: random.Random) -> SEConfig:
        """Draw a configuration; each parameter is uniform over its choices."""
        return self.to_config({name: rng.choice(one.choices) for name, one in self.distributions.items()})

    def enumerate(self) -> Iterator[dict[str, Any]]:
        """Yield the parameters of every point of the space, those without SE first."""
        choices = [distribution.choices for distribution in self.distributions.values()]
        for values in itertools.product(*choices):
            parameters = dict(zip(self.distributions, values, strict=True))
            if self.canonical(parameters) == parameters:
                yield parameters

    def largest(self, kind: str | None = None) -> SEConfig:
        """Return a configuration with the widest block of a kind (default: the first) at every site of one position."""
        kind = kind or next(iter(self.kinds))
        return self.uniform(self.block(kind, self.kinds[kind].widest))

    def widest_blocks(self) -> tuple[PlacedAttention, ...]:
        """Return the widest block of each kind at each site."""
        widest = [self.block(kind, choices.widest) for kind, choices in self.kinds.items()]
        return tuple(self.place(site, block) for site in self.sites for block in widest)

    def widen(self, config: SEConfig) -> SEConfig:
        """Return the configuration with the same gate and positions, and the widest block at every site.

        With several kinds, each block keeps its kind, and the sites without a block get the kind of the first one.

        Raises:
            ConfigurationError: If the space does not contain the configuration.
        """
        parameters = self.to_parameters(config)
        kind = config.placed[0].kind if config.placed else next(iter(self.kinds))
        for stage in self.stages:
            for one, choices in self.kinds.items():
                parameters |= {self._of_stage(stage, one, name): value for name, value in choices.widest.items()}
            switch = f"stage{stage}.{self._switch}"
            if not self._one_kind and parameters[switch] in (OFF, KEEP, CONSTANT):
                parameters[switch] = kind if self.definition.attention_per == "stage" else ON
        return self.to_config(parameters | {site.block: True for site in self.sites})

    @property
    def attention(self) -> str:
        """The word for its kinds of attention, such as SE."""
        return name_attention(self.kinds)

    def baselines(self) -> dict[str, SEConfig]:
        """Return the networks that verification always retrains, by name: the one without attention is the first.

        The others are the published uniform networks that the space contains.
        """
        bare = {f"no {self.attention}": SEConfig.without_attention(self.backbone)}
        return bare | self._contained({f"uniform {self.label(one)}": self.uniform(one) for one in self._published()})

    def known_answers(self) -> dict[str, SEConfig]:
        """Return the baselines that the space contains, by name; a search evaluates them first.

        They are no SE, the paper's uniform r=16, and uniform r=16 without the last stage, which the paper found nearly
        as accurate with far fewer parameters; for a backbone with attention also the unchanged backbone. Other kinds of
        attention have such baselines with their own published options.
        """
        bare = SEConfig.without_attention(self.backbone)
        known = {} if bare == SEConfig(self.backbone) else {"as published": SEConfig(self.backbone)}
        known[f"no {self.attention}"] = bare
        known["constant attention"] = SEConfig(self.backbone, constant=bare.removed)
        for block in self._published():
            uniform, label = self.uniform(block), self.label(block)
            known[f"uniform {label}"] = uniform
            known[f"{label} without the last stage"] = uniform.without_sites(self.sites_of(self.stages[-1]))
        return self._contained(known)

    def paper_variants(self) -> dict[str, SEConfig]:
        """Return further configurations of the paper's ablations that the space contains, by name.

        They are uniform with other reduction ratios (section 6.1 of the journal version) and r=16 in a single stage
        (6.4). A search names the trials that have such a configuration.
        """
        published = self._published()
        known = {
            f"uniform {self.label(block)}": self.uniform(block) for block in self.blocks() if block not in published
        }
        for block in published:
            for stage in self.stages:
                config = self.uniform(
                    block, (site for site in self.sites_of(stage) if site.position == self.positions[0])
                )
                removed = [site for site in self.sites if site.position == "existing" and site not in config.sites]
                config = SEConfig(self.backbone, config.placed, tuple(removed))
                known[f"{self.label(block)} in stage {stage} alone"] = config
        answers = set(self.known_answers().values())
        return {name: config for name, config in self._contained(known).items() if config not in answers}

    def _published(self) -> list[Block]:
        return [self.block(kind, one.published) for kind, one in self.kinds.items() if one.published is not None]

    def _contained(self, configs: Mapping[str, SEConfig]) -> dict[str, SEConfig]:
        """Return the configurations that the space contains, each under its first name."""
        names: dict[SEConfig, str] = {}
        for name, config in configs.items():
            names.setdefault(config, name)
        return {name: config for config, name in names.items() if self._holds(config)}

    def block(self, kind: str, given: Mapping[str, Any]) -> Block:
        """Return a block with the given values, and the first value of each other option that the space varies."""
        choices = self.kinds[kind]
        varied = choices.per_stage | choices.per_network
        return Block(kind, tuple((name, given.get(name, values[0])) for name, values in varied.items()))

    def blocks(self) -> Iterator[Block]:
        """Yield the blocks that a stage may get, each kind with the first value of its choices per network."""
        for kind, choices in self.kinds.items():
            for values in itertools.product(*choices.per_stage.values()):
                yield self.block(kind, dict(zip(choices.per_stage, values, strict=True)))

    def timed_blocks(self) -> tuple[Block, ...]:
        """Return the blocks whose latencies determine those of all others."""
        return tuple(self.block(kind, given) for kind, choices in self.kinds.items() for given in choices.timed)

    def uniform(self, block: Block, sites: Iterable[Site] | None = None) -> SEConfig:
        """Return the configuration with the same block at all ``sites``; by default those of the first position."""
        if sites is None:
            sites = (site for site in self.sites if site.position == self.positions[0])
        return SEConfig(self.backbone, tuple(self.place(site, block) for site in sites))

    def label(self, block: Block) -> str:
        """Return the label of a block in figures."""
        return self.place(self.sites[0], block).label

    def _holds(self, config: SEConfig) -> bool:
        try:
            self.to_parameters(config)
        except ConfigurationError:
            return False
        return True


def _number_parts(sites: tuple[Site, ...], parts: int) -> dict[Site, int]:
    """Number the stages of sites; if there is one, number ``parts`` of equally many units of it from 2 instead.

    A unit is a repeated block of the backbone, such as ``blocks.0`` for ``blocks.0.attn`` and ``blocks.0.mlp``.
    """
    if len({site.stage for site in sites}) > 1:
        return {site: site.stage for site in sites}
    found = {site: _UNIT.match(site.block) for site in sites}
    units = {site: one.group() if one else site.block for site, one in found.items()}
    order = {unit: place for place, unit in enumerate(dict.fromkeys(units.values()))}
    parts = min(parts, len(order))
    return {site: 2 + order[unit] * parts // len(order) for site, unit in units.items()}
