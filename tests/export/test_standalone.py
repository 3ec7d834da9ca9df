"""The standalone file, which builds a network without se_search."""

import runpy
import subprocess
import sys

import pytest
import torch
from networks_to_export import drawn_configuration, images_for, network
from safetensors.torch import load_file, save_file

from se_search import SEConfig, export_timm, find_sites

# Any attempt to import se_search fails in this process.
LOADER = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "se_search":
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocker())
import torch
from safetensors.torch import load_file, save_file
for folder in sys.argv[1:]:
    network = runpy.run_path(f"{folder}/model.py")["load"](folder)
    assert not network.training
    with torch.no_grad():
        outputs = network(load_file(f"{folder}.images.safetensors")["images"])
    save_file({"outputs": outputs}, f"{folder}.outputs.safetensors")
assert not {"se_search", "optuna", "pandas"}.intersection(sys.modules)
"""


def identity(backbone, *positions):
    placed = [placed for position in positions for placed in SEConfig.uniform(backbone, 8, position=position).placed]
    return SEConfig(backbone, tuple(placed)).starting_at_identity()


def thinned(backbone):
    sites = find_sites(backbone, position="existing")
    replaced = SEConfig.uniform(backbone, 8, gate="hard_sigmoid", position="existing").placed[::3]
    return SEConfig(backbone, replaced, removed=sites[1::3])


NETWORKS = {
    "slots": lambda: SEConfig.uniform("resnet10t", 4, gate="hard_sigmoid", bias=False, rounding=1),
    "NCHW": lambda: drawn_configuration("test_resnet", 3, 8),
    "NHWC": lambda: SEConfig.uniform("test_convnext", 8, gate="tanh"),
    "NLC": lambda: SEConfig.uniform("test_vit", 4, position="pre"),
    "thinned": lambda: thinned("mobilenetv3_small_050"),
    "identity start": lambda: identity("test_resnet", "standard", "identity", "post"),
    "no SE": lambda: SEConfig("test_mambaout"),
}


def test_it_builds_the_network_in_a_process_that_cannot_import_the_package(tmp_path):
    models = {}
    for name, config in NETWORKS.items():
        models[name] = network(config(), num_classes=7)
        export_timm(models[name], tmp_path / name, standalone=True)
        save_file({"images": images_for(models[name])}, tmp_path / f"{name}.images.safetensors")
    subprocess.run([sys.executable, "-c", LOADER, *NETWORKS], cwd=tmp_path, check=True, timeout=120)
    for name, model in models.items():
        outputs = load_file(tmp_path / f"{name}.outputs.safetensors")["outputs"]
        with torch.no_grad():
            assert torch.equal(outputs, model(images_for(model))), name


def test_a_network_in_half_precision_is_compared_in_single(tmp_path):
    model = network(SEConfig.uniform("test_resnet", 8)).bfloat16()
    export_timm(model, tmp_path / "exported", standalone=True)
    assert (tmp_path / "exported" / "model.py").is_file()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("gate", ["sigmoid", "relu"])
def test_a_fresh_network_starts_as_the_packages_own(tmp_path, gate):
    config = SEConfig.uniform("resnet10t", 8, gate=gate).starting_at_identity()
    export_timm(network(config), tmp_path / "exported", standalone=True)
    standalone = runpy.run_path(str(tmp_path / "exported" / "model.py"))
    fresh = standalone["create_model"](num_classes=3).eval()
    bare = network(SEConfig("resnet10t"), num_classes=3)
    bare.load_state_dict({name: value for name, value in fresh.state_dict().items() if ".se." not in name})
    images = images_for(bare)
    with torch.no_grad():
        torch.testing.assert_close(fresh(images), bare(images))
    assert fresh.layer1[0].se.fc1.weight.std() > 0.1
