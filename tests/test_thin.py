"""Thinning: exactly the blocks whose gates are constant become constants, at once and without training."""

import json
import re
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from networks import Operations
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Subset
from typer.testing import CliRunner

from se_search import SEConfig, create_model, find_sites, load_exported, thin
from se_search.cli import app
from se_search.data.load import load_data
from se_search.errors import ConfigurationError
from se_search.network.gates import find_gates
from se_search.network.insertion import count_parameters, whole_state
from se_search.training.evaluator import evaluate_network
from se_search.training.protocols import no_progress
from se_search.training.recipe import Training, TrainingRecipe, classification_losses

BACKBONE = "test_byobnet"
IDLE = ("stages.0.0.attn", "stages.2.0.attn_last")
IDLE_BLOCKS = ("stages.0.0", "stages.2.0")
DIGITS = load_data("digits")
OWN = find_sites(BACKBONE, position="existing")


def plant(model, idle):
    """Make the gates of some blocks constant for certain: their second layer reads nothing. The others vary."""
    for name in find_gates(model):
        block = model.get_submodule(name)
        if name.startswith(idle):
            nn.init.zeros_(block.fc2.weight).requires_grad_(False)
            nn.init.uniform_(block.fc2.bias, -1, 1)
        else:
            nn.init.normal_(block.fc1.weight, std=10.0)
            nn.init.normal_(block.fc2.weight, std=4.0)


def train(model, data, epochs):
    recipe = TrainingRecipe(epochs=epochs, batch=32, learning_rate=0.005)
    Training(model, recipe, data, "cpu").run(classification_losses(model, recipe), no_progress, "Training")
    return model.eval()


@pytest.fixture(scope="module")
def data():
    few = range(400)
    return replace(DIGITS, train=Subset(DIGITS.train, few), calibration=Subset(DIGITS.calibration, few))


@pytest.fixture(scope="module")
def trained(data):
    """A network with attention, trained on an embedded task, some of whose blocks are idle."""
    torch.manual_seed(0)
    model = create_model(SEConfig(BACKBONE), num_classes=data.classes, zero_init_last=False)  # so that branches count
    plant(model, IDLE)
    return train(model, data, epochs=2)


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def found(trained, data, told):
    @contextmanager
    def progress_bar(description, total, completed):
        yield lambda steps=1, line=None: told.append(line)

    return thin(trained, data, limit=0, progress_bar=progress_bar)


def operations_of(model):
    with Operations() as seen, torch.no_grad():
        model.eval()(torch.zeros(1, 3, 32, 32))
    return seen.names


def losses_of(model):
    return evaluate_network(model.eval(), DIGITS.validation).losses[0]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_exactly_the_idle_blocks_become_constant(found):
    assert found.table.loc[found.chosen, "blocks"] == IDLE
    alone = found.blocks.set_index("module")
    others = alone.drop(list(IDLE))
    assert len(others) == 2
    assert (alone.loc[list(IDLE), "spread"] < 1e-6).all()
    assert (others["spread"] > 0.05).all()
    assert alone.loc[list(IDLE), "log_loss_change"].abs().max() < 1e-5
    assert (others["log_loss_change_high"] > found.tolerance).all()


def test_growing_sets_follow_the_spread_of_the_gates(found):
    order = found.blocks.sort_values("spread")["module"].tolist()
    sets = set(map(frozenset, found.table["blocks"]))
    assert {frozenset(order[:count]) for count in range(1, 5)} <= sets
    assert {frozenset([one]) for one in order} <= sets
    assert len(sets) == len(found.table)


def test_each_network_is_told_once_with_its_loss(found, told, trained):
    lines = [line for line in told if line]
    assert lines[0] == f"no block constant: log-loss {losses_of(trained).mean():.4f}"
    assert len(set(lines)) == len(found.table) + 1


def test_changes_are_those_of_the_folded_network_image_by_image(found, trained):
    for row in (found.chosen, len(found.table) - 1):
        changes = losses_of(found.network(row)) - losses_of(trained)
        assert found.table.loc[row, "log_loss_change"] == pytest.approx(changes.mean(), abs=1e-5)


def test_the_folded_network_is_that_without_the_blocks(found, trained):
    folded = found.network()
    sites = tuple(site for site in OWN if site.block in IDLE_BLOCKS)
    assert folded.se_config == SEConfig(BACKBONE, constant=sites)
    without = create_model(SEConfig(BACKBONE, removed=sites), num_classes=10, zero_init_last=False)
    assert operations_of(folded) == operations_of(without)
    assert len(operations_of(folded)) < len(operations_of(trained))
    saved = sum(count_parameters(trained.get_submodule(name)) for name in IDLE)
    assert count_parameters(folded) == count_parameters(without) == count_parameters(trained) - saved
    assert found.table.loc[found.chosen, "parameters"] == count_parameters(folded)


def test_the_front_holds_the_smallest_network_and_only_measurably_better_ones(found):
    front = found.table[found.table["front"]].sort_values("parameters")
    assert len(front.iloc[0]["blocks"]) == 4
    assert front["log_loss_change"].is_monotonic_decreasing


def test_the_choice_is_confirmed_on_test_images(found, trained):
    folded = evaluate_network(found.network(), DIGITS.test).losses[0]
    before = evaluate_network(trained, DIGITS.test).losses[0]
    assert found.confirmed.value == pytest.approx(np.mean(folded - before), abs=1e-6)


def test_an_export_has_nothing_left_of_the_blocks(found, trained, tmp_path):
    exported = found.export(tmp_path / "thinned", formats=["standalone"])
    arguments = json.loads((exported.folder / "config.json").read_text())["model_args"]
    assert [one["block"] for one in arguments["se_config"]["constant"]] == list(IDLE_BLOCKS)
    loaded = timm.create_model(f"local-dir:{exported.folder}", pretrained=True)
    assert losses_of(loaded) == pytest.approx(losses_of(trained), abs=1e-4)
    assert losses_of(load_exported(exported.folder)) == pytest.approx(losses_of(trained), abs=1e-4)
    assert not any(key.startswith(IDLE) for key in loaded.state_dict())
    card = (exported.folder / "README.md").read_text()
    assert "=  the backbone's own attention, constant" in card


@pytest.mark.slow
def test_an_onnx_graph_has_the_gates_of_the_other_blocks_only(found, tmp_path):
    onnx = pytest.importorskip("onnx")
    exported = found.export(tmp_path / "thinned", formats=["onnx"])
    graph = onnx.load(exported.folder / "model.onnx").graph
    assert len([node for node in graph.node if node.op_type in ("Sigmoid", "HardSigmoid")]) == len(OWN) - len(IDLE)


@pytest.mark.slow
def test_the_command_takes_weights_of_a_file(found, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(whole_state(trained), "weights.safetensors")
    options = ["--pretrained", "weights.safetensors", "--data", "digits", "--limit", "0", "--images", "200"]
    result = invoke("thin", BACKBONE, *options, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert tuple(told["networks"][told["chosen"]]["blocks"]) == IDLE
    assert told["images"] == 200
    result = invoke("thin", BACKBONE, *options, "--limit", "0.01", "--to", "out")
    assert result.exit_code == 0, result.output
    assert re.search(r"^\d +2 +-4\.26 % +×[\d.]+ \[[\d., ]+\] .*chosen *$", result.stdout, re.MULTILINE)
    assert "Latency against the original network; batch 1, 3×32×32" in result.stdout
    assert "Chosen: row" in result.stdout
    assert "Exported to out" in result.stdout
    assert invoke("thin", "out", "--data", "digits", "--limit", "0", "--row", "0").exit_code == 2


def test_images_of_other_classes_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(create_model(SEConfig(BACKBONE), num_classes=7).state_dict(), "weights.safetensors")
    result = invoke("thin", BACKBONE, "--pretrained", "weights.safetensors", "--data", "digits")
    assert result.exit_code == 2
    assert result.stderr.strip() == (
        "Error: the network has 7 classes and digits has 10: give data with the network's classes"
    )


def test_latency_is_measured_in_pairs_with_the_original_network(trained, data):
    few = replace(data, validation=Subset(DIGITS.validation, range(60)), test=Subset(DIGITS.test, range(20)))
    found = thin(trained, few, limit=0.02)
    assert (found.table["latency_low"] <= found.table["latency_ratio"]).all()
    assert (found.table["latency_ratio"] <= found.table["latency_high"]).all()
    assert "batch 1, 3×32×32, float32" in found.conditions


def test_a_network_at_chance_level_has_no_choice(data):
    torch.manual_seed(0)
    found = thin(create_model(SEConfig(BACKBONE), num_classes=10).eval(), data, limit=0, images=100)
    assert found.chosen is None
    assert "performs at chance level" in found.caution
    with pytest.raises(ConfigurationError, match="no network is chosen"):
        found.network()


def test_a_network_without_attention_is_refused(data):
    with pytest.raises(ConfigurationError, match="has no attention block whose gate can be analysed"):
        thin(timm.create_model("test_resnet", num_classes=10), data, limit=0)


@pytest.mark.slow
def test_idle_blocks_are_found_in_inserted_attention_on_a_task_that_needs_context():
    data, idle = load_data("digits-context"), ("layer2.0.se", "layer4.0.se")
    torch.manual_seed(0)
    model = create_model(SEConfig.uniform("test_resnet", 4), num_classes=data.classes, zero_init_last=False)
    plant(model, idle)
    found = thin(train(model, data, epochs=8), data, limit=0)
    assert set(idle) <= set(found.table.loc[found.chosen, "blocks"])
    assert (found.blocks.set_index("module").loc[list(idle), "log_loss_change"].abs() < 1e-5).all()
