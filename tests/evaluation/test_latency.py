"""Latency ratios: what can be said of them without asserting a speed."""

import torch
from torch import nn

from se_search import measure_latency


def convolutions(number):
    return nn.Sequential(*[nn.Conv2d(16, 16, 3, padding=1) for _ in range(number)])


def test_a_network_that_does_far_more_has_a_ratio_above_one_and_the_inverse_below():
    little, much = convolutions(2), convolutions(16)
    slower = measure_latency(much, little, (16, 48, 48), pairs=30)
    faster = measure_latency(little, much, (16, 48, 48), pairs=30)
    assert 1 < slower.low <= slower.median <= slower.high
    assert faster.low <= faster.median <= faster.high < 1


def test_conditions_are_those_of_the_measurement():
    ratio = measure_latency(convolutions(1), convolutions(1), (16, 8, 12), batch=3, pairs=11)
    conditions = ratio.conditions.to_dict()
    assert ratio.pairs == conditions["pairs"] == 11
    assert (conditions["batch"], conditions["size"]) == (3, [16, 8, 12])
    assert (conditions["device"], conditions["dtype"]) == ("cpu", "float32")
    assert conditions["threads"] == torch.get_num_threads()
    assert torch.__version__ in conditions["runtime"]
    assert conditions["processor"]


def test_every_pair_runs_both_networks_at_the_given_size():
    class Counting(nn.Module):
        shapes: list[tuple[int, ...]] = []  # noqa: RUF012 - shared by the copies that are measured

        def forward(self, x):
            type(self).shapes.append(tuple(x.shape))
            assert not self.training
            return x

    measure_latency(Counting(), Counting(), (3, 5, 7), batch=2, pairs=10)
    assert Counting.shapes == [(2, 3, 5, 7)] * 2 * (10 + 5)


def test_the_networks_stay_as_they_are():
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_latency(model, model, (16, 8, 8), pairs=10)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
