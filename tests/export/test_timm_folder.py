"""Exported folders, loaded as a user loads them: in a fresh process, by timm."""

import json
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from se_search import PlacedSE, SEConfig, create_model, export_timm, find_sites
from se_search.errors import ConfigurationError, RunFolderError

LOADER = """
import timm, se_search, torch
from safetensors.torch import load_file, save_file
images = load_file("images.safetensors")["images"]
model = timm.create_model("local-dir:exported", pretrained=True).eval()
with torch.no_grad():
    save_file({"outputs": model(images)}, "outputs.safetensors")
"""


def varied(backbone):
    """Another ratio for each stage, another gate in the last one, nothing in the first."""
    gates = {2: "tanh", 3: "sigmoid", 4: "hard_sigmoid", 5: "relu"}
    sites = [site for site in find_sites(backbone, position="standard") if site.stage > 2]
    return SEConfig(backbone, tuple(PlacedSE(site, 2**site.stage, gates[site.stage]) for site in sites))


def exported(config, folder, **options):
    torch.manual_seed(0)
    model = create_model(config, num_classes=7, zero_init_last=False).eval()
    export_timm(model, folder, **options)
    return model


def test_a_fresh_process_loads_the_network_with_equal_outputs(tmp_path):
    model = exported(varied("resnet18d"), tmp_path / "exported")
    images = torch.randn(2, 3, 64, 64)
    save_file({"images": images}, tmp_path / "images.safetensors")
    subprocess.run([sys.executable, "-c", LOADER], cwd=tmp_path, check=True, timeout=120)
    outputs = load_file(tmp_path / "outputs.safetensors")["outputs"]
    with torch.no_grad():
        torch.testing.assert_close(outputs, model(images), rtol=0, atol=1e-5)


def test_timms_options_work_on_an_exported_folder(tmp_path):
    model = exported(varied("resnet18"), tmp_path / "exported")
    name = f"local-dir:{tmp_path / 'exported'}"
    images = torch.randn(2, 3, 64, 64)

    other_head = timm.create_model(name, pretrained=True, num_classes=3).eval()
    assert other_head(images).shape == (2, 3)
    torch.testing.assert_close(other_head.forward_features(images), model.forward_features(images))

    features = timm.create_model(name, pretrained=True, features_only=True).eval()(images)
    torch.testing.assert_close(features[-1], model.forward_features(images))

    random = timm.create_model(name).eval()
    assert random.state_dict().keys() == model.state_dict().keys()
    assert not torch.equal(random.conv1.weight, model.conv1.weight)


def test_the_folder_says_what_the_weights_are(tmp_path):
    exported(
        SEConfig.uniform("resnet50", 16),
        tmp_path / "exported",
        input_size=(3, 32, 32),
        mean=(0.3, 0.3, 0.3),
        std=(0.2, 0.2, 0.2),
        interpolation="bilinear",
        description="what they are",
    )
    written = json.loads((tmp_path / "exported" / "config.json").read_text())
    backbones_own = timm.create_model("resnet50").pretrained_cfg
    assert written["architecture"] == "se_search"
    assert written["num_classes"] == 7
    published = written["pretrained_cfg"]
    assert published["description"] == "what they are"
    assert (published["input_size"], published["mean"], published["std"]) == ([3, 32, 32], [0.3] * 3, [0.2] * 3)
    assert published["interpolation"] == "bilinear"
    for key in ("tag", "license", "origin_url", "paper_ids"):
        if backbones_own.get(key):
            assert published.get(key) is None
    assert SEConfig.from_dict(written["model_args"]["se_config"]) == SEConfig.uniform("resnet50", 16)


def test_a_network_without_se_blocks_is_exported_too(tmp_path):
    model = exported(SEConfig("resnet10t"), tmp_path / "exported")
    loaded = timm.create_model(f"local-dir:{tmp_path / 'exported'}", pretrained=True)
    assert sorted(loaded.state_dict()) == sorted(timm.create_model("resnet10t").state_dict())
    assert torch.equal(loaded.fc.weight, model.fc.weight)


def test_an_export_replaces_an_earlier_one_and_nothing_else(tmp_path):
    target = tmp_path / "exported"
    exported(SEConfig("resnet10t"), target)
    exported(SEConfig.uniform("resnet10t"), target)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["config.json", "model.safetensors"]
    assert len(json.loads((target / "config.json").read_text())["model_args"]["se_config"]["sites"]) == 4

    (target / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"notes\.txt"):
        exported(SEConfig("resnet10t"), target)


def test_a_foreign_network_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="ResNet"):
        export_timm(timm.create_model("resnet10t"), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()
