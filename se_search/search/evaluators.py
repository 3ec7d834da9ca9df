"""Evaluators by name: those shipped, those of plugins, and those given from Python."""

from collections.abc import Callable, Mapping

from ..errors import DefinitionError, did_you_mean
from ..evaluation.data import ImageData
from ..evaluation.evaluator import Evaluator
from ..evaluation.supernet import Supernet, TrainingSchedule
from ..network.se_block import hidden_channels
from ..plugins import EVALUATORS, find_plugin, find_plugins
from .definitions import StudyDefinition
from .space import SearchSpace

EvaluatorFactory = Callable[[StudyDefinition, SearchSpace, ImageData], Evaluator]
"""Creates an evaluator that is not prepared yet."""


def create_supernet(study: StudyDefinition, space: SearchSpace, data: ImageData) -> Supernet:
    """Create the untrained network that holds every configuration of ``space``.

    Raises:
        DefinitionError: If the study's settings do not suit it.
    """
    definition, evaluator = space.definition, study.evaluator
    if evaluator.options:
        raise DefinitionError(
            f"evaluator.options holds {', '.join(evaluator.options)}: the supernet takes none, they are for plugins"
        )
    if len(data.train) < evaluator.recalibration_images:
        raise DefinitionError(
            f"evaluator.recalibration_images is {evaluator.recalibration_images}: "
            f"{data.name} has {len(data.train)} training images"
        )
    return Supernet(
        study.backbone,
        {site: hidden_channels(site.channels, min(definition.ratios), definition.rounding) for site in space.sites},
        definition.bias,
        data,
        TrainingSchedule(
            epochs=evaluator.epochs,
            batch=evaluator.batch,
            learning_rate=evaluator.learning_rate,
            weight_decay=evaluator.weight_decay,
            recalibration_images=evaluator.recalibration_images,
            seed=study.seed,
        ),
        study.device,
    )


SHIPPED_EVALUATORS: Mapping[str, EvaluatorFactory] = {"supernet": create_supernet}
"""Evaluators that travel with the package."""


def find_evaluator(name: str) -> EvaluatorFactory:
    """Return the shipped evaluator or the plugin of that name.

    Raises:
        DefinitionError: If there is none, or the plugin cannot be used.
    """
    plugin = find_plugin(EVALUATORS, name, SHIPPED_EVALUATORS)
    if plugin is not None:
        return plugin.load()
    if name not in SHIPPED_EVALUATORS:
        known = list(dict.fromkeys([*SHIPPED_EVALUATORS, *(one.name for one in find_plugins(EVALUATORS))]))
        raise DefinitionError(f"evaluator {name!r} is unknown: known are {', '.join(known)}{did_you_mean(name, known)}")
    return SHIPPED_EVALUATORS[name]
