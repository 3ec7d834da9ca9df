"""What each choice of the configurations contributed to their quality, as far as the trials can tell it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.trial import TrialState
from scipy import optimize, stats

from ..network.config import SEConfig
from ..network.sites import Site
from ..statistics import CONFIDENCE, Estimate, Interval, difference_in_words
from ..study.objectives import Objective
from ..trials.notes import refusing_foreign_trials, unpack
from ..words import percent
from .table import read_config

_Values = npt.NDArray[np.float64]

_FEWEST_TO_SPARE = 5  # trials beyond the number of effects, without which the spread is not known
_MOST_BLOCKS = 4096  # of images, whose means stand for them
_ROUNDING = 1e-6
_OFF = "off"


@dataclass(frozen=True)
class Level:
    """One choice for a factor.

    Attributes:
        level: The choice.
        trials: Number of trials with this choice.
        effect: Effect on quality with its interval; ``None`` if it cannot be estimated.
    """

    level: str
    trials: int
    effect: Interval | None


@dataclass(frozen=True)
class Factor:
    """A part of the configuration and its contribution to quality.

    Attributes:
        name: Name in the report.
        importance: Share of the variance that the model would lose without it; ``None`` if it cannot be estimated.
        reference: What its levels are compared with; empty for numbers of blocks.
        levels: The choices.
        told: Whether the effect of any level is known.
        why: Why some effects are unknown; empty if all are known.
    """

    name: str
    importance: Interval | None
    reference: str
    levels: tuple[Level, ...]
    told: bool
    why: str


@dataclass(frozen=True)
class Contributions:
    """What each choice of the configurations contributed to their quality.

    Attributes:
        factors: The parts of the configuration that may vary.
        explained: Share of the variance that the model explains (adjusted R²); ``None`` without a model.
        trials: Number of trials that the model is fitted to.
        sentence: A summary in one sentence.
    """

    factors: tuple[Factor, ...]
    explained: float | None
    trials: int
    sentence: str


def describe_contributions(
    trials: pd.DataFrame, sites: Sequence[Site], quality: Objective, images: Mapping[int, _Values]
) -> Contributions:
    """Tell what each stage's ratio and placement, the gate and the position change in accuracy or log-loss.

    The quality of complete trials is fitted by an additive model, by least squares: for each stage one effect for each
    ratio against no SE there and, where blocks are placed one by one, one for each block above the stage's mean number
    of them; for each gate and position one against the most frequent. Factors that never vary are left out.

    An interval covers two sources of chance: what the model leaves open between trials, with standard errors that allow
    any spread of each trial (HC2; MacKinnon and White 1985) and degrees of freedom to match (Bell and McCaffrey 2002),
    and which images the trials were judged on, by the variance of the effect between them. Both margins are squared and
    added (Zou and Donner 2008). They are as wide as Bonferroni's correction for the number of effects wants. Of 80
    simulated studies of 50 trials (``tests/search/test_contributions.py``) all of them hold together in 71 or more.

    A factor's importance is the share of the variance of quality between these trials that the model would lose
    without the factor (ω²; Hays 1963), with the interval that the non-central F distribution gives it (Steiger 2004).
    fANOVA (Hutter et al. 2014) has no such interval and takes most of a minute for 1,000 trials; PED-ANOVA does not
    tell shares of the variance.

    Effects are averages over the trials that were evaluated: a sampler tries configurations near the front more often,
    and what two choices do only together is not told.

    Args:
        trials: The table of trials, of which the complete ones count.
        sites: Every site of the space.
        quality: Accuracy or log-loss.
        images: From :func:`outcomes_by_image`; without, an interval is about these images only.
    """
    complete = trials[trials["state"] == "complete"].dropna(subset=[quality.name])
    factors = _factors(complete, sites)
    values = complete[quality.name].to_numpy(float)
    refusal = _refusal(values, factors, quality.words)
    if refusal:
        return Contributions(
            tuple(_untold(factor, refusal) for factor in factors),
            None,
            len(values),
            f"What each stage contributed cannot be told: {refusal}.",
        )
    by_image = [images[number] for number in complete["number"]] if images else None
    fit = _Fit.of(_design(factors), values, None if by_image is None else np.stack(by_image))
    told = tuple(_told(factor, fit) for factor in factors)
    return Contributions(told, fit.explained, len(values), _sentence(told, fit, quality))


def outcomes_by_image(study: optuna.Study, quality: Objective) -> dict[int, _Values]:
    """Return for each complete trial its correctness or log-loss of each image, over many images of blocks of them.

    Args:
        study: The study.
        quality: Accuracy or log-loss.

    Raises:
        RunFolderError: If the trials were not written by se-search.
    """
    with refusing_foreign_trials():
        return {
            trial.number: _block_means(unpack(trial.user_attrs[quality.outcomes]).mean(axis=0, dtype=float))
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        }


def _block_means(values: _Values) -> _Values:
    block = -(-values.size // _MOST_BLOCKS)
    return values[: values.size // block * block].reshape(-1, block).mean(axis=1)


@dataclass(frozen=True)
class _Varied:
    """A part of the configuration that varies, or could.

    Attributes:
        name: As the report calls it.
        columns: For each level but the one that others are compared with, what the model multiplies its effect with.
        trials: Number of trials at each of these levels.
        why: Why no level can be compared, though the factor may vary.
        reference: What levels are compared with, empty for what is counted.
    """

    name: str
    columns: dict[str, _Values]
    trials: dict[str, int]
    why: str = ""
    reference: str = "no SE"


def _factors(complete: pd.DataFrame, sites: Sequence[Site]) -> list[_Varied]:
    read = [read_config(text) for text in complete["config"]]
    configs = [_by_stage(config, sites) for config in read]
    ranks = {one.label: one.rank for config in read for one in config.placed}
    stages = sorted({site.stage for site in sites})
    factors = []
    for stage in stages:
        blocks = [config.get(stage, []) for config in configs]
        factors.append(_stage_factor(f"stage {stage}", [_common(kind for kind, _ in one) for one in blocks], ranks))
        counts = np.array([len(one) for one in blocks], float)
        used = counts > 0
        if len(set(counts[used])) > 1:
            column = np.where(used, counts - counts[used].mean(), 0.0)
            level = "per block"
            factors.append(_Varied(f"stage {stage} blocks", {level: column}, {level: int(used.sum())}, reference=""))
    positions = [[_common(where for _, where in config.get(stage, [])) for stage in stages] for config in configs]
    if all(len(set(one) - {_OFF}) <= 1 for one in positions):
        factors += _alternatives("position", [_common(one for one in every if one != _OFF) for every in positions])
    else:
        for index, stage in enumerate(stages):
            factors += _alternatives(f"stage {stage} position", [every[index] for every in positions])
    return factors + _alternatives("gate", [gate or _OFF for gate in complete["gate"]])


def _by_stage(config: SEConfig, sites: Sequence[Site]) -> dict[int, list[tuple[str, str]]]:
    """Return the label (or that attention is kept) and the position of each block with attention, by stage."""
    placed = {(one.site.block, one.site.position): one.label for one in config.placed}
    removed = {(site.block, site.position) for site in config.removed}
    found: dict[int, list[tuple[str, str]]] = {}
    for site in sites:
        key = site.block, site.position
        if key in placed:
            found.setdefault(site.stage, []).append((placed[key], site.position))
        elif site.position == "existing" and key not in removed:
            found.setdefault(site.stage, []).append(("kept", site.position))
    return found


def _common(kinds: Iterable[str]) -> str:
    """Return what all have in common."""
    distinct = set(kinds)
    return _OFF if not distinct else distinct.pop() if len(distinct) == 1 else "mixed"


def _stage_factor(name: str, chosen: list[str], ranks: dict[str, int]) -> _Varied:
    def fewest_parameters_first(level: str) -> tuple[int, int]:
        return (1, -ranks[level]) if level in ranks else (0 if level == "kept" else 2, 0)

    counts = Counter(chosen)
    levels = sorted(counts.keys() - {_OFF}, key=fewest_parameters_first)
    if not levels:
        return _Varied(name, {}, {}, "no trial has SE there")
    if _OFF in counts:
        return _Varied(name, _indicators(chosen, levels), {level: counts[level] for level in levels})
    rest = [level for level in levels if level != max(levels, key=counts.__getitem__)]
    trials = {level: counts[level] for level in levels}
    return _Varied(
        name, _indicators(chosen, rest), trials, "every trial has SE there, so no ratio can be compared with none"
    )


def _alternatives(name: str, chosen: list[str]) -> list[_Varied]:
    """Return the factor of a choice that matters only with SE, against the most frequent; none without a choice."""
    counts = Counter(sorted(chosen))
    del counts[_OFF]
    (usual, _), *others = counts.most_common() or [("", 0)]
    if not others:
        return []
    columns = _indicators(chosen, [level for level, _ in others])
    return [_Varied(name, columns, dict(others), reference=usual)]


def _indicators(chosen: list[str], levels: list[str]) -> dict[str, _Values]:
    return {level: np.array([one == level for one in chosen], float) for level in levels}


def _design(factors: list[_Varied]) -> dict[tuple[str, str], _Values]:
    return {(factor.name, level): column for factor in factors for level, column in factor.columns.items()}


def _refusal(values: _Values, factors: list[_Varied], word: str) -> str:
    columns = list(_design(factors).values())
    if len(values) == 0:
        return "no configuration has been evaluated"
    if not columns:
        return "all trials have the same configuration" if len(values) > 1 else "only one trial is complete"
    rank = int(np.linalg.matrix_rank(np.column_stack([np.ones(len(values)), *columns])))
    if len(values) < rank + _FEWEST_TO_SPARE:
        return f"{len(values)} trials are too few for {rank - 1} effects, at least {rank + _FEWEST_TO_SPARE} are needed"
    if np.ptp(values) == 0:
        return f"all trials have the same {word}"
    return ""


@dataclass(frozen=True)
class _Fit:
    """A fitted additive model.

    Attributes:
        effects: Value with the ends of its interval by factor and level, ``None`` where it cannot be told.
        importances: The same by factor.
        explained: Adjusted R², at least 0.
    """

    effects: dict[tuple[str, str], Interval | None]
    importances: dict[str, Interval]
    explained: float

    @classmethod
    def of(cls, columns: dict[tuple[str, str], _Values], values: _Values, by_image: _Values | None) -> "_Fit":
        """Fit one value for each trial; ``by_image`` has a row for each trial, of which they are the means."""
        design = np.column_stack([np.ones(len(values)), *columns.values()])
        projection = np.linalg.pinv(design)
        leverages = np.sum(design * projection.T, axis=1)
        free = 1 - leverages
        residuals = values - design @ (projection @ values)
        alone = free < _ROUNDING  # the only trial that tells some effect: the fit goes through it
        # An effect is told by the trials if no other combination of effects has the same column, and not by one alone.
        known = np.abs(np.diag(projection @ design) - 1) < _ROUNDING
        known &= np.sum(projection[:, alone] ** 2, axis=1) < _ROUNDING**2
        effects = projection @ values
        weights = projection**2 / np.where(alone, np.inf, free)
        between = weights @ residuals**2
        # Degrees of freedom of that variance, were the spread of all trials the same (Satterthwaite 1946).
        expected = np.sum(projection**2 * ~alone, axis=1)
        remaining = np.eye(len(values)) - design @ projection
        doubled = np.einsum("es,st,et->e", weights, remaining**2, weights, optimize=True)
        freedoms = np.divide(expected**2, doubled, out=np.ones_like(doubled), where=doubled > 0)
        within = np.zeros(len(effects))
        if by_image is not None and by_image.shape[1] > 1:
            within = _variance_between_images(design, projection, np.where(alone, np.inf, free), by_image)
        freedom = len(values) - round(float(leverages.sum()))
        told = max(int(known[1:].sum()), 1)
        tail = (1 - CONFIDENCE) / 2 / told
        margins = np.sqrt(stats.t.isf(tail, freedoms) ** 2 * between + stats.norm.isf(tail) ** 2 * within)
        intervals = {
            key: (float(effect), float(effect - margin), float(effect + margin)) if is_known else None
            for key, effect, margin, is_known in zip(columns, effects[1:], margins[1:], known[1:], strict=True)
        }
        total = float(np.sum((values - values.mean()) ** 2))
        error = float(residuals @ residuals) / freedom
        explained = max(1 - error / (total / (len(values) - 1)), 0.0)
        importances = {
            name: _importance(design, [key[0] for key in columns], name, values, error, freedom, total, explained)
            for name in dict.fromkeys(key[0] for key in columns)
        }
        return cls(intervals, importances, explained)


def _variance_between_images(design: _Values, projection: _Values, free: _Values, by_image: _Values) -> _Values:
    """Return the variance of the effects by the choice of images, without the chance that trials already tell.

    An image's effects are those of the model fitted to it alone; their mean is the effect. They also vary by what is
    not common to the trials, which the spread between trials has already.
    """
    effects = projection @ by_image
    residuals = by_image - design @ effects
    own = residuals.var(axis=1, ddof=1) / free
    common = effects.var(axis=1, ddof=1) - projection**2 @ own
    return np.maximum(common, 0.0) / by_image.shape[1]


def _importance(
    design: _Values,
    names: list[str],
    name: str,
    values: _Values,
    error: float,
    freedom: int,
    total: float,
    explained: float,
) -> Interval:
    others = design[:, [True, *(one != name for one in names)]]
    lost = int(np.linalg.matrix_rank(design)) - int(np.linalg.matrix_rank(others))
    if lost == 0:
        return 0.0, 0.0, 1.0
    rest = values - others @ (np.linalg.pinv(others) @ values)
    gained = float(rest @ rest) - error * freedom
    share = (gained - lost * error) / (total + error)
    if error <= _ROUNDING**2 * total:
        return share, share, share
    other = len(values) * (1 + max(explained - share, 0.0) / (1 - explained))
    low, high = (end / (end + other) for end in _noncentrality(gained / lost / error, lost, freedom))
    return min(max(share, low), high), low, high


def _noncentrality(statistic: float, lost: int, freedom: int) -> tuple[float, float]:
    """Return the interval of the non-centrality of F by inversion of its distribution."""

    def end(probability: float) -> float:
        def excess(candidate: float) -> float:
            return float(stats.ncf.cdf(statistic, lost, freedom, candidate)) - probability

        if excess(0.0) <= 0:
            return 0.0
        above = max(4 * lost * statistic, 16.0)
        while excess(above) > 0:
            above *= 2
        return float(optimize.brentq(excess, 0.0, above, xtol=1e-4))

    return end((1 + CONFIDENCE) / 2), end((1 - CONFIDENCE) / 2)


def _untold(factor: _Varied, why: str, importance: Interval | None = None) -> Factor:
    levels = tuple(Level(level, count, None) for level, count in factor.trials.items())
    return Factor(factor.name, importance, factor.reference, levels, False, factor.why or why)


def _told(factor: _Varied, fit: _Fit) -> Factor:
    if factor.why:
        return _untold(factor, factor.why, fit.importances.get(factor.name))
    levels = tuple(Level(level, count, fit.effects[factor.name, level]) for level, count in factor.trials.items())
    missing = ", ".join(one.level for one in levels if one.effect is None)
    return Factor(
        factor.name,
        fit.importances[factor.name],
        factor.reference,
        levels,
        any(one.effect is not None for one in levels),
        f"{missing}: too few trials, or always with the same other choices" if missing else "",
    )


def _sentence(factors: Sequence[Factor], fit: _Fit, quality: Objective) -> str:
    known = [
        (factor.name, one.level, one.effect) for factor in factors for one in factor.levels if one.effect is not None
    ]
    clear = sorted((one for one in known if one[2][1] > 0 or one[2][2] < 0), key=lambda one: -abs(one[2][0]))
    word = quality.words
    start = f"By an additive model that explains {percent(fit.explained, 0)} of the variance of {word} between trials"
    if not clear:
        return f"{start}, none of {len(known)} choices differs measurably: what they contribute cannot be told."
    named = ", ".join(
        f"{name} {level} ({difference_in_words(quality.name, Estimate(*effect))})" for name, level, effect in clear[:3]
    )
    more = f" and {len(clear) - 3} more" if len(clear) > 3 else ""
    rest = len(known) - len(clear)
    ending = f"; of the other {rest} choices no difference can be told" if rest else ""
    return f"{start}, {word} differs measurably by {named}{more}{ending}."
