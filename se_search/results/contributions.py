"""Effects of the choices in a configuration on its quality, by an additive model of the trials."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import optuna
import pandas as pd
from optuna.trial import TrialState
from scipy import optimize, special

from ..network.config import SEConfig
from ..statistics import CONFIDENCE, Estimate, Interval, difference_in_words
from ..study.objectives import Objective
from ..trials.notes import converting_foreign_trial_errors, unpack
from ..words import percent
from .table import SE, read_config

_Values = npt.NDArray[np.float64]

_FEWEST_TO_SPARE = 5  # trials beyond the number of effects, to estimate the residual variance
_MOST_BLOCKS = 4096  # of images, represented by their means
_ROUNDING = 1e-6
_OFF = "off"
_PER_BLOCK = "per block"


class SiteLike(Protocol):
    """What this module reads of a site."""

    @property
    def block(self) -> str:
        """Name of the block."""

    @property
    def stage(self) -> int:
        """Number of the stage."""

    @property
    def position(self) -> str:
        """Position in the block."""


@dataclass(frozen=True)
class Level:
    """A choice for a factor, its number of trials, and its effect on quality; ``None`` if that cannot be estimated."""

    level: str
    trials: int
    effect: Interval | None


@dataclass(frozen=True)
class Factor:
    """A part of the configuration and its contribution to quality.

    Attributes:
        name: Name in the report.
        importance: Share of the variance that the model would lose without it; ``None`` if it cannot be estimated.
        reference: Baseline of the effects; empty for numbers of blocks.
        levels: The choices.
        told: Whether the effect of any level is estimated.
        why: Why some effects are missing; empty if none is.
    """

    name: str
    importance: Interval | None
    reference: str
    levels: tuple[Level, ...]
    told: bool
    why: str


@dataclass(frozen=True)
class Interaction:
    """The interaction of two stages: what attention in both does beyond the sum of their effects.

    Attributes:
        first: Name of a stage.
        second: Name of another.
        effect: Difference in quality from that sum; ``None`` if it cannot be estimated.
        means: Mean quality of the trials with attention in neither, the first, the second, both; NaN without any.
        trials: Numbers of these trials.
    """

    first: str
    second: str
    effect: Interval | None
    means: tuple[float, ...]
    trials: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """A change of one part of the configuration, with its effect on quality; ``None`` if it cannot be estimated."""

    change: str
    effect: Interval | None


@dataclass(frozen=True)
class Contributions:
    """Effects of the choices in a configuration on its quality.

    Attributes:
        factors: The parts of the configuration that may vary.
        explained: Share of the variance that the model explains (adjusted R²); ``None`` without a model.
        trials: Number of trials that the model is fitted to.
        sentence: A summary in one sentence.
        interactions: The pairs of stages that both vary.
    """

    factors: tuple[Factor, ...]
    explained: float | None
    trials: int
    sentence: str
    interactions: tuple[Interaction, ...] = ()


def describe_contributions(
    trials: pd.DataFrame,
    sites: Sequence[SiteLike],
    quality: Objective,
    images: Mapping[int, _Values],
    attention: str = SE,
) -> Contributions:
    """Estimate how each stage's ratio and placement, the gate and the position change accuracy or log-loss.

    An additive model is fitted to the quality of the complete trials by least squares. Each stage has one effect for
    each ratio, relative to no attention there. If blocks are placed one by one, it also has an effect for each block
    above its mean number of blocks. Each gate and position has an effect relative to the most frequent one. Constant
    factors are left out.

    An interval includes two sources of variance. The residuals of the trials have heteroscedasticity-consistent
    standard errors (HC2; MacKinnon and White 1985) with degrees of freedom by Bell and McCaffrey (2002). The sampling
    of images adds the variance of the effect between images. The margins are added in quadrature (Zou and Donner 2008),
    with Bonferroni's correction for the number of effects. Of 80 simulated studies of 50 trials
    (``tests/results/test_contributions.py``) all intervals contain the true effects in 71 or more.

    The importance of a factor is ω² (Hays 1963): the share of the variance between these trials that the model would
    lose without it. Its interval follows from the non-central F distribution (Steiger 2004). fANOVA (Hutter et al.
    2014) has no such interval and takes most of a minute for 1,000 trials; PED-ANOVA does not estimate such shares.

    Effects are averages over the evaluated trials. A sampler evaluates configurations near the front more often, and
    the model has no interactions. Those of two stages are estimated one by one, each by a model with one more column:
    whether both have attention. Their intervals are corrected for the number of pairs.

    Args:
        trials: The table of trials, of which the complete ones count.
        sites: Every site of the space.
        quality: Accuracy or log-loss.
        images: From :func:`outcomes_by_image`; if empty, intervals exclude the sampling of images.
        attention: The word for the kinds of attention that were searched.
    """
    complete = trials[trials["state"] == "complete"].dropna(subset=[quality.name])
    varied = _varied(complete, sites, attention)
    columns = {(one.name, level): column for one in varied for level, column in one.columns.items()}
    values = complete[quality.name].to_numpy(float)
    refusal = _refusal(values, list(columns.values()), quality.words)
    if refusal:
        factors = tuple(_describe(one, None, refusal) for one in varied)
        sentence = f"Contributions of the stages cannot be estimated: {refusal}."
        return Contributions(factors, None, len(values), sentence)
    by_image = np.stack([images[number] for number in complete["number"]]) if images else None
    fit = _fit(columns, values, by_image)
    factors = tuple(_describe(one, fit, "") for one in varied)
    interactions = _interactions(complete, sites, columns, values, by_image)
    return Contributions(factors, fit.explained, len(values), _sentence(factors, fit, quality), interactions)


def steps_to(
    number: int, trials: pd.DataFrame, sites: Sequence[SiteLike], contributions: Contributions, attention: str = SE
) -> tuple[Step, ...]:
    """Return the changes from no attention to the configuration of a trial, one at a time, with their effects.

    Effects are those of the additive model. So their order does not matter, and no step needs a trial of its own. A
    stage's attention counts with the mean number of blocks first; then comes the difference in blocks from that mean.

    Args:
        number: Number of a complete trial.
        trials: The table of trials that the model was fitted to.
        sites: Every site of the space.
        contributions: The model.
        attention: The word for the kinds of attention that were searched.
    """
    complete = trials[trials["state"] == "complete"]
    place = complete["number"].tolist().index(number)
    known = {(factor.name, one.level): one.effect for factor in contributions.factors for one in factor.levels}
    steps = []
    for part in _varied(complete, sites, attention):
        for level, column in part.columns.items():
            if share := float(column[place]):
                effect = known.get((part.name, level))
                ends = sorted(end * share for end in effect[1:]) if effect else []
                scaled = (effect[0] * share, ends[0], ends[1]) if effect else None
                more = f"{part.name} {share:+.1f}" if level == _PER_BLOCK else f"{part.name}: {level}"
                steps.append(Step(more, scaled))
    return tuple(steps)


def _interactions(
    complete: pd.DataFrame,
    sites: Sequence[SiteLike],
    columns: dict[tuple[str, str], _Values],
    values: _Values,
    by_image: _Values | None,
) -> tuple[Interaction, ...]:
    configs = [_by_stage(read_config(text), sites) for text in complete["config"]]
    stages = sorted({site.stage for site in sites})
    used = {f"stage {stage}": np.array([stage in config for config in configs]) for stage in stages}
    pairs = list(combinations([name for name, one in used.items() if 0 < one.sum() < len(one)], 2))
    found = []
    for first, second in pairs:
        cells = [(used[first] == one) & (used[second] == other) for other in (False, True) for one in (False, True)]
        both = columns | {(first, second): cells[-1].astype(float)}
        told = all(cell.any() for cell in cells) and not _refusal(values, list(both.values()), "")
        effect = _regress(both, values, by_image, len(pairs)).effects[first, second] if told else None
        means = [float(values[cell].mean()) if cell.any() else math.nan for cell in cells]
        found.append(Interaction(first, second, effect, tuple(means), tuple(int(cell.sum()) for cell in cells)))
    return tuple(found)


def outcomes_by_image(study: optuna.Study, quality: Objective) -> dict[int, _Values]:
    """Return the correctness or log-loss of each image (many images: blocks of them) for each complete trial.

    Raises:
        RunFolderError: If the trials were not written by se-search.
    """
    found = {}
    with converting_foreign_trial_errors():
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            values = unpack(trial.user_attrs[quality.outcomes]).mean(axis=0, dtype=float)
            block = -(-values.size // _MOST_BLOCKS)
            found[trial.number] = values[: values.size // block * block].reshape(-1, block).mean(axis=1)
    return found


@dataclass(frozen=True)
class _Varied:
    """A part of the configuration that may vary.

    Attributes:
        name: Name in the report.
        columns: Columns of the design matrix, one for each level but the reference.
        trials: Number of trials at each of these levels.
        why: Why no level can be compared with the reference; empty if it can.
        reference: Baseline of the effects; empty for numbers of blocks.
    """

    name: str
    columns: dict[str, _Values]
    trials: dict[str, int]
    why: str = ""
    reference: str = ""


def _varied(complete: pd.DataFrame, sites: Sequence[SiteLike], attention: str) -> list[_Varied]:
    read = [read_config(text) for text in complete["config"]]
    configs = [_by_stage(config, sites) for config in read]
    ranks = {one.label: one.rank for config in read for one in config.placed}
    stages = sorted({site.stage for site in sites})
    factors = []
    for stage in stages:
        blocks = [config.get(stage, []) for config in configs]
        labels = [_common(kind for kind, _ in one) for one in blocks]
        factors.append(_stage_factor(f"stage {stage}", labels, ranks, attention))
        counts = np.array([len(one) for one in blocks], float)
        used = counts > 0
        if len(set(counts[used])) > 1:
            column = {_PER_BLOCK: np.where(used, counts - counts[used].mean(), 0.0)}
            factors.append(_Varied(f"stage {stage} blocks", column, {_PER_BLOCK: int(used.sum())}))
    positions = [[_common(where for _, where in config.get(stage, [])) for stage in stages] for config in configs]
    if all(len(set(one) - {_OFF}) <= 1 for one in positions):
        factors += _alternatives("position", [_common(one for one in every if one != _OFF) for every in positions])
    else:
        for index, stage in enumerate(stages):
            factors += _alternatives(f"stage {stage} position", [every[index] for every in positions])
    return factors + _alternatives("gate", [gate or _OFF for gate in complete["gate"]])


def _by_stage(config: SEConfig, sites: Sequence[SiteLike]) -> dict[int, list[tuple[str, str]]]:
    """Return the label (or ``"kept"``) and position of each block with attention, by stage."""
    placed = {(one.site.block, one.site.position): one.label for one in config.placed}
    removed = {(site.block, site.position) for site in config.removed}
    constant = {(site.block, site.position) for site in config.constant}
    found: dict[int, list[tuple[str, str]]] = {}
    for site in sites:
        key = site.block, site.position
        if key in placed:
            found.setdefault(site.stage, []).append((placed[key], site.position))
        elif key in constant:
            found.setdefault(site.stage, []).append(("constant", site.position))
        elif site.position == "existing" and key not in removed:
            found.setdefault(site.stage, []).append(("kept", site.position))
    return found


def _common(kinds: Iterable[str]) -> str:
    first, *others = {*kinds} or {_OFF}
    return "mixed" if others else first


def _stage_factor(name: str, chosen: list[str], ranks: dict[str, int], attention: str) -> _Varied:
    def fewest_parameters_first(level: str) -> tuple[int, int]:
        return (1, -ranks[level]) if level in ranks else (0 if level in ("constant", "kept") else 2, 0)

    counts = Counter(chosen)
    levels = sorted(counts.keys() - {_OFF}, key=fewest_parameters_first)
    trials = {level: counts[level] for level in levels}
    baseline = f"no {attention}"
    if not levels:
        return _Varied(name, {}, {}, f"no trial has {attention} there", baseline)
    if _OFF in counts:
        return _Varied(name, _indicators(chosen, levels), trials, reference=baseline)
    rest = [level for level in levels if level != max(levels, key=trials.__getitem__)]
    missing = f"every trial has {attention} there, so there is no baseline"
    return _Varied(name, _indicators(chosen, rest), trials, missing, baseline)


def _alternatives(name: str, chosen: list[str]) -> list[_Varied]:
    """Return the factor of a choice that blocks have, relative to the most frequent; none without a choice."""
    counts = Counter(sorted(chosen))
    del counts[_OFF]
    (usual, _), *others = counts.most_common() or [("", 0)]
    if not others:
        return []
    columns = _indicators(chosen, [level for level, _ in others])
    return [_Varied(name, columns, dict(others), reference=usual)]


def _indicators(chosen: list[str], levels: list[str]) -> dict[str, _Values]:
    return {level: np.array([one == level for one in chosen], float) for level in levels}


def _refusal(values: _Values, columns: list[_Values], word: str) -> str:
    if len(values) == 0:
        return "no configuration has been evaluated"
    if not columns:
        return "all trials have the same configuration" if len(values) > 1 else "only one trial is complete"
    rank = int(np.linalg.matrix_rank(np.column_stack([np.ones(len(values)), *columns])))
    if len(values) < rank + _FEWEST_TO_SPARE:
        return (
            f"{len(values)} trials are too few for {rank - 1} effects (at least {rank + _FEWEST_TO_SPARE} are needed)"
        )
    if np.ptp(values) == 0:
        return f"all trials have the same {word}"
    return ""


@dataclass(frozen=True)
class _Regression:
    """A fitted model: effects by factor and level, residual variance, and degrees of freedom."""

    effects: dict[tuple[str, str], Interval | None]
    error: float
    freedom: int


@dataclass(frozen=True)
class _Fit:
    """A fitted additive model: effects by factor and level, importances by factor, and adjusted R² (at least 0)."""

    effects: dict[tuple[str, str], Interval | None]
    importances: dict[str, Interval]
    explained: float


def _fit(columns: dict[tuple[str, str], _Values], values: _Values, by_image: _Values | None) -> _Fit:
    fitted = _regress(columns, values, by_image)
    total = float(np.sum((values - values.mean()) ** 2))
    explained = max(1 - fitted.error / (total / (len(values) - 1)), 0.0)
    design = _design(columns, values)
    importances = {}
    for name in dict.fromkeys(factor for factor, _ in columns):
        others = design[:, [True, *(factor != name for factor, _ in columns)]]
        importances[name] = _importance(values, design, others, fitted.error, fitted.freedom, explained)
    return _Fit(fitted.effects, importances, explained)


def _design(columns: dict[tuple[str, str], _Values], values: _Values) -> npt.NDArray[Any]:
    return np.column_stack([np.ones(len(values)), *columns.values()])


def _regress(
    columns: dict[tuple[str, str], _Values], values: _Values, by_image: _Values | None, comparisons: int | None = None
) -> _Regression:
    """Fit one value for each trial, the mean of its row of ``by_image``.

    Intervals are corrected for a number of comparisons; by default that of the effects.
    """
    design = _design(columns, values)
    projection = np.linalg.pinv(design)
    leverages = np.sum(design * projection.T, axis=1)
    free = 1 - leverages
    residuals = values - design @ (projection @ values)
    alone = free < _ROUNDING  # some effect depends on this trial alone: its residual is 0
    # An effect is estimable if its column is not a combination of others, and it does not depend on one trial.
    known = np.abs(np.diag(projection @ design) - 1) < _ROUNDING
    known &= np.sum(projection[:, alone] ** 2, axis=1) < _ROUNDING**2
    effects = projection @ values
    free[alone] = np.inf
    weights = projection**2 / free
    between = weights @ residuals**2
    # Degrees of freedom of that variance if all residuals had the same variance (Satterthwaite 1946).
    expected = np.sum(projection**2 * ~alone, axis=1)
    remaining = np.eye(len(values)) - design @ projection
    doubled = np.einsum("es,st,et->e", weights, remaining**2, weights, optimize=True)
    freedoms = np.divide(expected**2, doubled, out=np.ones_like(doubled), where=doubled > 0)
    within = np.zeros(len(effects))
    if by_image is not None and by_image.shape[1] > 1:
        within = _variance_between_images(design, projection, free, by_image)
    freedom = len(values) - round(float(leverages.sum()))
    tail = (1 - CONFIDENCE) / 2 / (comparisons or max(int(known[1:].sum()), 1))
    margins = np.sqrt(special.stdtrit(freedoms, tail) ** 2 * between + special.ndtri(tail) ** 2 * within)
    intervals = {
        key: (float(effect), float(effect - margin), float(effect + margin)) if is_known else None
        for key, effect, margin, is_known in zip(columns, effects[1:], margins[1:], known[1:], strict=True)
    }
    return _Regression(intervals, float(residuals @ residuals) / freedom, freedom)


def _variance_between_images(design: _Values, projection: _Values, free: _Values, by_image: _Values) -> _Values:
    """Return the variance of the effects from the sampling of images, without the residual variance of the trials.

    The model is fitted to each image alone; the mean of an effect over images is the effect. Its variance includes the
    residual variance, which is subtracted because the standard errors already contain it.
    """
    effects = projection @ by_image
    residuals = by_image - design @ effects
    own = residuals.var(axis=1, ddof=1) / free
    common = effects.var(axis=1, ddof=1) - projection**2 @ own
    return np.maximum(common, 0.0) / by_image.shape[1]


def _importance(
    values: _Values, design: _Values, others: _Values, error: float, freedom: int, explained: float
) -> Interval:
    """Return ω² of the columns that ``others`` lacks, given the model's residual variance and adjusted R²."""
    lost = int(np.linalg.matrix_rank(design)) - int(np.linalg.matrix_rank(others))
    if lost == 0:
        return 0.0, 0.0, 1.0
    total = float(np.sum((values - values.mean()) ** 2))
    rest = values - others @ (np.linalg.pinv(others) @ values)
    gained = float(rest @ rest) - error * freedom
    share = (gained - lost * error) / (total + error)
    if error <= _ROUNDING**2 * total:
        return share, share, share
    other = len(values) * (1 + max(explained - share, 0.0) / (1 - explained))
    ends = (_noncentrality(gained / lost / error, lost, freedom, 0.5 + side * CONFIDENCE / 2) for side in (1, -1))
    low, high = (end / (end + other) for end in ends)
    return min(max(share, low), high), low, high


def _noncentrality(statistic: float, lost: int, freedom: int, probability: float) -> float:
    """Return the non-centrality of F at which the distribution function has this value at the statistic."""

    def excess(candidate: float) -> float:
        return float(special.ncfdtr(lost, freedom, candidate, statistic)) - probability

    if excess(0.0) <= 0:
        return 0.0
    above = max(4 * lost * statistic, 16.0)
    while excess(above) > 0:
        above *= 2
    return float(optimize.brentq(excess, 0.0, above, xtol=1e-4))


def _describe(varied: _Varied, fit: _Fit | None, refusal: str) -> Factor:
    effects = fit.effects if fit and not varied.why else {}
    levels = tuple(Level(level, count, effects.get((varied.name, level))) for level, count in varied.trials.items())
    missing = ", ".join(one.level for one in levels if one.effect is None)
    why = (
        varied.why
        or refusal
        or (f"{missing}: too few trials, or always with the same other choices" if missing else "")
    )
    importance = fit.importances.get(varied.name) if fit else None
    return Factor(varied.name, importance, varied.reference, levels, any(one.effect for one in levels), why)


def _sentence(factors: Sequence[Factor], fit: _Fit, quality: Objective) -> str:
    known = [(f"{factor.name} {one.level}", one.effect) for factor in factors for one in factor.levels if one.effect]
    clear = sorted((one for one in known if one[1][1] > 0 or one[1][2] < 0), key=lambda one: -abs(one[1][0]))
    model = f"An additive model explains {percent(fit.explained, 0)} of the variance of {quality.words} between trials"
    if not clear:
        return f"{model}; none of {len(known)} choices has a significant effect."
    named = ", ".join(f"{name} ({difference_in_words(quality.name, Estimate(*effect))})" for name, effect in clear[:3])
    more = f" and {len(clear) - 3} more" if len(clear) > 3 else ""
    return f"{model}; significant effects ({len(clear)} of {len(known)} choices): {named}{more}."
