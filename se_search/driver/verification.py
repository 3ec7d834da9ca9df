"""Verification: retrain front members, the bare backbone and published uniform networks independently."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from ..data.image_data import ImageData
from ..errors import DefinitionError, DivergenceError, EvaluationError, RunFolderError, as_given
from ..files import write_text
from ..network.config import SEConfig
from ..network.insertion import write_weights
from ..progress import Schedule, following, progress_bar, say
from ..results.picks import pick_trials
from ..results.table import candidates_of, trials_table
from ..results.trainings import read_outcomes, result_file, seed_to_export, weights_file
from ..results.verified import VERIFIED, Retraining
from ..study.objectives import Objective
from ..study.space import SearchSpace
from ..training.evaluator import evaluate_network
from ..training.recipe import load_weights
from ..training.stand_alone import Scratch
from ..trials.evaluators import training_recipe, use_device, warn_if_busy
from ..trials.folder import VERIFICATION, load_trials, open_folder, read_definition, reporting_unwritable
from ..trials.images import located, run_data
from ..trials.notes import note_data, note_unreadable, pack, pack_losses, quality_of, with_measured_latency
from ..words import counted, percent


def run_verification(
    folder: Path, members: str = "front", seeds: int = 3, epochs: int | None = None, images: str | None = None
) -> None:
    """Retrain members of a run's front, the bare backbone and published uniform networks independently.

    For each seed, all see the same batches in the same order and start from the same weights of the backbone. They are
    evaluated on the test images, which the search does not use. Finished trainings are kept, also those that diverged;
    an interrupted one resumes from its last epoch. Of each network the weights of one training are kept: the one
    that is best on the validation images.

    Args:
        folder: A run folder.
        members: ``"front"`` (with the trials not distinguishable from it), ``"all"`` (every complete trial),
            ``"verified"`` (those verified before with as many epochs) or a number of them: those picked by name first,
            then the best of the front, then the best of the others.
        seeds: Number of training seeds of each network.
        epochs: Epochs of each training; the study's by default.
        images: The folder where the run's images are now; that in the study by default.

    Raises:
        RunFolderError: If the folder is not a run folder, is in use, has nothing to verify, or has other images.
        SeSearchError: If another argument is invalid.
    """
    there = read_definition(folder)
    definition = located(there, images)
    for option, value in (("seeds", seeds), ("epochs", epochs)):
        if value is not None and value < 1:
            raise DefinitionError(f"{as_given(option)} is {value}: it must be at least 1")
    searched = with_measured_latency(load_trials(folder))
    quality = quality_of(searched)
    chosen = _choose(folder, trials_table(searched), quality, members, epochs or definition.evaluator.epochs)
    networks: dict[tuple[Any, ...], tuple[str, SEConfig]] = {}
    baselines = SearchSpace(definition.backbone, definition.resolved_space).baselines()
    for name, config in [*baselines.items(), *chosen.items()]:
        known = networks.get(config.structure)
        networks[config.structure] = (known[0] if known else name, config)
    use_device(definition)
    warn_if_busy()
    data = run_data(folder, definition)
    trainer = definition.evaluator.create_trainer(definition, data, training_recipe(definition, epochs), folder)
    recipe = trainer.recipe
    plan = [(*network, recipe.seed + number) for number in range(seeds) for network in networks.values()]
    with reporting_unwritable(folder), open_folder(folder, definition, existing=there) as study:
        note_data(folder, study, data)
        (folder / VERIFICATION).mkdir(exist_ok=True)
        left = [one for one in plan if not result_file(folder, one[1], recipe.epochs, one[2]).exists()]
        what = f"{counted(len(networks), 'network')}, {counted(seeds, 'seed')}, {counted(recipe.epochs, 'epoch')}"
        say(f"{what}: {len(left)} of {counted(len(plan), 'training')} left.")
        try:
            with following(Schedule()), progress_bar("Verifying", len(plan), len(plan) - len(left)) as advance:
                for name, config, seed in left:
                    try:
                        line = _verify(folder, trainer, name, config, seed)
                        _keep_weights(folder, config, recipe.epochs, quality)
                    except DivergenceError as error:
                        _note_divergence(folder, trainer, config, seed, error)
                        line = f"{name}, seed {seed} failed: {error}"
                    except EvaluationError as error:  # concerns one network only: train the others
                        line = f"{name}, seed {seed} failed: {error}"
                    advance(1, line)
        finally:
            note_unreadable(study, data.unreadable)


def load_verified(
    folder: Path, config: SEConfig, epochs: int, training: Retraining, images: str | None = None
) -> tuple[nn.Module, ImageData]:
    """Load the network of ``config`` as verification trained it, and the data.

    Args:
        folder: A run folder.
        config: A configuration that was verified.
        epochs: Epochs of that verification.
        training: The training whose weights were kept.
        images: The folder where the run's images are now; that in the study by default.

    Raises:
        RunFolderError: If its weights are missing or damaged, or the images are others.
    """
    definition = located(read_definition(folder), images)
    data = run_data(folder, definition)
    trainer = definition.evaluator.create_trainer(definition, data, training_recipe(definition, epochs), folder)
    network = trainer.start(config, training.seed)
    named = None if training.validation is None else training.seed
    load_weights(
        network,
        weights_file(folder, config, epochs, named),
        "verify it again, or use the weights of the search (--search-weights)",
    )
    return network.eval(), data


def _choose(folder: Path, table: pd.DataFrame, quality: Objective, members: str, epochs: int) -> dict[str, SEConfig]:
    candidates = candidates_of(table)
    if members == "all":
        rows = table[table["state"] == "complete"]
    elif members == "front":
        rows = candidates
    elif members == VERIFIED:
        known = read_outcomes(folder).get(epochs, {})
        rows = table[(table["state"] == "complete") & table["config_id"].isin(list(known))]
        if rows.empty:
            raise RunFolderError(
                f"no trial of {folder} has been verified with {counted(epochs, 'epoch')} yet: verify the front first"
            )
    elif members.isdecimal() and int(members) > 0:
        picked = list(dict.fromkeys(pick_trials(table, quality).values()))
        by_quality = candidates.assign(tied=~candidates["on_front"]).sort_values(
            ["tied", quality.name], ascending=[True, quality.direction == "minimize"]
        )["number"]
        numbers = list(dict.fromkeys([*picked, *by_quality]))[: int(members)]
        rows = candidates[candidates["number"].isin(numbers)]
    else:
        raise DefinitionError(
            f"{as_given('members')} {members!r} is not possible: give front, all or a number of at least 1, or "
            f"{VERIFIED}"
        )
    if rows.empty:
        raise RunFolderError(f"{folder} has no complete trial within its limits yet: run the search first")
    return {
        f"trial {number}": SEConfig.from_json(text) for number, text in zip(rows["number"], rows["config"], strict=True)
    }


def _verify(folder: Path, trainer: Scratch, name: str, config: SEConfig, seed: int) -> str:
    """Train and evaluate one network, write the result, and return a line about it."""
    recipe = trainer.recipe
    result = result_file(folder, config, recipe.epochs, seed)
    checkpoint = result.with_suffix(".checkpoint.pt")
    training = trainer.training(config, seed, checkpoint)
    total, done = recipe.epochs * training.steps, len(training.history) * training.steps
    with progress_bar(f"Training {name}, seed {seed}", total, done) as advance:
        network = training.finish(advance)
    evaluation = evaluate_network(network, trainer.data.test, recipe.batch, trainer.device, recipe)
    chosen_by = evaluate_network(network, trainer.data.validation, recipe.batch, trainer.device, recipe)
    write_weights(network, weights_file(folder, config, recipe.epochs, seed))
    content = {
        "config": config.id,
        "seed": seed,
        "epochs": training.history,
        "validation": {"accuracy": chosen_by.accuracy.value, "log_loss": chosen_by.log_loss.value},
        "correct": pack(evaluation.correct),
        "losses": pack_losses(evaluation.losses),
    }
    write_text(result, json.dumps(content))
    checkpoint.unlink(missing_ok=True)
    return (
        f"{name}, seed {seed}: accuracy {percent(evaluation.accuracy.value)}, log-loss {evaluation.log_loss.value:.4f} "
        "on the test images"
    )


def _note_divergence(folder: Path, trainer: Scratch, config: SEConfig, seed: int, error: DivergenceError) -> None:
    """Write the result of a training that diverged: nothing is classified correctly, and each class equally likely."""
    result = result_file(folder, config, trainer.recipe.epochs, seed)
    images = (1, len(trainer.data.test))
    content = {
        "config": config.id,
        "seed": seed,
        "epochs": [],
        "error": str(error),
        "correct": pack(np.zeros(images, bool)),
        "losses": pack_losses(np.full(images, math.log(trainer.data.classes), np.float32)),
    }
    write_text(result, json.dumps(content))
    result.with_suffix(".checkpoint.pt").unlink(missing_ok=True)


def _keep_weights(folder: Path, config: SEConfig, epochs: int, quality: Objective) -> None:
    """Delete the weights of a network's trainings but those of the one to export."""
    results = read_outcomes(folder, config)[epochs][config.id]
    kept = seed_to_export(results, quality)
    for seed in results.keys() - {kept}:
        weights_file(folder, config, epochs, seed).unlink(missing_ok=True)
