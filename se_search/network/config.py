"""Configurations: immutable descriptions of networks with attention blocks."""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from timm.utils import natural_key

from ..errors import ConfigurationError, did_you_mean
from .attention import DEFAULT_KIND, KINDS, name_attention
from .attention.kind import PlacedAttention, check_choice
from .attention.se import GLOBAL, PlacedSE
from .sites import Site, check_grids, check_site, default_position, find_sites

_MOST_CHARACTERS = 2**20


@dataclass(frozen=True)
class SEConfig:
    """A backbone and the attention blocks to insert; immutable and hashable.

    Attributes:
        backbone: A timm architecture name.
        placed: Blocks, at most one for each site, sorted by stage and block name (in natural order). At a site
            ``existing`` the block replaces the backbone's own attention.
        removed: Sites ``existing`` whose attention is removed, sorted likewise. All other attention stays.
        constant: Sites ``existing`` whose gate is a constant in the weights beside it, sorted likewise. The network has
            no attention there; see :func:`se_search.network.folding.fold_gates`.

    Raises:
        ConfigurationError: If a site occurs twice, a removed or constant site has no attention, or the backbone is not
            a string.
    """

    backbone: str
    placed: tuple[PlacedAttention, ...] = ()
    removed: tuple[Site, ...] = ()
    constant: tuple[Site, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.backbone, str):
            raise ConfigurationError(f"backbone {self.backbone!r} is invalid: it must be a string")
        for place, count in Counter((site.block, site.position) for site in self.sites).items():
            if count > 1:
                raise ConfigurationError(f"{place[0]} ({place[1]}) has {count} entries: a site can have only one")
        for site in self.removed:
            if site.position != "existing":
                raise ConfigurationError(f"{site.block} ({site.position}) has no attention to remove")
        for site in self.constant:
            if site.position != "existing":
                raise ConfigurationError(f"{site.block} ({site.position}) has no attention that could be constant")
        object.__setattr__(self, "placed", tuple(sorted(self.placed, key=lambda one: _forward_order(one.site))))
        object.__setattr__(self, "removed", tuple(sorted(self.removed, key=_forward_order)))
        object.__setattr__(self, "constant", tuple(sorted(self.constant, key=_forward_order)))

    @property
    def sites(self) -> tuple[Site, ...]:
        """All sites that differ from the backbone."""
        return (*(placed.site for placed in self.placed), *self.removed, *self.constant)

    @classmethod
    def uniform(  # noqa: PLR0913
        cls,
        backbone: str,
        ratio: int = 16,
        stages: Iterable[int] | None = None,
        gate: str = "sigmoid",
        position: str = "default",
        bias: bool = True,
        rounding: int = 8,
        *,
        squeeze: str = "avg",
        extent: int | str = GLOBAL,
    ) -> "SEConfig":
        """Put the same SE block at every site of ``position``, in all stages or only in ``stages``.

        Position ``default`` is what suits the backbone: ``existing`` if it has attention, else ``standard`` if it has
        residual branches, else ``post``. The other arguments are options of
        :class:`~se_search.network.attention.se.PlacedSE`.

        Raises:
            BackboneError: If the backbone is unknown or has no sites.
            ConfigurationError: If a value is invalid, the backbone lacks the position or a stage, or a site has no grid
                for windows.
        """
        if position == "default":
            position = default_position(backbone)
        sites = find_sites(backbone, position=position)
        if not sites:
            offered = ", ".join(dict.fromkeys(site.position for site in find_sites(backbone)))
            raise ConfigurationError(f"position {position!r} does not exist in {backbone}: it offers {offered}")
        known = sorted({site.stage for site in sites})
        chosen = set(known if stages is None else stages)
        for stage in chosen:
            if stage not in known:
                raise ConfigurationError(
                    f"stage {stage!r} does not exist in {backbone}: its stages are {', '.join(map(str, known))}"
                )
        placed = tuple(
            PlacedSE(site, ratio, gate, bias, rounding, squeeze=squeeze, extent=extent)
            for site in sites
            if site.stage in chosen
        )
        check_grids(backbone, placed)
        return cls(backbone, placed)

    @property
    def id(self) -> str:
        """Stable identifier: the first 12 hexadecimal digits of the SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    @property
    def structure(self) -> tuple[tuple[Any, ...], ...]:
        """Key that is equal for configurations that create the same network."""
        placed = (one.structure for one in self.placed)
        return (*placed, *((site,) for site in self.removed), *((site, "constant") for site in self.constant))

    def structure_at(self, sites: Collection[Site]) -> tuple[tuple[Any, ...], ...]:
        """Key that is equal for configurations that do not differ at some sites."""
        placed = (one for one in self.placed if one.site in sites)
        removed, constant = (tuple(site for site in of if site in sites) for of in (self.removed, self.constant))
        return replace(self, placed=tuple(placed), removed=removed, constant=constant).structure

    @property
    def attention(self) -> str:
        """The word for the kinds of its new blocks; SE without any."""
        return name_attention(one.kind for one in self.placed)

    @property
    def is_local(self) -> bool:
        """Whether a new block has local focus."""
        return any(one.is_local for one in self.placed)

    @property
    def block_count(self) -> int:
        """Number of attention blocks in the network, including the backbone's own."""
        own = find_sites(self.backbone, position="existing")
        return len(self.placed) + len(set(own).difference(self.sites))

    def with_site(
        self,
        site: Site,
        ratio: int = 16,
        gate: str = "sigmoid",
        bias: bool = True,
        rounding: int = 8,
        *,
        squeeze: str = "avg",
        extent: int | str = GLOBAL,
    ) -> "SEConfig":
        """Return a copy with an SE block at ``site``, which replaces any other block there.

        Raises:
            ConfigurationError: If the backbone has no such site, it has no grid for windows, or a value is invalid.
        """
        check_site(site, self.backbone, find_sites(self.backbone))
        others = [placed for placed in self.placed if placed.site != site]
        removed = tuple(other for other in self.removed if other != site)
        constant = tuple(other for other in self.constant if other != site)
        placed = PlacedSE(site, ratio, gate, bias, rounding, squeeze=squeeze, extent=extent)
        check_grids(self.backbone, [placed])
        return replace(self, placed=(*others, placed), removed=removed, constant=constant)

    def with_constant(self, site: Site) -> "SEConfig":
        """Return a copy in which the gate at ``site`` is a constant in the weights beside it.

        At other positions than ``existing``, the network is then that without the block.
        """
        placed = tuple(one for one in self.placed if one.site != site)
        if site.position != "existing":
            return replace(self, placed=placed)
        others = tuple(other for other in self.constant if other != site)
        removed = tuple(other for other in self.removed if other != site)
        return replace(self, placed=placed, removed=removed, constant=(*others, site))

    def without_stage(self, stage: int) -> "SEConfig":
        """Return a copy without the blocks of ``stage``; attention that they replaced does not return."""
        return self.without_sites(placed.site for placed in self.placed if placed.site.stage == stage)

    def without_sites(self, sites: Iterable[Site]) -> "SEConfig":
        """Return a copy without the blocks at ``sites``; attention that they replaced does not return."""
        gone = {placed.site for placed in self.placed}.intersection(sites)
        return replace(
            self,
            placed=tuple(placed for placed in self.placed if placed.site not in gone),
            removed=(*self.removed, *(site for site in gone if site.position == "existing")),
        )

    @classmethod
    def without_attention(cls, backbone: str) -> "SEConfig":
        """Return the backbone without its own attention.

        Raises:
            BackboneError: If the backbone is unknown.
        """
        return cls(backbone, removed=find_sites(backbone, position="existing"))

    def starting_at_identity(self) -> "SEConfig":
        """Return a copy whose blocks have no effect before training."""
        return replace(self, placed=tuple(placed.at_identity() for placed in self.placed))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for :meth:`from_dict`."""
        return {
            "backbone": self.backbone,
            "sites": [_site_to_dict(one.site) | one.options() | _kind_key(one) for one in self.placed],
            "removed": [_site_to_dict(site) for site in self.removed],
        } | ({"constant": [_site_to_dict(site) for site in self.constant]} if self.constant else {})

    @classmethod
    def from_dict(cls, data: Any) -> "SEConfig":
        """Read the output of :meth:`to_dict`.

        Raises:
            ConfigurationError: If ``data`` are invalid.
        """
        _check_keys(data, _KEYS, "an SE configuration", optional=("constant",))
        data = {"constant": [], **data}
        for key in ("sites", "removed", "constant"):
            if not isinstance(data[key], list):
                raise ConfigurationError(f"{key!r} of an SE configuration must be a list, not {data[key]!r}")
        for key, what in (("removed", "removes"), ("constant", "makes constant")):
            for one in data[key]:
                _check_keys(one, frozenset(_SITE_KEYS), f"a site that an SE configuration {what}")
        placed = tuple(_block_from_dict(one) for one in data["sites"])
        removed, constant = (tuple(_site(one) for one in data[key]) for key in ("removed", "constant"))
        return cls(data["backbone"], placed, removed, constant)

    def to_json(self) -> str:
        """Return the canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "SEConfig":
        """Read the output of :meth:`to_json`.

        Raises:
            ConfigurationError: If ``text`` is invalid.
        """
        if len(text) > _MOST_CHARACTERS:
            raise ConfigurationError(f"not an SE configuration: the text has more than {_MOST_CHARACTERS:,} characters")
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigurationError(f"not an SE configuration: {error}") from error
        return cls.from_dict(data)


@functools.lru_cache(maxsize=4096)
def read_config(text: str) -> SEConfig:
    """Read a configuration as :meth:`SEConfig.from_json`, with a cache."""
    return SEConfig.from_json(text)


@functools.lru_cache(maxsize=4096)
def _forward_order(site: Site) -> tuple[Any, ...]:
    return site.stage, natural_key(site.block), site.position


def _kind_key(placed: PlacedAttention) -> dict[str, str]:
    return {} if placed.kind == DEFAULT_KIND else {"kind": placed.kind}


def _block_from_dict(data: Any) -> PlacedAttention:
    named = isinstance(data, dict) and "kind" in data
    kind: Any = KINDS[check_choice("kind of attention", data["kind"], KINDS) if named else DEFAULT_KIND]
    options = kind.option_names()
    keys = frozenset((*_SITE_KEYS, *options, *(["kind"] if named else [])))
    _check_keys(data, keys, "a site of an SE configuration", optional=kind.later)
    return kind(_site(data), **{name: data[name] for name in options if name in data})


def _site_to_dict(site: Site) -> dict[str, Any]:
    return {name: getattr(site, name) for name in _SITE_KEYS}


def _site(data: Any) -> Site:
    return Site(**{key: data[key] for key in _SITE_KEYS})


def _check_keys(data: Any, known: frozenset[str], what: str, optional: Collection[str] = ()) -> None:
    if not isinstance(data, dict):
        raise ConfigurationError(f"{what} must be an object with the keys {', '.join(sorted(known))}, not {data!r}")
    for key in data.keys() - known:
        raise ConfigurationError(f"key {key!r} of {what} is unknown{did_you_mean(str(key), known)}")
    for key in sorted(known - data.keys() - set(optional)):
        raise ConfigurationError(f"key {key!r} of {what} is missing")


_KEYS = frozenset({"backbone", "sites", "removed", "constant"})
_SITE_KEYS = tuple(field.name for field in fields(Site) if field.compare)
