"""Embedded tasks made from scikit-learn's handwritten digits."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, TensorDataset

from .image_data import ImageData

# Part of the data's definition: every search, whatever its seed, sees the same images.
_SPLIT_SEED = 2017
_CORRUPTION_SEED = 1
_PAIRING_SEED = 2

_REPEATS_CONTEXT = (4, 2, 2)  # images in which a digit gives the class, in training, validation and test

_BOARD_SEED = 3
_REPEATS_LOCAL = (4, 2, 2)  # boards in which a digit gives the class, in training, validation and test
_BOARD_SIDE, _CELL, _SHOWN = 5, 16, 4  # cells, pixels, digits


def load_easy_digits() -> ImageData:
    """Load scikit-learn's 1,797 grey 8×8 digits at 3×32×32: 1,000 to train, 400 to validate, 397 to test."""
    digits, labels = _digits()
    images = F.interpolate(digits, size=32, mode="bilinear").expand(-1, 3, -1, -1)
    return _image_data("digits", *((images[part], labels[part]) for part in _split(labels)))


def load_hard_digits() -> ImageData:
    """Load the digits of :func:`load_easy_digits` in the same parts with random corruption.

    A digit is rotated by up to 15°, scaled by 0.85 to 1.15 and shifted by up to a twentieth of the image in both
    directions. Its values, from 0 to 1, are multiplied by a contrast of 0.3 to 1 with a random sign. A constant from
    −0.25 to 0.25 and Gaussian noise with a standard deviation of 0.35 are added. Training images are corrupted again in
    every epoch; validation, test and calibration images are corrupted once, with a fixed seed.
    """
    digits, labels = _digits()
    images = _corrupt(digits, torch.Generator().manual_seed(_CORRUPTION_SEED))
    parts = _split(labels)
    data = _image_data("digits-hard", *((images[part], labels[part]) for part in parts))
    return replace(data, train=CorruptedDigits(digits[parts[0]], labels[parts[0]], data.mean[0], data.std[0]))


@dataclass(eq=False)
class CorruptedDigits(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Digits that are corrupted each time they are read, as in :func:`load_hard_digits`.

    ``digits`` are grey images of shape ``(count, 1, 8, 8)`` with values from 0 to 1. After the corruption ``mean`` is
    subtracted, and the result divided by ``std``.
    """

    digits: torch.Tensor
    labels: torch.Tensor
    mean: float
    std: float

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Corrupt a whole batch at once, which PyTorch's loaders call: one by one takes far longer."""
        images = (_corrupt(self.digits[indices]) - self.mean) / self.std
        return list(zip(images, self.labels[indices], strict=True))


def _corrupt(digits: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Corrupt each of ``(count, 1, 8, 8)`` digits: ``(count, 3, 32, 32)``."""
    count = len(digits)

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.empty(count).uniform_(low, high, generator=generator)

    angle, scale = draw(-math.pi / 12, math.pi / 12), draw(0.85, 1.15)
    shift_x, shift_y = draw(-0.1, 0.1), draw(-0.1, 0.1)  # the image reaches from −1 to 1
    contrast = draw(0.3, 1) * draw(-1, 1).sign()
    offset = draw(-0.25, 0.25)
    noise = torch.randn(count, 1, 32, 32, generator=generator)

    cos, sin = angle.cos() / scale, angle.sin() / scale
    to_source = torch.stack([torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)], 1)
    grid = F.affine_grid(to_source, [count, 1, 32, 32], align_corners=False)
    turned = F.grid_sample(digits, grid, align_corners=False)
    images = turned * contrast[:, None, None, None] + offset[:, None, None, None] + 0.35 * noise
    return images.expand(-1, 3, -1, -1)


def load_context_digits() -> ImageData:
    """Load a synthetic task that needs global context, so SE must help.

    At the left end of a strip of 3×16×96 are two digits on top of each other, one in the red and one in the green
    channel. The right quarter of the blue channel is a lamp: where it is lit the class is that of the red digit, where
    it is dark that of the green one. The rest is black. Each digit of a part gives the class equally often in red and
    in green, 4 times in training and 2 times in validation and test; its partner is drawn from the same part.

    Digits and lamp are 56 pixels apart: no feature of a small network such as ``test_efficientnet`` without attention
    depends on both. Pooling and the classifier add features up, so the logits are a term of the digits plus a term of
    the lamp. The best such sum guesses between the two digits: its accuracy is 55 % (partners share their class in a
    tenth of the images), its log-loss 0.9 log 2 = 0.62. Squeeze-and-Excitation scales the channels of a colour by a
    function of the whole strip, and has no such bound.
    """
    return _strips("digits-context", height=16, width=96, lamp=24)


def load_distant_digits() -> ImageData:
    """Load the strips of :func:`load_context_digits` at 3×8×64, with a lamp of 16 columns.

    The features of large networks depend on both ends of a strip, so that they could learn the task without attention.
    In the few hundred steps that a short training has they do not, and Squeeze-and-Excitation does.
    """
    return _strips("digits-distant", height=8, width=64, lamp=16)


def _strips(name: str, height: int, width: int, lamp: int) -> ImageData:
    digits, labels = _digits()
    digits = F.interpolate(digits, size=height, mode="bilinear")[:, 0]
    generator = torch.Generator().manual_seed(_PAIRING_SEED)
    parts = []
    for part, repeats in zip(_split(labels), _REPEATS_CONTEXT, strict=True):
        strips = torch.zeros(repeats, len(part), 3, height, width)
        for turn, strip in enumerate(strips):
            lit = turn % 2 == 0
            partner = part[torch.randperm(len(part), generator=generator)]
            red, green = (part, partner) if lit else (partner, part)
            strip[:, 0, :, :height] = digits[red]
            strip[:, 1, :, :height] = digits[green]
            strip[:, 2, :, -lamp:] = float(lit)
        parts.append((strips.flatten(0, 1), labels[part].repeat(repeats)))
    return _image_data(name, *parts)


def load_local_digits() -> ImageData:
    """Load a synthetic task that needs a local cue, so a local block must help a network that mixes globally.

    A board of 5×5 cells of 16×16 pixels, the patches of a vision transformer, has four digits and a lamp in random
    cells. The lamp is lit in the blue channel, the digits are grey. The class is that of the only digit in one of the
    up to eight cells around the lamp. Each digit of a part gives the class 4 times in training and 2 times in
    validation and test; the other three are drawn from the same part.

    A network that takes the cells as a set can only guess among the four digits. One with global attention has to learn
    from its position embeddings which cells are neighbours. A convolution over the grid of patches sees at once which
    digit is beside the lamp.
    """
    digits, labels = _digits()
    digits = F.interpolate(digits, size=_CELL, mode="bilinear")[:, 0]
    generator = torch.Generator().manual_seed(_BOARD_SEED)
    places = torch.cartesian_prod(torch.arange(_BOARD_SIDE), torch.arange(_BOARD_SIDE))
    distances = (places[:, None] - places).abs().amax(2)  # of cells, in king's moves
    parts = []
    for part, repeats in zip(_split(labels), _REPEATS_LOCAL, strict=True):
        count = repeats * len(part)
        boards, every = torch.zeros(count, len(places), 3, _CELL, _CELL), torch.arange(count)
        lamps = torch.randint(len(places), (count,), generator=generator)
        order = torch.rand(count, len(places), generator=generator)
        beside = order.masked_fill(distances[lamps] != 1, 0).argmax(1)
        apart = order.masked_fill(distances[lamps] <= 1, 0).topk(_SHOWN - 1).indices
        others = part[torch.randint(len(part), (count, _SHOWN - 1), generator=generator)]
        boards[every, lamps, 2] = 1
        boards[every, beside] = digits[part.repeat(repeats)][:, None]
        boards[every[:, None], apart] = digits[others][:, :, None]
        grid = boards.view(count, _BOARD_SIDE, _BOARD_SIDE, 3, _CELL, _CELL).permute(0, 3, 1, 4, 2, 5)
        parts.append((grid.flatten(4).flatten(2, 3), labels[part].repeat(repeats)))
    return _image_data("digits-local", *parts)


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits  # a tenth of all imports, which only this and the split need

    digits = load_digits()
    return torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)


def _split(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from sklearn.model_selection import train_test_split  # as above

    rest, test = train_test_split(range(len(labels)), test_size=397, stratify=labels, random_state=_SPLIT_SEED)
    train, validation = train_test_split(rest, test_size=400, stratify=labels[rest], random_state=_SPLIT_SEED)
    return torch.tensor(train), torch.tensor(validation), torch.tensor(test)


def _image_data(name: str, *parts: tuple[torch.Tensor, torch.Tensor]) -> ImageData:
    """Create data from the images and labels of the training, validation and test part."""
    _, count, height, width = parts[0][0].shape
    channels = parts[0][0].transpose(0, 1).flatten(1)
    mean, std = channels.mean(1), channels.std(1)
    train, validation, test = (
        TensorDataset((images - mean[:, None, None]) / std[:, None, None], labels) for images, labels in parts
    )
    return ImageData(
        name=name,
        classes=10,
        input_size=(count, height, width),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        interpolation="bilinear",
        train=train,
        calibration=train,
        validation=validation,
        test=test,
        label_names=tuple(map(str, range(10))),
    )
