"""Throughput of training compared with timm's own loop: the same network, images, batch, precision and device.

    python benchmarks/throughput.py --networks resnet18 vit_tiny_patch16_224 --sizes 32 96 --threads 1 2
    python benchmarks/throughput.py --device cuda --batch 128 --dtypes float32 bfloat16
    python benchmarks/throughput.py --device cuda --batch 128 --from-files --images 4096 --networks resnet18

All sides train in one process, in turns of random order, each for the same few steps:

* ``timm``: the steps of timm's ``train.py`` with timm's network, optimizer, schedule and loss;
* ``timm again``: a second copy of it, the A/A control;
* ``timm on device``: a copy whose images lie on the device before, a bound for what copying them can cost;
* ``plain``: one network as the evaluators ``scratch`` and ``finetune`` train it;
* ``plain tuned``: the same with ``cudnn.benchmark`` on, on a CUDA device;
* ``supernet``: the shared network from random weights, of which a step trains two networks;
* ``pretrained``: the shared network that starts from pretrained weights, of which a step trains one.

A speed is images per second times networks per step, relative to ``timm``: the median over turns with a bootstrap
interval. timm's side draws its batches from tensors that are already in memory. With ``--from-files`` both sides read
the same synthetic JPEG files with the same transforms and number of processes, and ``load`` and ``timm load`` read and
transfer batches without training. timm's side has ``cudnn.benchmark`` on, as in ``train.py``; TensorFloat-32 is left at
PyTorch's default on all sides.

The script prints a table and, with ``--out``, appends one line of JSON for each cell.
"""

import argparse
import io
import itertools
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from scipy import stats
from timm.data import create_dataset, create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import TensorDataset

from se_search import SEConfig
from se_search.data.image_data import ImageData, batches
from se_search.data.load import load_data
from se_search.network.backbones import network_options
from se_search.study.files import load_space
from se_search.study.space import SearchSpace
from se_search.training.common_start import CommonStart
from se_search.training.pretrained_supernet import PretrainedSupernet
from se_search.training.recipe import Losses, Training, TrainingRecipe, classification_losses, to_device
from se_search.training.stand_alone import Scratch
from se_search.training.supernet import Supernet

NETWORKS = ("resnet18", "resnet50", "mobilenetv2_100", "vit_tiny_patch16_224", "tf_efficientnet_lite0")
SIDES = ("timm", "timm again", "plain", "supernet", "pretrained")
FILE_SIDES = ("timm", "timm again", "plain", "pretrained", "timm load", "load")
CLASSES = 10
WARM_UP = 1
LEAST_TURNS = 4
MOST_TURNS = 60
TURN_SECONDS = 0.5
JPEG_SIZE = (500, 375)


@dataclass(frozen=True)
class Cell:
    """One comparison."""

    network: str
    size: int
    dtype: str
    channels_last: bool
    threads: int
    device: str
    batch: int
    workers: int
    from_files: bool


@dataclass
class Side:
    """One way to train.

    Attributes:
        turn: Trains for one epoch of a few steps.
        networks: Returns the mean number of networks that a step has trained.
        benchmark: Whether cuDNN looks for its fastest algorithms.
    """

    turn: Callable[[], Any]
    networks: Callable[[], float] = lambda: 1.0
    benchmark: bool | None = None


def main() -> None:
    """Measure each cell and print its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[224])
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--formats", nargs="+", choices=("contiguous", "channels_last"), default=["contiguous"])
    parser.add_argument("--threads", nargs="+", type=int, default=[torch.get_num_threads()])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0, help="measuring time of a cell, without preparation")
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=sorted({*SIDES, *FILE_SIDES, "plain tuned", "timm on device"}),
        help="besides timm",
    )
    parser.add_argument("--from-files", action="store_true", help="read JPEG files")
    parser.add_argument("--images", type=int, default=1024, help="JPEG files to train on")
    parser.add_argument("--workers", type=int, help="processes that read files; as in a search by default")
    parser.add_argument("--out", type=Path, help="JSON lines, appended")
    arguments = parser.parse_args()
    workers = arguments.workers
    if workers is None:
        workers = 0 if arguments.device == "cpu" else min(16, os.cpu_count() or 1)
    sides = arguments.sides or (FILE_SIDES if arguments.from_files else SIDES)
    if not arguments.sides and arguments.device.startswith("cuda"):
        sides = (*sides, "plain tuned", *(() if arguments.from_files else ("timm on device",)))
    sides = list(dict.fromkeys([*(reference(side) for side in sides), *sides]))
    device = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else platform.processor() or "CPU"
    print(f"{device}, PyTorch {torch.__version__}, timm {timm.__version__}, batch {arguments.batch}; speed of timm = 1")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.from_files:
            write_images(Path(folder), arguments.images, arguments.batch)
        for network, size, dtype, layout, threads in itertools.product(
            arguments.networks, arguments.sizes, arguments.dtypes, arguments.formats, arguments.threads
        ):
            cell = Cell(
                network,
                size,
                dtype,
                layout == "channels_last",
                threads,
                arguments.device,
                arguments.batch,
                workers if arguments.from_files else 0,
                arguments.from_files,
            )
            row = measure(cell, sides, arguments.seconds, folder)
            print(text(cell, row), flush=True)
            if arguments.out is not None:
                line = json.dumps(asdict(cell) | {"machine": device, "torch": torch.__version__, "speeds": row})
                with arguments.out.open("a") as file:
                    file.write(line + "\n")


def text(cell: Cell, row: dict[str, Any]) -> str:
    """Return a line of the table for each side."""
    layout = "channels_last" if cell.channels_last else "contiguous"
    name = f"{cell.network:22s} {cell.size:4d} {cell.dtype:9s} {layout:14s} {cell.threads} thr"
    return "\n".join(
        f"{name}  {side:11s} {one['images_per_second']:9.1f} images/s  {one['speed']:.3f} "
        f"[{one['low']:.3f}, {one['high']:.3f}]  {one['turns']} turns of {one['steps']} steps"
        for side, one in row.items()
    )


def measure(cell: Cell, names: Sequence[str], seconds: float, folder: str) -> dict[str, Any]:
    """Return the speeds of all sides of a cell."""
    torch.set_num_threads(cell.threads)
    device = torch.device(cell.device)
    recipe = TrainingRecipe(
        epochs=MOST_TURNS + WARM_UP,
        batch=cell.batch,
        learning_rate=1e-4,
        precision=cell.dtype,
        channels_last=cell.channels_last,
        workers=cell.workers,
    )
    if cell.from_files:
        data = load_data(folder, cell.network, cell.size)
        steps = len(data.train) // cell.batch
    else:
        steps = steps_of_a_turn(cell, recipe)
        data = noise(cell, steps)
    sides = {name: create_side(name, cell, recipe, data, folder) for name in names}
    taken: dict[str, list[float]] = {name: [] for name in names}
    order, started = random.Random(0), 0.0
    for turn in range(MOST_TURNS + WARM_UP):
        if turn == WARM_UP:
            started = time.perf_counter()
        if turn >= WARM_UP + LEAST_TURNS and time.perf_counter() - started > seconds:
            break
        for name in order.sample(list(names), len(names)):
            taken[name].append(time_turn(sides[name], device))
    rates = {
        name: np.array(taken[name][WARM_UP:]) ** -1 * sides[name].networks() * steps * cell.batch for name in names
    }
    return {name: speed(rate, rates[reference(name)], steps) for name, rate in rates.items()}


def reference(name: str) -> str:
    """Return the side of timm that a side is compared with."""
    return "timm load" if name.endswith("load") else "timm"


def speed(rate: np.ndarray, timms: np.ndarray, steps: int) -> dict[str, Any]:
    """Return a speed relative to timm's, with its bootstrap interval."""
    ratios, rng = rate / timms, np.random.default_rng(0)
    low = high = 1.0
    if np.ptp(ratios):
        low, high = stats.bootstrap(
            (ratios,), np.median, n_resamples=2000, method="percentile", rng=rng
        ).confidence_interval
    return {
        "speed": float(np.median(ratios)),
        "low": float(low),
        "high": float(high),
        "images_per_second": float(np.median(rate)),
        "turns": len(rate),
        "steps": steps,
    }


def time_turn(side: Side, device: torch.device) -> float:
    """Return the duration of one turn (s)."""
    before = torch.backends.cudnn.benchmark
    if side.benchmark is not None:
        torch.backends.cudnn.benchmark = side.benchmark
    synchronize(device)
    begun = time.perf_counter()
    side.turn()
    synchronize(device)
    taken = time.perf_counter() - begun
    torch.backends.cudnn.benchmark = before
    return taken


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def steps_of_a_turn(cell: Cell, recipe: TrainingRecipe) -> int:
    """Return how many steps of timm's take about :data:`TURN_SECONDS`, at least two."""
    timms = Timm(cell, recipe, tensors(noise(cell, 4), cell), 4)
    seconds = min(time_turn(Side(timms.epoch), torch.device(cell.device)) for _ in range(2)) / 4
    return min(128, max(2, round(TURN_SECONDS / seconds)))


def noise(cell: Cell, steps: int) -> ImageData:
    """Return normalised random images in memory."""
    shape = (3, cell.size, cell.size)
    count = steps * cell.batch
    generator = torch.Generator().manual_seed(0)
    images = TensorDataset(
        torch.randn(count, *shape, generator=generator), torch.randint(CLASSES, (count,), generator=generator)
    )
    return ImageData("noise", CLASSES, shape, (0.0,) * 3, (1.0,) * 3, "bilinear", images, images, images, images)


def create_side(name: str, cell: Cell, recipe: TrainingRecipe, data: ImageData, folder: str) -> Side:
    """Create one side."""
    device = torch.device(cell.device)
    steps = len(data.train) // cell.batch
    if name.startswith("timm"):
        drawn = files_of_timm(cell, data, folder) if cell.from_files else tensors(data, cell, name == "timm on device")
        if name == "timm load":
            return Side(lambda: [None for _ in drawn()])
        return Side(Timm(cell, recipe, drawn, steps).epoch, benchmark=True)
    if name == "load":
        seeds = itertools.count()

        def load() -> None:
            for images, labels in batches(data.train, cell.batch, next(seeds), cell.workers):
                to_device(images, recipe, device)
                labels.to(device)

        return Side(load)
    if name.startswith("plain"):
        plain = Scratch(cell.network, data, recipe, cell.device).training(SEConfig(cell.network), recipe.seed)
        tuned = True if name == "plain tuned" else None
        return Side(epochs_of(plain, classification_losses(plain.model, recipe)), benchmark=tuned)
    space = SearchSpace(cell.network, load_space("stages"))
    if name == "supernet":
        supernet = Supernet(cell.network, space.widest_blocks(), data, recipe, cell.device)
    else:
        start = CommonStart(cell.network, data, recipe, cell.device, "timm")
        supernet = PretrainedSupernet(start, space.widest_blocks())
        # Norms keep the statistics of the pretrained weights, here of random ones.
        first, _ = next(iter(batches(data.calibration, cell.batch)))
        update_bn([to_device(first, recipe, device)], supernet.model)
    passes = itertools.count()
    supernet.model.register_forward_pre_hook(lambda *_: (next(passes), None)[1])
    training = Training(supernet.model, recipe, data, cell.device, tuning=supernet._tuning)

    def networks() -> float:
        """Return the networks of a step; to be called once."""
        return next(passes) / (len(training.history) * steps)

    return Side(epochs_of(training, supernet._losses(training, space)), networks)


def epochs_of(training: Training, losses: Losses) -> Callable[[], Any]:
    """Return a function that trains for one epoch."""
    epochs = training.epochs(losses)
    return lambda: next(epochs)


Drawn = Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]


def tensors(data: ImageData, cell: Cell, on_device: bool = False) -> Drawn:
    """Return the batches of an epoch from tensors in memory, or on the device, in a new order each time."""
    images, labels = data.train.tensors
    device = torch.device(cell.device)
    if on_device:
        images, labels = images.to(device), labels.to(device)

    def drawn() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for places in torch.randperm(len(images), device=images.device).split(cell.batch):
            yield images[places].to(device), labels[places].to(device)

    return drawn


def files_of_timm(cell: Cell, data: ImageData, folder: str) -> Drawn:
    """Return the batches of an epoch as timm's loader reads them."""
    loader = create_loader(
        create_dataset("", str(Path(folder) / "train")),
        data.input_size,
        cell.batch,
        is_training=True,
        interpolation=data.interpolation,
        mean=data.mean,
        std=data.std,
        num_workers=cell.workers,
        device=torch.device(cell.device),
    )
    return lambda: iter(loader)


class Timm:
    """A training as in timm's ``train.py`` (repository huggingface/pytorch-image-models, August 2026)."""

    def __init__(self, cell: Cell, recipe: TrainingRecipe, drawn: Drawn, steps: int) -> None:
        torch.manual_seed(0)
        options = network_options(cell.network, (3, cell.size, cell.size)) | {"num_classes": CLASSES}
        self._model = timm.create_model(cell.network, **options).to(cell.device)
        if cell.channels_last:
            self._model.to(memory_format=torch.channels_last)
        self._cell, self._drawn, self._steps = cell, drawn, steps
        self._optimizer = create_optimizer_v2(
            self._model, opt=recipe.optimizer, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self._scheduler, _ = create_scheduler_v2(
            self._optimizer, sched="cosine", num_epochs=recipe.epochs, step_on_epochs=False, updates_per_epoch=steps
        )
        self._loss = nn.CrossEntropyLoss()
        self._autocast = (
            torch.autocast(device_type=torch.device(cell.device).type, dtype=torch.bfloat16)
            if cell.dtype == "bfloat16"
            else nullcontext()
        )
        self._updates = 0

    def epoch(self) -> None:
        """Train for one epoch."""
        losses = AverageMeter()
        self._model.train()
        self._optimizer.zero_grad()
        for images, labels in self._drawn():
            if self._cell.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            with self._autocast:
                loss = self._loss(self._model(images), labels)
            loss.backward()
            self._optimizer.step()
            losses.update(loss.item(), len(images))
            self._optimizer.zero_grad()
            self._updates += 1
            self._scheduler.step_update(num_updates=self._updates, metric=losses.avg)


def write_images(folder: Path, count: int, batch: int) -> None:
    """Write JPEG files of the size of photographs: whole batches to train on, and a few others."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(64):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize(JPEG_SIZE, Image.Resampling.BICUBIC))
        grain = rng.integers(-12, 13, pixels.shape, dtype=np.int16)
        held = io.BytesIO()
        Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8)).save(held, "JPEG", quality=90)
        encoded.append(held.getvalue())
    for part, images in (("train", -(-count // batch) * batch), ("val", 2 * CLASSES), ("test", 2 * CLASSES)):
        for number in range(images):
            place = folder / part / f"class{number % CLASSES}" / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            # What follows the end of the picture is not decoded: no two files are equal.
            place.write_bytes(encoded[number % len(encoded)] + f"{part}{number}".encode())


if __name__ == "__main__":
    main()
