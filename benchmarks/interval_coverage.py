"""Coverage of the interval methods in use and of alternatives.

    python benchmarks/interval_coverage.py                  # 400 studies per row
    python benchmarks/interval_coverage.py --studies 2000   # half an hour

The true value of each simulated study is known: log-losses are drawn from a large population of simulated logits,
differences over seeds and images are sums of effects with mean 0, scores of configurations are bivariate normal.
The script prints the percentage of studies whose nominal 95 % interval contains the true value.
"""

import argparse
import math
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
from scipy import stats

from se_search.statistics import (
    Estimate,
    crossed_difference,
    mean_estimate,
    noise_ceiling,
    rank_agreement,
)

Values = npt.NDArray[np.float64]

# Mean logit of the correct class per network, spread of shared and of own logits, factor on the second network.
TASKS = {
    "99 % correct": ((10.0, 9.7), 2.1, 0.8, 1.0),
    "99 %, equal networks": ((10.0, 10.0), 2.1, 0.8, 1.0),
    "97 % correct": ((9.0, 8.5), 2.2, 0.8, 1.0),
    "69 % correct": ((5.0, 4.6), 2.2, 1.0, 1.0),
    "44 % correct": ((1.8, 1.7), 1.2, 0.7, 1.0),
    "69 %, second overconfident": ((5.0, 5.0), 2.2, 1.0, 2.5),
}


def simulate_losses(task: str, images: int = 200_000, classes: int = 10) -> Values:
    """Return log-losses of two networks on a population of images, of shape (2, images)."""
    levels, spread, noise, sharpness = TASKS[task]
    random = np.random.default_rng(11)
    shared = spread * random.standard_normal((images, classes))
    losses = []
    for level, factor in zip(levels, (1.0, sharpness), strict=True):
        logits = shared + noise * random.standard_normal((images, classes))
        logits[:, 0] += level
        logits *= factor
        losses.append(np.logaddexp.reduce(logits, axis=1) - logits[:, 0])
    return np.array(losses)


def student(values: Values) -> Estimate:
    """Student's interval of a mean."""
    low, high = stats.ttest_1samp(values, 0.0).confidence_interval()
    return Estimate(float(values.mean()), float(low), float(high))


def bootstrap(method: str) -> Callable[[Values], Estimate]:
    """Return SciPy's bootstrap interval of a mean as a function of the values."""

    def interval(values: Values) -> Estimate:
        found = stats.bootstrap((values,), np.mean, n_resamples=999, method=method, rng=0).confidence_interval
        return Estimate(float(values.mean()), float(found.low), float(found.high))

    return interval


def satterthwaite(differences: Values) -> Estimate:
    """Student's interval of the sum of the seeds' and the images' variance, with Satterthwaite's degrees of freedom."""
    seeds, images = differences.shape
    of_seeds = differences.mean(axis=1).var(ddof=1) / seeds
    of_images = differences.mean(axis=0).var(ddof=1) / images
    variance = of_seeds + of_images
    freedom = variance**2 / (of_seeds**2 / (seeds - 1) + of_images**2 / (images - 1))
    margin = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    return Estimate(float(differences.mean()), differences.mean() - margin, differences.mean() + margin)


def bootstrap_rank_agreement(first: Values, second: Values) -> Estimate:
    """Percentile bootstrap of Kendall's τ over configurations."""
    random = np.random.default_rng(0)
    taus = []
    for _ in range(300):
        drawn = random.integers(first.size, size=first.size)
        taus.append(stats.kendalltau(first[drawn], second[drawn], method="asymptotic").statistic)
    low, high = np.nanquantile(taus, [0.025, 0.975])
    return Estimate(stats.kendalltau(first, second).statistic, low, high)


def row(
    name: str, truth: float, studies: Iterator[tuple[Values, ...]], methods: dict[str, Callable[..., Estimate]]
) -> None:
    """Print the coverage of each method over the same studies."""
    covered = dict.fromkeys(methods, 0)
    count = 0
    for study in studies:
        count += 1
        for method, interval in methods.items():
            estimate = interval(*study)
            covered[method] += estimate.low - 1e-12 <= truth <= estimate.high + 1e-12
    shares = "  ".join(f"{method} {100 * hits / count:5.1f}" for method, hits in covered.items())
    print(f"{name:45} {shares}", flush=True)


def means(studies: int) -> None:
    """Log-losses and their paired differences."""
    resampled = {"percentile": bootstrap("percentile"), "BCa": bootstrap("BCa")}
    for task in TASKS:
        first, second = simulate_losses(task)
        for images in (100, 400, 2000):
            # Bootstraps of 2,000 images take hours, and all methods agree there.
            others = {"Student": student} | (resampled if images < 2000 else {})

            def drawn(values: Values, images: int = images) -> Iterator[tuple[Values, ...]]:
                random = np.random.default_rng(images)
                return ((random.choice(values, images),) for _ in range(studies))

            used = {"used": mean_estimate}
            row(f"log-loss, {task}, n={images}", second.mean(), drawn(second), used | others)
            used = {"used": lambda values: crossed_difference(values[None], np.zeros((1, values.size)))}
            differences = first - second
            row(f"difference, {task}, n={images}", differences.mean(), drawn(differences), used | others)


def crossed(studies: int, images: int = 400) -> None:
    """Differences over seeds and images: seeds' effect in units of the images' standard error, and residual."""
    for seeds in (2, 3, 5):
        for residual in (0.3, 1.0, 3.0):
            for of_seeds in (0.0, 0.5, 1.0, 2.0, 5.0):
                random = np.random.default_rng(seeds)
                own = of_seeds * math.sqrt(seeds / images)
                drawn = (
                    (
                        own * random.standard_normal((seeds, 1))
                        + random.standard_normal(images)
                        + residual * random.standard_normal((seeds, images)),
                    )
                    for _ in range(studies)
                )
                methods = {"used": lambda d: crossed_difference(d, np.zeros_like(d)), "Satterthwaite": satterthwaite}
                row(f"seeds {seeds}, residual {residual}, of seeds {of_seeds}", 0.0, drawn, methods)


def ranks(studies: int) -> None:
    """Kendall's τ between scores of the same configurations."""
    methods = {"used": rank_agreement, "percentile bootstrap": bootstrap_rank_agreement}
    for configurations in (5, 8, 16, 32):
        for correlation in (0.0, 0.5, 0.8, 0.95, 0.99):
            random = np.random.default_rng(configurations)
            mix = np.linalg.cholesky([[1.0, correlation], [correlation, 1.0]])
            drawn = (tuple(mix @ random.standard_normal((2, configurations))) for _ in range(studies))
            truth = 2 / math.pi * math.asin(correlation)
            row(f"m={configurations}, tau={truth:.2f}", truth, drawn, methods)


def ceilings(studies: int) -> None:
    """The noise ceiling against the mean τ between the truth and the mean of seeds."""
    shapes: dict[str, Callable[[np.random.Generator, int], Values]] = {
        "normal": lambda random, size: random.standard_normal(size),
        "exponential": lambda random, size: random.exponential(size=size),
        "two groups": lambda random, size: random.choice([-1.0, 1.0], size) + 0.2 * random.standard_normal(size),
    }
    for seeds in (2, 3, 5):
        for configurations in (5, 8, 16, 32):
            for shape, draw in shapes.items():
                for noise in (0.3, 1.0, 2.0):
                    random = np.random.default_rng(seeds)
                    true, estimated, held = [], [], 0
                    for _ in range(studies):
                        truth = draw(random, configurations)
                        of_seeds = 2 * random.standard_normal((seeds, 1))
                        scores = truth + of_seeds + noise * random.standard_normal((seeds, configurations))
                        estimate = noise_ceiling(scores, draws=100)
                        true.append(stats.kendalltau(truth, scores.mean(axis=0)).statistic)
                        estimated.append(estimate.value)
                        held += estimate.low - 1e-12 <= true[-1] <= estimate.high + 1e-12
                    print(
                        f"seeds {seeds}, m={configurations}, {shape}, noise {noise}: mean τ {np.mean(true):.3f}, "
                        f"estimated {np.mean(estimated):.3f} ± {np.std(estimated):.3f}, in range {held / studies:.2f}",
                        flush=True,
                    )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=400, help="simulated studies per row")
    studies = parser.parse_args().studies
    means(studies)
    crossed(studies)
    ranks(studies)
    ceilings(studies)


if __name__ == "__main__":
    main()
