"""Speed-up by several workers on one machine.

Every configuration is trained from scratch for some epochs. All searches have the same seed and the random sampler, so
that they evaluate the same configurations, and the same number of CPU threads. The duration of a search is measured
from the start of its first trial to the end of its last, without the start-up of processes.

    python benchmarks/workers.py --workers 1 2 --rounds 3
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from scipy import stats

import se_search
from se_search.trials.folder import load_trials


def seconds_of_a_search(workers: int, arguments: argparse.Namespace) -> float:
    """Search, and return the seconds from the first start to the last end of a trial."""
    with tempfile.TemporaryDirectory() as folder:
        run = se_search.search(
            arguments.backbone,
            budget=arguments.budget,
            out=Path(folder) / "run",
            evaluator={"name": "scratch", "epochs": arguments.epochs},
            latency="model" if arguments.predicted else "measured",
            latency_limit=arguments.latency_limit,
            sampler="random",
            threads=arguments.threads,
            workers=workers,
        )
        trials = load_trials(run.folder).get_trials(deepcopy=False)
    first = min(trial.datetime_start for trial in trials)
    return (max(trial.datetime_complete for trial in trials) - first).total_seconds()


def main() -> None:
    """Print the times and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="test_resnet")
    parser.add_argument("--budget", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--predicted", action="store_true", help="predict latency with the additive model instead of measuring"
    )
    parser.add_argument("--latency-limit", type=float, default=2.0)
    parser.add_argument("--to", type=Path, default=Path("workers.json"))
    arguments = parser.parse_args()

    times: dict[int, list[float]] = {workers: [] for workers in arguments.workers}
    for number in range(arguments.rounds):
        order = arguments.workers if number % 2 == 0 else arguments.workers[::-1]
        for workers in order:
            times[workers].append(seconds_of_a_search(workers, arguments))
            print(f"round {number + 1}, {workers} workers: {times[workers][-1]:.1f} s", flush=True)
    arguments.to.write_text(json.dumps(times))
    base = np.log(times[arguments.workers[0]])
    for workers, seconds in times.items():
        logs = base - np.log(seconds)
        line = f"{workers} workers: {np.mean(seconds):.1f} s, {np.exp(logs.mean()):.2f} times as fast"
        if len(logs) > 1 and logs.std() > 0:
            half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
            line += f" [{np.exp(logs.mean() - half):.2f}, {np.exp(logs.mean() + half):.2f}]"
        print(line)


if __name__ == "__main__":
    main()
