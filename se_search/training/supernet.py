"""The weight-sharing evaluator: one network is trained once for all configurations of a space."""

import copy
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import update_bn

from ..data.image_data import Batches, ImageData, ImageSet, batches, sample
from ..files import write_text
from ..memory import memory_told
from ..network.attention.elastic import create_elastic
from ..network.attention.grid import LAYOUTS
from ..network.attention.kind import PlacedAttention
from ..network.attention.layers import Elastic
from ..network.backbones import network_options
from ..network.config import SEConfig
from ..network.folding import fold_gates
from ..network.gates import find_gates
from ..network.insertion import attach, create_model, write_weights
from ..network.sites import Site, find_places_once
from ..progress import Phase
from .distributed import Team, together
from .evaluator import Effort, Evaluation, evaluate_network, time_images
from .mean_gates import mean_gates
from .protocols import ConfigurationSource, ProgressBar, no_progress
from .recipe import (
    Losses,
    Training,
    TrainingRecipe,
    autocast,
    count_bytes,
    label_smoothing,
    load_weights,
    prepare_network,
)
from .shared_passes import SharedPasses
from .tuning import Tuning

WEIGHTS = "supernet.safetensors"
SUMMARY = "supernet.json"
CHECKPOINT = "supernet.checkpoint.pt"

_TITLE = "Training the supernet"
_KEPT_STATISTICS = 128
# A random draw rarely gives the network without SE, but all others are compared with it. If it takes every second step,
# the gates of the others hardly learn: on digits-context none does.
_STEPS_PER_BARE = 4


class Supernet:
    """The backbone with an elastic block at every site, whose weights all configurations of a space share.

    Args:
        backbone: A timm architecture name.
        widest: The widest block of each kind at each site, grouped by site.
        data: Data to train and evaluate on.
        recipe: Hyperparameters.
        device: A torch device.
        recalibration_images: Number of training images from which normalisation statistics are recomputed for each
            configuration; all images if there are fewer.
        distillation: Weight, 0 to 1, of the loss that compares the smaller network's outputs with the larger one's
            instead of the labels.
        patience: Epochs without a lower training loss (by 0.1 %) after which training ends; ``None`` trains all.
    """

    shared_files = (WEIGHTS, SUMMARY)

    def __init__(
        self,
        backbone: str,
        widest: Iterable[PlacedAttention],
        data: ImageData,
        recipe: TrainingRecipe,
        device: str = "cpu",
        recalibration_images: int = 256,
        distillation: float = 0.0,
        patience: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.data = data
        self.recipe = recipe
        self.device = torch.device(device)
        self._recalibration_images = recalibration_images
        self._distillation = distillation
        self._patience = patience
        torch.manual_seed(recipe.seed)
        self._options = network_options(backbone, data.input_size) | {"num_classes": data.classes}
        self.model = create_model(SEConfig(backbone), **self._options)
        self._elastic: dict[Site, Elastic] = {}
        places = {
            (site.block, site.position): place
            for site, place in find_places_once(self.model, backbone, self._options).items()
        }
        for site, blocks in groupby(widest, key=lambda block: block.site):
            place = places[site.block, site.position]
            kept = self.model.get_submodule(place.host) if place.side == "existing" else None
            self._elastic[site] = create_elastic([block.on_grid(place.known_grid) for block in blocks], kept)
            attach(self.model, site, place, self._elastic[site])
        prepare_network(self.model, recipe, self.device)
        self._passes = SharedPasses(self.model, self._elastic)
        names = {module: name for name, module in self.model.named_modules()}
        self._names = {site: names[elastic] for site, elastic in self._elastic.items()}
        self._statistics: dict[Any, dict[str, torch.Tensor]] = {}
        self._gates: dict[Any, dict[Site, torch.Tensor]] = {}
        self._tuning: Tuning | None = None

    def select(self, config: SEConfig) -> None:
        """Switch the blocks of ``config`` on and all others off; existing attention stays unless ``config`` differs.

        Attention that becomes constant stays too: its mean gate is that of the trained supernet.
        """
        changed = set(config.sites).difference(config.constant)
        for site, elastic in self._elastic.items():
            elastic.select(None)
            if elastic.kept is not None and site not in changed:
                elastic.keep()
        for placed in config.placed:
            placed.select_in(self._elastic[placed.site].of_kind(placed.kind))

    def prepare(self, folder: Path, space: ConfigurationSource, progress_bar: ProgressBar) -> None:
        """Train the supernet, resume its training, or load the trained weights in ``folder``.

        Each step adds the gradients of two networks, as in the sandwich rule of slimmable networks (Yu and Huang 2019):
        a random configuration, or in every fourth step no SE, and its widest relative. The smaller one can also learn
        from the outputs of the widest (their in-place distillation).

        Under torchrun, the other ranks :meth:`assist`.

        Raises:
            EvaluationError: If the training loss is not finite, or another rank does not respond.
            RunFolderError: If files in the folder are damaged.
        """
        trained = (folder / WEIGHTS).is_file() and (folder / SUMMARY).is_file()
        with together(self.device, not trained) as team:
            if not trained:
                self._prepare_start(folder, progress_bar, team)
            training = None if trained else self._train(space, progress_bar, folder / CHECKPOINT, team)
        if training is None:
            self.load(folder)
        else:
            self.model.load_state_dict(training.evaluated.state_dict())
            self._forget()
            write_weights(self.model, folder / WEIGHTS)
            write_text(folder / SUMMARY, json.dumps({"backbone": self.backbone, "epochs": training.history}, indent=2))
        (folder / CHECKPOINT).unlink(missing_ok=True)

    def assist(self, space: ConfigurationSource, team: Team) -> None:
        """Join the training that rank 0 runs in :meth:`prepare`; write nothing.

        Raises:
            EvaluationError: If the training loss is not finite, or another rank does not respond.
        """
        self._train(space, no_progress, None, team)

    def _prepare_start(self, folder: Path, progress_bar: ProgressBar, team: Team | None) -> None:
        """Load the weights that training starts from; random ones are there already."""

    def _train(
        self, space: ConfigurationSource, progress_bar: ProgressBar, checkpoint: Path | None, team: Team | None
    ) -> Training:
        training = Training(self.model, self.recipe, self.data, self.device, checkpoint, team, self._tuning)
        training.run(self._losses(training, space), progress_bar, _TITLE, self._patience)
        return training

    def estimate(self, folder: Path, space: ConfigurationSource) -> Effort:
        """Estimate training and evaluation from a few steps of a copy."""
        timed = copy.deepcopy(self, {id(self.data): self.data})
        trained = (folder / WEIGHTS).is_file() and (folder / SUMMARY).is_file()
        phases = () if trained else timed._shared_phases(folder, space)
        timed.select(space.largest())
        seconds = time_images(timed.model, self.data.validation, self.recipe, self.device)
        return Effort(phases, self._images_of_a_trial() * seconds, count_bytes(self.model))

    def _shared_phases(self, folder: Path, space: ConfigurationSource) -> tuple[Phase, ...]:
        """Return the phases of :meth:`prepare` after timing a few steps, which change the weights."""
        training = Training(self.model, self.recipe, self.data, self.device, tuning=self._tuning)
        return (training.as_phase(_TITLE, training.time_steps(self._losses(training, space))),)

    def _images_of_a_trial(self) -> int:
        return len(self.data.validation) + min(self._recalibration_images, len(self.data.calibration))

    def _networks(self, drawn: SEConfig, widest: SEConfig, step: int) -> tuple[SEConfig, ...]:
        """Return the networks of a step; outputs of the first can be the targets of a second."""
        bare = step % _STEPS_PER_BARE == 0
        return widest, SEConfig.without_attention(self.backbone) if bare else drawn

    def _losses(self, training: Training, space: ConfigurationSource) -> Losses:
        smoothing = label_smoothing(self.recipe)

        def outputs(config: SEConfig, images: torch.Tensor) -> torch.Tensor:
            self.select(config)
            with autocast(self.recipe, self.device):
                return self.model(images).float()

        def losses(images: torch.Tensor, targets: torch.Tensor) -> Iterator[torch.Tensor]:
            # PyTorch's generator is seeded for each epoch, so a resumed training draws the same configurations.
            drawn = space.draw(random.Random(int(torch.randint(2**62, ()))))
            first, *others = self._networks(drawn, space.widen(drawn), training.step)
            teacher = outputs(first, images)
            yield F.cross_entropy(teacher, targets, label_smoothing=smoothing)
            for config in others:
                student = outputs(config, images)
                from_labels = F.cross_entropy(student, targets, label_smoothing=smoothing)
                from_teacher = F.cross_entropy(student, teacher.detach().softmax(1))
                yield from_labels + self._distillation * (from_teacher - from_labels)

        return losses

    def load(self, folder: Path) -> None:
        """Load the trained weights in ``folder``.

        Raises:
            RunFolderError: If they are missing, damaged or of another network.
        """
        load_weights(self.model, folder / WEIGHTS, "run the search to its end first")
        self._forget()

    def _forget(self) -> None:
        self._statistics.clear()
        self._gates.clear()
        self._passes.forget()

    def evaluate(self, config: SEConfig) -> Evaluation:
        """Evaluate a configuration on the validation images after recalibrating normalisation statistics.

        Raises:
            EvaluationError: If the network's outputs are not finite.
        """
        self._select_calibrated(config)
        for site, gate in self._constant_gates(config).items():
            shape = [1, 1, 1, 1]
            shape[LAYOUTS[site.layout]] = -1
            self._elastic[site].fix(gate.reshape(shape))
        passes = self._passes.start("validation", config)
        return evaluate_network(passes, self.data.validation, self.recipe.batch, self.device, self.recipe)

    def network(self, config: SEConfig) -> nn.Module:
        """Return the plain network of ``config`` with its slice of the shared weights, in evaluation mode on the CPU.

        Its normalisation statistics, and so its outputs, are those of :meth:`evaluate`.
        """
        self._select_calibrated(config)
        shared = {name: value.cpu() for name, value in self.model.state_dict().items()}
        elastic = tuple(f"{name}." for name in self._names.values())
        state = {name: value for name, value in shared.items() if not name.startswith(elastic)}
        for site, one in self._elastic.items():
            if one.keeps and one.kept is not None:
                state |= {f"{self._names[site]}.{name}": value.cpu() for name, value in one.kept.state_dict().items()}
        for placed in config.placed:
            sliced = placed.slice_of(self._elastic[placed.site].of_kind(placed.kind))
            state |= {f"{self._names[placed.site]}.{name}": value.cpu() for name, value in sliced.items()}
        model = create_model(replace(config, constant=()), **self._options)
        model.load_state_dict(state)
        constant = {self._names[site]: gate.cpu() for site, gate in self._constant_gates(config).items()}
        return (fold_gates(model, constant, self.data.input_size) if constant else model).eval()

    def _constant_gates(self, config: SEConfig) -> dict[Site, torch.Tensor]:
        """Return the mean gate at each constant site of the selected configuration, with its attention kept."""
        modules = {site: f"{self._names[site]}.kept" for site in config.constant}
        if modules and config.structure not in self._gates:
            found = find_gates(self.model)
            gates = {name: found[name] for name in modules.values()}
            means = mean_gates(self.model, gates, self._calibration_images(), self.recipe, str(self.device))
            self._gates[config.structure] = {
                site: torch.as_tensor(means[name], dtype=torch.float32, device=self.device)
                for site, name in modules.items()
            }
        return self._gates.get(config.structure, {})

    def _calibration_images(self) -> ImageSet:
        return sample(self.data.calibration, self._recalibration_images, self.recipe.seed)

    def _calibration_batches(self) -> Batches:
        """Return batches in random order: in their own, often that of the classes, each batch would be a class."""
        images = self._calibration_images()
        is_drawn = len(images) < len(self.data.calibration)  # at random already
        return batches(images, self.recipe.batch, None if is_drawn else self.recipe.seed, self.recipe.workers)

    @memory_told()
    def _select_calibrated(self, config: SEConfig) -> None:
        """Select a configuration, with the statistics to evaluate it with."""
        self.select(config)
        known = self._statistics.get(config.structure)
        if known is None:
            with autocast(self.recipe, self.device):
                passes = self._passes.start("calibration", config)
                # Normalisation over a batch needs two images.
                update_bn((one for one in self._calibration_batches() if len(one[0]) > 1), passes, self.device)
            if len(self._statistics) == _KEPT_STATISTICS:
                del self._statistics[next(iter(self._statistics))]
            known = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
            self._statistics[config.structure] = known
        self.model.load_state_dict(known, strict=False)
        self.model.eval()
