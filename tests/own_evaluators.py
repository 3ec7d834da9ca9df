"""An evaluator of one's own, as search(evaluator=…) takes them, for tests to start from."""

import numpy as np

from se_search import create_model
from se_search.statistics import accuracy_estimate, mean_estimate
from se_search.training.evaluator import Evaluation


class Quick:
    """Answers at once, for each configuration always the same, and keeps nothing."""

    def __init__(self, study, space, data):
        self.data = data

    def prepare(self, folder, space, progress_bar):
        pass

    def load(self, folder):
        pass

    def network(self, config):
        return create_model(config, num_classes=self.data.classes).eval()

    def evaluate(self, config):
        return answer(config, len(self.data.validation))


def answer(config, images):
    """Losses drawn with the configuration's name as the seed."""
    losses = np.random.default_rng(int(config.id, 16)).exponential(size=(1, images)).astype(np.float32)
    return Evaluation(accuracy_estimate(losses[0] < 1), mean_estimate(losses[0]), losses < 1, losses)
