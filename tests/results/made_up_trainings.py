"""Results of trainings that nobody has made: files of a verification with outcomes of known accuracy."""

import json

import numpy as np

from se_search.results.trainings import result_file
from se_search.trials.notes import pack, pack_losses

IMAGES = 200


def write_trainings(folder, config, accuracies, validation=(), epochs=1):
    """Write a training for each accuracy, with seeds from 0; the first images are the correct ones.

    ``validation`` are the accuracies on the validation images; without any the files are those of version 0.1.0.
    """
    for seed, accuracy in enumerate(accuracies):
        file = result_file(folder, config, epochs, seed)
        file.parent.mkdir(exist_ok=True)
        correct = np.arange(IMAGES) < round(accuracy * IMAGES)
        losses = np.where(correct, 0.1, 2.5 + 0.01 * np.arange(IMAGES)).astype(np.float32)
        content = {"correct": pack(correct[None]), "losses": pack_losses(losses[None])}
        if validation:
            content["validation"] = {"accuracy": validation[seed], "log_loss": 1 - validation[seed]}
        file.write_text(json.dumps(content))
