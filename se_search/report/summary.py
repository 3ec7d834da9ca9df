"""Descriptions of schedules and images that the terminal, the page and the Markdown report share."""

from ..results.record import DataRecord, RunRecord
from ..results.verified import Schedule
from ..words import counted


def in_words(schedule: Schedule) -> str:
    """Describe a schedule of verification: retrained independently (8 epochs, 3 seeds)."""
    return f"retrained independently ({counted(schedule.epochs, 'epoch')}, {counted(len(schedule.seeds), 'seed')})"


def name_front(run: RunRecord) -> str:
    """Name the search's front; once verified values decide, its estimates are context."""
    return "Pareto front of the search's estimates (verified values decide)" if run.verified else "Pareto front"


def describe_study(run: RunRecord) -> str:
    """Return the study's description, or what was run if it has none."""
    return run.study or f"{run.backbone} on {run.data.name}, {counted(run.budget, 'configuration')}"


def describe_images(data: DataRecord) -> str:
    """Describe the numbers of images and classes."""
    images = f"{data.train:,} training, {data.validation:,} validation and {data.test:,} test images"
    return f"{images}; {data.classes} classes"
