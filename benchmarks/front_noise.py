"""How often noise puts a wrong trial on the front, or hides a right one, on simulated searches with a known front.

A search is 50 configurations of resnet50's stages. Their parameters are exact and their true accuracies and latencies
are given by a case; the true front follows from these. Correctness of the images is drawn from a latent normal
distribution in which two networks correlate by 0.9; latencies have normal errors. A wrong member is a trial that
another one truly dominates.

Prints a Markdown table: the front of estimates, which Optuna shows, against :func:`se_search.results.front.find_front`.
Then how often trials of a given front probability are on the true front, and how often the interval of the
hypervolume contains the true one.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from se_search.results.front import Judged, Measured, TrialValues, find_front, front_probabilities
from se_search.results.hypervolume import areas_of_the_best, hypervolume_bounds
from se_search.sampling.fronts import is_on_front
from se_search.statistics import CONFIDENCE, normal_quantile

Values = npt.NDArray[np.float64]

BLOCKS = np.array([3, 4, 6, 3])
CHANNELS = np.array([256, 512, 1024, 2048])
RATIOS = np.array([np.inf, 32, 16, 8, 4])
BACKBONE = 25.6e6
COSTS = np.array([0.014, 0.012, 0.009, 0.007])  # latency of a block, by stage
CORRELATION = 0.9
REFERENCE = np.array([-0.1, 0.3, 2.0])
# Images and half-width of a latency's interval: measurements on their own, and many images with pooled ones.
DATA = ((1000, 0.0136), (4000, 0.0043))


@dataclass(frozen=True)
class Search:
    """A simulated search: true values and what was measured of them, all minimised."""

    true: Values
    trials: TrialValues


def case_equal(chosen: npt.NDArray[np.int64], random: np.random.Generator) -> Values:
    """SE changes nothing."""
    return np.full(len(chosen), 0.9)


def case_scattered(chosen: npt.NDArray[np.int64], random: np.random.Generator) -> Values:
    """Configurations differ, by 0.05 points, whatever they cost."""
    return 0.95 + 0.0005 * random.standard_normal(len(chosen))


def case_dense(chosen: npt.NDArray[np.int64], random: np.random.Generator) -> Values:
    """Configurations differ by one point, whatever they cost."""
    return 0.8 + 0.01 * random.standard_normal(len(chosen))


def case_gradual(chosen: npt.NDArray[np.int64], random: np.random.Generator) -> Values:
    """More SE is better, up to 3 points, and configurations differ by 0.3 points."""
    amount = chosen @ np.array([0.1, 0.2, 0.3, 0.2])
    return 0.8 + 0.03 * (1 - np.exp(-amount)) + 0.003 * random.standard_normal(len(chosen))


def case_required(chosen: npt.NDArray[np.int64], random: np.random.Generator) -> Values:
    """Without SE the task cannot be learned; more of it is a little better."""
    amount = np.minimum(1, chosen @ np.array([0.1, 0.1, 0.2, 0.2]))
    return np.where(chosen.any(1), 0.9 + 0.03 * amount + 0.01 * random.standard_normal(len(chosen)), 0.6)


def case_steps(chosen: npt.NDArray[np.int64], random: np.random.Generator) -> Values:
    """SE in stage 3 and in stage 4 is worth 5 points each, at any ratio."""
    return 0.8 + 0.05 * ((chosen[:, 1] > 0).astype(float) + (chosen[:, 2] > 0))


CASES = {
    "no effect": case_equal,
    "differences of 0.05 points": case_scattered,
    "differences of one point": case_dense,
    "gradual gain": case_gradual,
    "SE required": case_required,
    "two steps": case_steps,
}


def simulate(name: str, images: int, half_width: float, latency: bool, count: int, seed: int) -> Search:
    """Simulate one search of ``count`` trials, one of them without SE."""
    random = np.random.default_rng(seed)
    drawn = {(0, 0, 0, 0)}
    while len(drawn) < count:
        drawn.add(tuple(random.integers(0, len(RATIOS), 4).tolist()))
    chosen = random.permutation(np.array(sorted(drawn)))
    parameters = (2 * CHANNELS**2 / RATIOS[chosen] * BLOCKS).sum(1) / BACKBONE
    ratios = 1 + (chosen > 0) @ (BLOCKS * COSTS)
    accuracy = CASES[name](chosen, random)
    easiness = np.sqrt(CORRELATION) * random.standard_normal(images)
    noise = np.sqrt(1 - CORRELATION) * random.standard_normal((count, images))
    outcomes = easiness + noise < special.ndtri(accuracy)[:, None]
    errors = half_width / normal_quantile(CONFIDENCE) * ratios
    measured = ratios + errors * random.standard_normal(count)
    kept = slice(None) if latency else slice(2)
    true = np.column_stack([-accuracy, parameters, ratios])[:, kept]
    values = np.column_stack([-outcomes.mean(1), parameters, measured])[:, kept]
    uncertain = {0: Judged(list(outcomes[:, None]), 1)}
    both = uncertain | {2: Measured(measured, np.diag(errors**2))} if latency else uncertain
    return Search(true, TrialValues(values, both, parameters))


def hypervolume(values: Values) -> float:
    """Return the hypervolume of minimised values, the first of them the quality."""
    room = REFERENCE[: values.shape[1]] - values
    return float(areas_of_the_best(room[:, 1:], room[:, 0]) @ room[:, 0])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=100, help="simulated searches of each row")
    parser.add_argument("--trials", type=int, default=50, help="trials of a search")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="what SE is worth")
    asked = parser.parse_args()
    titles = ("case", "latency", "images", "true", "shown: estimates, new", "wrong of shown", "searches with one")
    print("| " + " | ".join([*titles, "missed", "hypervolume in its interval"]) + " |")
    print("|---" * 9 + "|")
    every: list[tuple[float, bool]] = []
    totals = np.zeros((2, 4))
    for name in asked.cases:
        for latency in (False, True):
            for images, half_width in DATA:
                counts, right, covered = np.zeros((2, 4)), 0, []
                for seed in range(asked.searches):
                    search = simulate(name, images, half_width, latency, asked.trials, seed)
                    truly = is_on_front(search.true)
                    right += int(truly.sum())
                    for row, shown in enumerate((is_on_front(search.trials.values), find_front(search.trials).members)):
                        wrong = (shown & ~truly).sum()
                        counts[row] += shown.sum(), wrong, wrong > 0, (truly & ~shown).sum()
                    if seed % 5 == 0:
                        every += zip(front_probabilities(search.trials).tolist(), truly.tolist(), strict=True)
                        low, high = hypervolume_bounds(search.trials, REFERENCE[: search.true.shape[1]])[-1]
                        covered.append(low <= hypervolume(search.true) <= high)
                totals += counts
                cells = " | ".join(_cells(counts, right, asked.searches))
                print(f"| {name} | {latency} | {images} | {cells} | {np.mean(covered):.0%} |", flush=True)
    print(f"\nAll: wrong of shown {totals[0, 1] / totals[0, 0]:.1%}, {totals[1, 1] / totals[1, 0]:.1%}")
    print("\n" + "\n".join(_calibration(every)))


def _cells(counts: Values, right: int, searches: int) -> Iterator[str]:
    yield f"{right / searches:.1f}"
    yield ", ".join(f"{row[0] / searches:.1f}" for row in counts)
    yield ", ".join(f"{row[1] / row[0]:.1%}" for row in counts)
    yield ", ".join(f"{row[2] / searches:.0%}" for row in counts)
    yield ", ".join(f"{row[3] / right:.0%}" for row in counts)


def _calibration(every: list[tuple[float, bool]]) -> Iterator[str]:
    yield "| front probability | trials | mean | on the true front |"
    yield "|---|---|---|---|"
    said, truly = (np.array(one, dtype=float) for one in zip(*every, strict=True))
    for low, high in ((0, 0.05), (0.05, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 0.95), (0.95, 1.01)):
        chosen = (said >= low) & (said < high)
        if chosen.any():
            means = f"{said[chosen].mean():.2f} | {truly[chosen].mean():.2f}"
            yield f"| {low} to {min(high, 1)} | {chosen.sum()} | {means} |"


if __name__ == "__main__":
    main()
