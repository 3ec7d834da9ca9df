"""Latencies of another device, from a file that was measured there."""

from pathlib import Path

from torch import nn

from ..errors import DefinitionError, EvaluationError, as_given
from ..files import read_text
from ..words import by
from .additive import measurements_from_json
from .comparable import check_same_conditions
from .meter import LatencyConditions, Ratio


class OtherDevice:
    """Stands in for a meter: it has the conditions of the measurements in a file, and measures nothing.

    Attributes:
        measurements: The measurements.
        conditions: Their conditions.

    Args:
        file: A file that ``se-search latency --model`` wrote.
        backbone: The architecture that they must be of.
        size: The input size that they must have.

    Raises:
        DefinitionError: If the file cannot be used for it.
    """

    def __init__(self, file: Path, backbone: str, size: tuple[int, int, int]) -> None:
        name = f"{as_given('latency_from')} {file}"
        try:
            self.measurements = measurements_from_json(read_text(file))
        except OSError as error:
            raise DefinitionError(f"{name} cannot be read: {error.strerror}") from error
        except ValueError as error:  # ConfigurationError is one
            raise DefinitionError(f"{name} is damaged or was not written by `se-search latency --model`") from error
        if not self.measurements:
            raise DefinitionError(f"{name} has no measurement")
        self.conditions: LatencyConditions = self.measurements[0].ratio.conditions
        for one in self.measurements:
            if one.config.backbone != backbone:
                raise DefinitionError(f"{name} is of backbone {one.config.backbone}, and the study's is {backbone}")
            try:
                check_same_conditions(self.conditions.to_dict(), one.ratio.conditions.to_dict())
            except EvaluationError as error:
                raise DefinitionError(f"{name} mixes measurements that cannot be compared: {error}") from error
        if self.conditions.size != size:
            raise DefinitionError(
                f"{name} was measured with images of {by(self.conditions.size)}, and the study measures at {by(size)}: "
                f"set {as_given('latency_size')}, or measure with --size {size[-1]}"
            )

    def measure(self, model: nn.Module, limit: float | None = None) -> Ratio:
        """Refuse to measure.

        Raises:
            EvaluationError: Always.
        """
        raise EvaluationError(f"latencies are those of {self.conditions.processor}, and cannot be measured here")
