"""Duration of training on a machine of which other processes take some of the CPUs.

    python benchmarks/busy_machine.py --loads 1 --seconds 300

Each setting of OpenMP has a process of its own, in which a network trains for short epochs, in turns of random order:
on the idle machine, and with ``--loads`` processes that compute without a pause. A ratio is the duration of an epoch
relative to the first setting on the idle machine in the same round: the median over rounds with its range. ``forward``
is a forward pass of one image, as latency is measured. PyTorch's wheels for Linux contain GNU's OpenMP, whose threads
wait in a loop before they sleep: ``GOMP_SPINCOUNT`` is its length, by default 300,000.
"""

import argparse
import multiprocessing
import os
import random
import statistics
import time
from multiprocessing.connection import Connection
from typing import Any

SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "default again": {},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=4000": {"GOMP_SPINCOUNT": "4000"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


def main() -> None:
    """Print a line for each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--loads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=6, help="steps of an epoch")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    arguments = parser.parse_args()
    threads = os.environ.get("OMP_NUM_THREADS", str(os.cpu_count()))
    spawn = multiprocessing.get_context("spawn")
    trainers: dict[str, Connection] = {}
    for name in arguments.settings:
        own, theirs = spawn.Pipe()
        os.environ.update({"OMP_NUM_THREADS": threads} | SETTINGS[name])
        spawn.Process(target=train, args=(theirs, arguments.backbone, arguments.steps), daemon=True).start()
        for key in SETTINGS[name]:
            del os.environ[key]
        own.recv()
        trainers[name] = own
    order, started = random.Random(0), time.monotonic()
    taken: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    rounds = 0
    while rounds < 2 or time.monotonic() - started < arguments.seconds:
        for loaded in order.sample((False, True), 2):
            loads = [spawn.Process(target=compute, daemon=True) for _ in range(arguments.loads if loaded else 0)]
            for load in loads:
                load.start()
            time.sleep(1.0)
            for name in order.sample(list(trainers), len(trainers)):
                trainers[name].send(True)
                taken.setdefault((name, loaded), []).append(trainers[name].recv())
            for load in loads:
                load.kill()
        rounds += 1
    for pipe in trainers.values():
        pipe.send(False)
    print(f"{arguments.backbone}, {threads} threads, {arguments.loads} of {os.cpu_count()} CPUs taken, {rounds} rounds")
    reference = taken[arguments.settings[0], False]
    for (name, loaded), times in sorted(taken.items(), key=lambda one: one[0][1]):
        epoch, forward = (
            [one[which] / base[which] for one, base in zip(times, reference, strict=True)] for which in (0, 1)
        )
        print(
            f"{'loaded' if loaded else 'idle':7s} {name:26s} epoch {statistics.median(epoch):6.2f} "
            f"({min(epoch):.2f} to {max(epoch):.2f})  forward {statistics.median(forward):6.2f} "
            f"({min(forward):.2f} to {max(forward):.2f})"
        )


def train(pipe: Connection, backbone: str, steps: int) -> None:
    """Train for an epoch each time that the pipe asks for it, and return the seconds of epoch and forward pass."""
    import torch
    from torch.utils.data import TensorDataset

    from se_search import SEConfig
    from se_search.data.image_data import ImageData
    from se_search.training.recipe import TrainingRecipe, classification_losses
    from se_search.training.stand_alone import Scratch

    images = TensorDataset(torch.randn(steps * 64, 3, 32, 32), torch.randint(10, (steps * 64,)))
    data = ImageData("noise", 10, (3, 32, 32), (0.0,) * 3, (1.0,) * 3, "bilinear", images, images, images, images)
    training = Scratch(backbone, data, TrainingRecipe(10_000, 64, 1e-4)).training(SEConfig(backbone), 0)
    epochs: Any = training.epochs(classification_losses(training.model, training.recipe))
    next(epochs)
    pipe.send(None)
    while pipe.recv():
        begun = time.perf_counter()
        next(epochs)
        trained = time.perf_counter()
        training.model.eval()
        with torch.inference_mode():
            for _ in range(10):
                training.model(images[:1][0])
        pipe.send((trained - begun, time.perf_counter() - trained))


def compute() -> None:
    """Keep a CPU busy."""
    while True:
        sum(range(100_000))


if __name__ == "__main__":
    main()
