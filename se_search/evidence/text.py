"""Published results and the atlas on the terminal, without PyTorch."""

from collections.abc import Iterable, Mapping, Sequence

from ..network.stages import StageSites, totals_by_position
from ..progress import print_table, say
from ..words import counted, percent
from .atlas import RATIOS, ArchitectureCosts, atlas
from .known import Evidence, points
from .published import PublishedPair, family_of, gains_of, se_pairs

_MOST_DECIMALS = 2  # an interval is about half a point wide on each side


def show_evidence(found: Evidence) -> None:
    """Show what is published about SE in a backbone."""
    for title, pairs in (
        (f"{found.backbone}:", found.own),
        ("Others of its family:" if found.own else "Its family:", found.family),
        ("Networks of the nearest sizes:", found.nearest),
    ):
        if pairs:
            say(title)
            _print_results(pairs)
            say("")
    if found.ablations:
        say("The SENet paper's ablations of it, with longer training:")
        _print_ablations(found.ablations)
        say("")
    for sentence in found.sentences:
        say(sentence)


def show_families() -> None:
    """Show the published gains of each family."""
    by_family: dict[str, list[PublishedPair]] = {}
    for pair in se_pairs():
        by_family.setdefault(family_of(pair.without), []).append(pair)
    rows = []
    for family, pairs in by_family.items():
        gains = gains_of(pairs, family)
        differ = "other parts differ too" if gains.others_differ else ""
        rows.append((family, differ, str(gains.count), points(gains.low), points(gains.high)))
    print_table(("family", "", *(right := ("results", "smallest", "largest"))), rows, right, gap=1)
    say(
        "Published gains of SE in points of ImageNet top-1 accuracy, one checkpoint each. If a family has results in "
        "which only the attention differs, the others are left out. `se-search evidence BACKBONE` lists results."
    )


def show_atlas(found: Mapping[str, ArchitectureCosts | None]) -> None:
    """Show what SE costs in architectures, at the default position of each.

    Args:
        found: Costs by name; ``None`` without costs.
    """
    headings = ("parameters", "GFLOPs", "sites", "r=4", "r=8", "r=16", "r=32", "FLOPs", "own")
    rows = []
    for name, costs in found.items():
        if costs is None:
            say(f"{name}: no costs: {atlas().reason(name)}")
            continue
        shares = [percent(costs.uniform(ratio)[0] / costs.parameters) for ratio in RATIOS]
        rows.append(
            (
                name,
                costs.family,
                costs.default_position,
                f"{costs.parameters / 1e6:.4g} M",
                f"{costs.flops / 1e9:.3g}",
                str(sum(group.sites for group in costs.at(costs.default_position))),
                *shares,
                percent(costs.uniform(16)[1] / costs.flops),
                percent(costs.attention_parameters / costs.parameters) if costs.attention_sites else "",
            )
        )
    if not rows:
        return
    print_table(("architecture", "family", "position", *headings), rows, headings, gap=1)
    for costs in filter(None, found.values() if len(found) == 1 else ()):
        say("")
        _print_by_stage(costs)
    say(
        f"timm {atlas().timm}, at its input sizes. r=4 to r=32: parameters of SE blocks at all sites of the position, "
        "as shares of the backbone's; FLOPs: those of r=16; own: parameters of the backbone's own attention, which SE "
        "replaces at existing sites."
    )


def show_stages(stages: Sequence[StageSites], parameters: int, position: str | None) -> None:
    """Show the sites of a backbone by stage, with the parameters of SE blocks there.

    Args:
        stages: The sites of all positions.
        parameters: Parameters of the backbone.
        position: Show the stages of this position only.
    """
    rows = []
    for one in stages:
        if position in (None, one.position):
            channels = " to ".join(f"{number:,}" for number in sorted(set(one.channels)))
            now = f"{one.weights:,}" if one.weights else ""
            costs = (str(one.sites), channels, f"{one.formula(16):,.0f}", now)
            rows.append((str(one.stage), one.module, one.position, *costs))
    if rows:
        print_table(("stage", "module", "position", *_OF_SITES), rows, _OF_SITES)
    say("Stages are numbered as in the paper: the stem is 1. --all lists every site.")
    show_totals(stages, parameters)


_OF_SITES = ("sites", "channels", "2C²/16", "now")


def show_totals(stages: Iterable[StageSites], parameters: int) -> None:
    """Show the parameters that SE at all sites of each position adds; arguments as for :func:`show_stages`."""
    for one in totals_by_position(stages):
        added = f"adds {one.formula:,.0f} to {parameters:,} parameters"
        share = percent(one.formula / parameters, sign="+")
        say(f"{one.position}: {counted(one.sites, 'site')}; r=16 at all {added} ({share}).")


def _print_by_stage(costs: ArchitectureCosts) -> None:
    headings = ("sites", "2C²/16", *(f"r={ratio}" for ratio in RATIOS), "FLOPs, r=16")
    rows = []
    for group in costs.sites:
        numbers = (2 * group.squares // 16, *group.parameters, group.flops[RATIOS.index(16)])
        rows.append((str(group.stage), group.position, str(group.sites), *(f"{one:,}" for one in numbers)))
    print_table(("stage", "position", *headings), rows, headings, gap=1)


_VALUES = ("without", "with", "points", "95 %")


def _print_results(pairs: Iterable[PublishedPair]) -> None:
    rows = [
        (
            pair.with_attention.partition(".")[0],
            pair.recipe,
            pair.attention,
            str(pair.image_size),
            *_values(pair),
            "; ".join(filter(None, (pair.what_else_differs, pair.source))),
        )
        for pair in pairs
    ]
    headings = ("network", "recipe", "", "pixels", *_VALUES, "what else differs, source")
    print_table(headings, rows, right=("pixels", *_VALUES), gap=1)


def _print_ablations(pairs: Iterable[PublishedPair]) -> None:
    rows = [(pair.varies, pair.with_attention, *_values(pair), pair.source) for pair in pairs]
    print_table(("ablation", "value", *_VALUES, "source"), rows, right=_VALUES, gap=1)


def _values(pair: PublishedPair) -> tuple[str, ...]:
    """Return both accuracies, their difference and its interval, with no more decimals than the source has."""
    decimals = min(pair.decimals, _MOST_DECIMALS)
    low, high = (points(end, decimals) for end in pair.interval)
    top1 = (f"{one:.{decimals}f}" for one in (pair.top1_without, pair.top1_with))
    return *top1, points(pair.gain, decimals), f"[{low}, {high}]"
