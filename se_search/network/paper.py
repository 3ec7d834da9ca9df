"""Compare the cost tables of the SENet paper (Hu et al., journal version, arXiv:1709.01507v4) with counts."""

from collections.abc import Iterator
from dataclasses import dataclass

from .config import SEConfig
from .insertion import create_model_on_meta
from .overhead import count_flops, parameter_overhead

_MILLION, _GIGA = 1e6, 1e9


@dataclass(frozen=True)
class PaperFigure:
    """One network in a table of the paper.

    Attributes:
        table: The property that the table compares.
        millions: Parameters in millions, to one decimal place.
        giga_flops: Multiply-additions per image in 10⁹, to two or three decimal places.
    """

    table: str
    name: str
    config: SEConfig
    millions: float | None = None
    giga_flops: float | None = None


@dataclass(frozen=True)
class CountedFigure:
    """Counted costs of a network in the paper.

    Attributes:
        formula: Parameters in millions: the backbone's plus Σ 2C²/r.
        counted: Parameters of the network in millions, with timm's biases and rounding.
        giga_flops: Multiply-additions per image in 10⁹, at the network's default resolution.
    """

    figure: PaperFigure
    formula: float
    counted: float
    giga_flops: float


def published_figures() -> Iterator[PaperFigure]:
    """Yield the networks of the paper's tables that timm has; it lacks BN-Inception and ShuffleNet."""
    resnet50 = SEConfig("resnet50")
    table = "reduction ratio"
    yield PaperFigure(table, "ResNet-50", resnet50, 25.6, 3.86)
    for ratio, millions in ((2, 45.7), (4, 35.7), (8, 30.7), (16, 28.1), (32, 26.9)):
        yield PaperFigure(table, f"SE, r={ratio}", SEConfig.uniform("resnet50", ratio), millions)

    table = "stage"
    for stage, millions in ((2, 25.6), (3, 25.7), (4, 26.4)):
        yield PaperFigure(
            table, f"SE_Stage_{stage}", SEConfig.uniform("resnet50", stages=[stage]), millions, giga_flops=3.86
        )
    yield PaperFigure(table, "SE_All", SEConfig.uniform("resnet50"), 28.1, 3.87)

    yield PaperFigure("position", "SE_3x3", SEConfig.uniform("resnet50", position="3x3"), 25.8, 3.86)

    table = "backbone"
    for name, backbone, plain, with_se in (
        ("ResNet-50", "resnet50", 3.86, 3.87),
        ("ResNet-101", "resnet101", 7.58, 7.60),
        ("ResNet-152", "resnet152", 11.30, 11.32),
        ("ResNeXt-50", "resnext50_32x4d", 4.24, 4.25),
        ("ResNeXt-101", "resnext101_32x4d", 7.99, 8.00),
        ("VGG-16", "vgg16_bn", 15.47, 15.48),
        ("Inception-ResNet-v2", "inception_resnet_v2", 11.75, 11.76),
    ):
        yield PaperFigure(table, name, SEConfig(backbone), giga_flops=plain)
        yield PaperFigure(table, f"SE-{name}", SEConfig.uniform(backbone, position="default"), giga_flops=with_se)
    yield PaperFigure(table, "MobileNet", SEConfig("mobilenetv1_100"), 4.2, 0.569)
    yield PaperFigure(table, "SE-MobileNet", SEConfig.uniform("mobilenetv1_100", position="default"), 4.7, 0.572)


def count_figure(figure: PaperFigure) -> CountedFigure:
    """Count parameters and FLOPs of a published network."""
    overhead = parameter_overhead(figure.config)
    model = create_model_on_meta(figure.config)
    return CountedFigure(
        figure,
        (overhead.backbone + overhead.formula) / _MILLION,
        (overhead.backbone + overhead.counted) / _MILLION,
        count_flops(model) / _GIGA,
    )
