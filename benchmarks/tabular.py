"""Train all configurations of a small space: the table that sampler benchmarks replay.

    python benchmarks/tabular.py --jobs 2              # hours; the same command resumes
    python benchmarks/tabular.py --seeds 1 --minutes 30

All 256 configurations of `test_resnet` with r=4, 8, 16 or no SE per stage are trained from scratch on `digits-hard`.
Each row of the table is one training: configuration, seed, log-loss and accuracy on validation and test images, and
duration in seconds. For each seed, configurations start from the same backbone weights and see the same batches. Seeds
are completed one after another.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from se_search import SEConfig
from se_search.data.image_data import ImageData
from se_search.data.load import load_data
from se_search.files import write_text
from se_search.network.overhead import added_parameters, backbone_parameters
from se_search.study.space import SearchSpace
from se_search.study.space_definition import SpaceDefinition
from se_search.training.evaluator import evaluate_network
from se_search.training.recipe import TrainingRecipe
from se_search.training.stand_alone import Scratch

TABLE = Path(__file__).parent / "tabular.csv"
BACKBONE, DATA = "test_resnet", "digits-hard"
SPACE = SpaceDefinition(placement="stage", ratios=(4, 8, 16), gates=("sigmoid",), rounding=1)
RECIPE = TrainingRecipe(epochs=8, batch=64, learning_rate=0.005)


@dataclass(frozen=True)
class Table:
    """The seeds with which :mod:`tabular` has trained every configuration.

    Attributes:
        space: The space; its only parameter with a single choice is the gate.
        configs: Its configurations.
        overheads: Parameter overhead of each.
        log_losses: Log-loss on validation and test images together, of shape (configurations, seeds).
        seconds: Duration of each training, of the same shape.
    """

    space: SearchSpace
    configs: tuple[SEConfig, ...]
    overheads: npt.NDArray[np.float64]
    log_losses: npt.NDArray[np.float64]
    seconds: npt.NDArray[np.float64]


def main() -> None:
    """Run the missing trainings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="single-threaded processes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no training after this time")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args()

    space = SearchSpace(BACKBONE, SPACE)
    rows = pd.read_csv(options.out).to_dict("records") if options.out.exists() else []
    done = {(row["config"], row["seed"]) for row in rows}
    configs = {config.id: config for config in map(space.to_config, space.enumerate())}
    missing = [(one, seed) for seed in range(options.seeds) for one in configs if (one, seed) not in done]
    start = time.monotonic()
    with ProcessPoolExecutor(options.jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = set()
        while missing or running:
            while missing and len(running) < options.jobs and time.monotonic() - start < 60 * options.minutes:
                one, seed = missing.pop(0)
                running.add(pool.submit(train, configs[one], space.to_parameters(configs[one]), seed))
            if not running:
                break
            finished = next(as_completed(running))
            running.remove(finished)
            rows.append(finished.result())
            ordered = pd.DataFrame(rows).sort_values(["seed", "config"])
            write_text(options.out, ordered.to_csv(index=False, lineterminator="\n"))
            print(f"{len(rows)} of {len(configs) * options.seeds}: {rows[-1]}", flush=True)


def train(config: SEConfig, parameters: dict[str, Any], seed: int) -> dict[str, Any]:
    """Train and evaluate one configuration; return its row of the table."""
    data = images()
    start = time.perf_counter()
    network = Scratch(BACKBONE, data, RECIPE).training(config, seed).finish()
    seconds = time.perf_counter() - start
    row = {"config": config.id, "seed": seed, **{name: parameters[name] for name in parameters if name != "gate"}}
    for part, judged in (("validation", data.validation), ("test", data.test)):
        evaluation = evaluate_network(network, judged)
        row[f"{part}_log_loss"] = round(evaluation.log_loss.value, 5)
        row[f"{part}_accuracy"] = round(evaluation.accuracy.value, 5)
    return row | {"seconds": round(seconds, 2)}


@cache
def images() -> ImageData:
    """Load the data once per process."""
    return load_data(DATA)


@cache
def load_table(file: Path = TABLE) -> Table:
    """Read the table.

    Args:
        file: The file written by :func:`main`.

    Raises:
        ValueError: If no seed is complete.
    """
    space = SearchSpace(BACKBONE, SPACE)
    configs = tuple(dict.fromkeys(map(space.to_config, space.enumerate())))
    rows = pd.read_csv(file)
    data = images()
    weights = np.array([len(data.validation), len(data.test)]) / (len(data.validation) + len(data.test))
    rows["log_loss"] = rows[["validation_log_loss", "test_log_loss"]].to_numpy() @ weights
    wide = rows.pivot(index="config", columns="seed", values=["log_loss", "seconds"])
    wide = wide.reindex([config.id for config in configs]).dropna(axis="columns")
    if wide.empty:
        raise ValueError(f"{file} has no seed with all {len(configs)} configurations: run benchmarks/tabular.py")
    return Table(
        space=space,
        configs=configs,
        overheads=np.array([added_parameters(config) / backbone_parameters(BACKBONE) for config in configs]),
        log_losses=wide["log_loss"].to_numpy(),
        seconds=wide["seconds"].to_numpy(),
    )


if __name__ == "__main__":
    main()
