"""How often the rule for trainings that have not learned is wrong, on simulated verifications.

Accuracies of trainings vary by seed around each network's own, with normal noise, heavy tails or a tail to the left,
and are judged on a number of images. A false alarm is a verification in which any training is called failed although
none is. A failure is found if exactly the trainings that were made to fail are named.

    python benchmarks/trainings_that_fail.py
"""

import argparse
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from se_search.results.learned import which_learned

CHANCE = 0.1
NETWORKS = 8
SETTINGS = ((0.95, 0.005, 400), (0.9, 0.02, 400), (0.6, 0.03, 800), (0.6, 0.06, 800))
NOISES: Mapping[str, Callable[[np.random.Generator, tuple[int, int]], npt.NDArray[np.float64]]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: rng.standard_t(5, shape) / np.sqrt(5 / 3),
    "tail to the left": lambda rng, shape: (4 - rng.gamma(4, size=shape)) / 2,
}


def main() -> None:
    """Print the shares of false alarms and of failures that are found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=300)
    repeats = parser.parse_args().repeats
    rows = []
    for accuracy, noise, images in SETTINGS:
        for name, draw in NOISES.items():
            rng = np.random.default_rng(0)
            for seeds in (3, 5):
                reached = [
                    accuracy + 0.01 * rng.standard_normal((NETWORKS, 1)) + noise * draw(rng, (NETWORKS, seeds))
                    for _ in range(repeats)
                ]
                alarms = [bool(failed(one, images, rng).any()) for one in reached]
                rows.append(
                    {
                        "accuracy": f"{accuracy:.0%} ± {noise:.1%}",
                        "noise": name,
                        "seeds": seeds,
                        "false alarms": f"{np.mean(alarms):.1%}",
                        **{
                            f"{count} fail": f"{np.mean([found(one, count, images, rng) for one in reached]):.1%}"
                            for count in (1, 3)
                        },
                    }
                )
    print(f"{NETWORKS} networks, {repeats} verifications; failed trainings reach 20 %")
    print(pd.DataFrame(rows).to_string(index=False))


def failed(reached: npt.NDArray[np.float64], images: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return the trainings that the rule calls failed, as networks x seeds."""
    correct = [rng.random((len(row), images)) < np.clip(row, 0, 1)[:, None] for row in reached]
    return ~np.array(which_learned(correct, CHANCE))


def found(reached: npt.NDArray[np.float64], count: int, images: int, rng: np.random.Generator) -> bool:
    """Return whether exactly the failures are named that one training of each of the first networks is given."""
    truth = np.zeros(reached.shape, dtype=bool)
    truth[np.arange(count), rng.integers(reached.shape[1], size=count)] = True
    return bool((failed(np.where(truth, 0.2, reached), images, rng) == truth).all())


if __name__ == "__main__":
    main()
