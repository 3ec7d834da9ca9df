"""Exported folders, loaded by timm in a fresh process, as users load them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from networks_to_export import drawn_configuration, images_for, network
from safetensors.torch import load_file, save_file
from timm.data import resolve_data_config
from timm.layers import DropPath
from timm.models import save_for_hf
from timm.utils import AverageMeter, accuracy
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import normalize
from typer.testing import CliRunner

from se_search import PlacedSE, SEConfig, create_model, export_timm, find_sites, insert
from se_search.cli import app
from se_search.data.load import load_data
from se_search.errors import ConfigurationError, ExportError, RunFolderError, SeSearchError
from se_search.export.loading import load_exported

TEN_FAMILIES = (
    "test_resnet",
    "test_convnext",
    "test_vit",
    "test_efficientnet",
    "test_nfnet",
    "test_mambaout",
    "regnetx_002",
    "mobilenetv3_small_050",
    "edgenext_xx_small",
    "test_coatnet",
)

LOADER = """
import sys, timm, se_search, torch
from safetensors.torch import load_file, save_file
torch.manual_seed(0)
for folder in sys.argv[1:]:
    images = load_file(f"{folder}.images.safetensors")["images"]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        made = {"outputs": model(images)}
    other_head = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)
    step = torch.optim.SGD(other_head.parameters(), 1e-3)
    before = [parameter.detach().clone() for parameter in other_head.parameters()]
    loss = torch.nn.functional.cross_entropy(other_head.train()(images), torch.tensor([0, 6]))
    loss.backward()
    step.step()
    changed = sum(not torch.equal(old, new) for old, new in zip(before, other_head.parameters()))
    made |= {"head": other_head(images).detach(), "loss": loss.detach(), "changed": torch.tensor(changed / len(before))}
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    with torch.no_grad():
        maps = features(images)
    assert [one.shape[1] for one in maps] == features.feature_info.channels()
    made["features"] = maps[-1].contiguous()
    save_file(made, f"{folder}.outputs.safetensors")
"""


def varied(backbone):
    """Different ratios per stage, another gate in the last stage, no SE in the first."""
    gates = {2: "tanh", 3: "sigmoid", 4: "hard_sigmoid", 5: "relu"}
    sites = [site for site in find_sites(backbone, position="standard") if site.stage > 2]
    return SEConfig(backbone, tuple(PlacedSE(site, 2**site.stage, gates[site.stage]) for site in sites))


def exported(config, folder, **options):
    torch.manual_seed(0)
    model = create_model(config, num_classes=7, zero_init_last=False).eval()
    export_timm(model, folder, **options)
    return model


@pytest.mark.parametrize(
    "families",
    [TEN_FAMILIES[:4], pytest.param(TEN_FAMILIES[4:], marks=pytest.mark.slow)],
    ids=["four families", "six more"],
)
def test_a_fresh_process_loads_families_with_equal_outputs_and_trains_them(families, tmp_path):
    models = {}
    for seed, name in enumerate(families):
        models[name] = network(drawn_configuration(name, seed), num_classes=5)
        export_timm(models[name], tmp_path / name)
        save_file({"images": images_for(models[name])}, tmp_path / f"{name}.images.safetensors")
    subprocess.run([sys.executable, "-c", LOADER, *families], cwd=tmp_path, check=True, timeout=300)
    for name, model in models.items():
        images, made = images_for(model), load_file(tmp_path / f"{name}.outputs.safetensors")
        with torch.no_grad():
            expected = model(images)
            indices = timm.create_model(name, features_only=True).feature_info.out_indices
            maps = model.forward_intermediates(images, indices=list(indices), intermediates_only=True)
        torch.testing.assert_close(made["outputs"], expected, rtol=1e-5, atol=1e-5, msg=name)
        torch.testing.assert_close(made["features"], maps[-1], rtol=1e-5, atol=1e-5, msg=name)
        assert made["head"].shape == (2, 7), name
        assert made["loss"].isfinite(), name
        assert made["changed"] > 0.9, name


OPTIONS = [
    {"num_classes": 3},
    {"num_classes": 0},
    {"in_chans": 1},
    {"in_chans": 4},
    {"features_only": True},
    {"features_only": True, "out_indices": (0, 1)},
    {"features_only": True, "in_chans": 1},
    {"global_pool": "max"},
    {"global_pool": "avg"},
    {"global_pool": "", "num_classes": 0},
    {"drop_path_rate": 0.3},
    {"drop_rate": 0.3},
    {"scriptable": True},
    {"exportable": True},
    {"img_size": 192},
    {"output_stride": 16},
    {"no_such_argument": 1},
]


@pytest.fixture(scope="module")
def bare_and_searched(tmp_path_factory):
    """For each backbone a folder written by timm, and one with the same weights and SE blocks at identity start."""
    folder = tmp_path_factory.mktemp("folders")
    for backbone in ("test_resnet", "test_vit", "test_convnext"):
        bare = network(SEConfig(backbone), num_classes=7)
        save_for_hf(bare, str(folder / backbone / "bare"), safe_serialization=True)
        searched = insert(bare, SEConfig.uniform(backbone, 8), identity_start=True)
        export_timm(searched, folder / backbone / "searched")
    return folder


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext"])
def test_timms_options_do_on_an_exported_folder_what_they_do_on_timms_own(bare_and_searched, backbone, options):
    def load(kind):
        torch.manual_seed(0)
        return timm.create_model(f"local-dir:{bare_and_searched / backbone / kind}", pretrained=True, **options).eval()

    try:
        bare = load("bare")
    except (TypeError, RuntimeError) as error:
        with pytest.raises(type(error)):
            load("searched")
        return
    searched = load("searched")
    side = options.get("img_size", 160)
    images = torch.randn(2, options.get("in_chans", 3), side, side)
    with torch.no_grad():
        expected, made = bare(images), searched(images)
    if options.get("num_classes") == 3:  # a fresh classifier in each
        assert made.shape == expected.shape == (2, 3)
    else:
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    assert drop_rates(searched) == drop_rates(bare)
    assert resolve_data_config({}, model=searched) == resolve_data_config({}, model=bare)


def drop_rates(model):
    return [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]


def test_a_network_with_slots_can_be_scripted(tmp_path):
    exported(varied("resnet10t"), tmp_path / "exported")
    model = timm.create_model(f"local-dir:{tmp_path / 'exported'}", pretrained=True, scriptable=True).eval()
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(torch.jit.script(model)(images), model(images))


def test_without_pretrained_the_architecture_is_fresh(tmp_path):
    model = exported(varied("resnet18"), tmp_path / "exported")
    name = f"local-dir:{tmp_path / 'exported'}"
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
        label_names=[f"class {number}" for number in range(7)],
    )
    written = json.loads((tmp_path / "exported" / "config.json").read_text())
    backbones_own = timm.create_model("resnet50").pretrained_cfg
    assert written["architecture"] == "se_search"
    assert written["num_classes"] == 7
    published = written["pretrained_cfg"]
    assert published["description"] == "what they are"
    assert (published["input_size"], published["mean"], published["std"]) == ([3, 32, 32], [0.3] * 3, [0.2] * 3)
    assert published["interpolation"] == "bilinear"
    assert (published["num_classes"], published["crop_pct"]) == (7, 1.0)
    assert written["label_names"] == [f"class {number}" for number in range(7)]
    assert backbones_own["tag"]
    assert not {"tag", "license", "origin_url", "paper_ids", "file", "url", "hf_hub_id"}.intersection(published)
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
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert len(json.loads((target / "config.json").read_text())["model_args"]["se_config"]["sites"]) == 4

    (target / "notes.txt").write_text("mine")
    with pytest.raises(RunFolderError, match=r"notes\.txt"):
        exported(SEConfig("resnet10t"), target)


def test_a_foreign_network_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="ResNet"):
        export_timm(timm.create_model("resnet10t"), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


@pytest.fixture(scope="module")
def with_program(tmp_path_factory):
    """A folder with a stand-alone file and, as no other graph was asked for, an optimized program; and its network."""
    folder = tmp_path_factory.mktemp("optimized") / "exported"
    return folder, exported(varied("resnet10t"), folder, optimized=True, standalone=True, input_size=(3, 32, 32))


def test_what_an_earlier_export_wrote_besides_does_not_stay(with_program, tmp_path):
    shutil.copytree(with_program[0], tmp_path / "exported")
    assert (tmp_path / "exported" / "model.pt2").exists()
    exported(varied("resnet10t"), tmp_path / "exported", input_size=(3, 32, 32))
    names = {path.name for path in (tmp_path / "exported").iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md"}


@pytest.mark.parametrize("files", [["README.md"], ["model.py"], ["config.json", "model.safetensors"]])
def test_files_of_the_same_names_that_are_no_export_are_left_alone(tmp_path, files):
    (tmp_path / "mine").mkdir()
    for name in files:
        (tmp_path / "mine" / name).write_text('{"architecture": "resnet10t"}')
    with pytest.raises(RunFolderError, match="which was not created by se-search"):
        exported(SEConfig("resnet10t"), tmp_path / "mine")
    assert {path.read_text() for path in (tmp_path / "mine").iterdir()} == {'{"architecture": "resnet10t"}'}


def test_an_export_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    target = tmp_path / "exported"
    exported(varied("resnet10t"), target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    monkeypatch.setitem(sys.modules, "onnx", None)
    for folder in (target, tmp_path / "new" / "folder"):
        with pytest.raises(ExportError, match="onnx"):
            exported(SEConfig("resnet10t"), folder, formats=["onnx"])
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert list(tmp_path.iterdir()) == [target]


def test_a_network_that_its_configuration_does_not_build_is_refused(tmp_path):
    model = insert(timm.create_model("resnet18d"), SEConfig.uniform("resnet18", 16))
    with pytest.raises(ExportError, match=r"this ResNet is not resnet18 with .* conv1"):
        export_timm(model, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


def test_too_few_names_of_classes_are_refused(tmp_path):
    with pytest.raises(ExportError, match="2 class names are given for a network with 7 classes"):
        exported(SEConfig("resnet10t"), tmp_path / "exported", label_names=["a", "b"])


def test_an_argument_that_json_cannot_hold_is_refused(tmp_path):
    model = create_model(SEConfig("resnet10t"), act_layer=torch.nn.SiLU)
    with pytest.raises(ExportError, match="act_layer"):
        export_timm(model, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


def test_exporting_leaves_the_network_as_it_is(tmp_path):
    model = create_model(varied("resnet10t")).train()
    model.bn1.eval()  # frozen
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_timm(model, tmp_path / "exported", standalone=True, input_size=(3, 32, 32))
    assert [name for name, module in model.named_modules() if not module.training] == ["bn1"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


PLAIN_LOADER = """
import sys, timm, torch
from safetensors.torch import load_file, save_file
model = timm.create_model("local-dir:exported", pretrained=True).eval()
assert "se_search" not in sys.modules
with torch.no_grad():
    save_file({"outputs": model(load_file("images.safetensors")["images"])}, "outputs.safetensors")
"""


def test_plain_names_timms_own_architecture_and_needs_nothing_but_timm(tmp_path):
    model = network(SEConfig.uniform("resnet18", 16), num_classes=5)
    written = export_timm(model, tmp_path / "exported", input_size=(3, 64, 64), plain=True)
    assert written.timm_architecture == "seresnet18"
    config = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert config["architecture"] == "seresnet18"
    assert "se_config" not in config["model_args"]
    images = torch.randn(2, 3, 64, 64)
    save_file({"images": images}, tmp_path / "images.safetensors")
    subprocess.run([sys.executable, "-c", PLAIN_LOADER], cwd=tmp_path, check=True, timeout=120)
    with torch.no_grad():
        assert torch.equal(load_file(tmp_path / "outputs.safetensors")["outputs"], model(images))
        assert torch.equal(load_exported(tmp_path / "exported")(images), model(images))


def test_plain_is_refused_where_timm_has_no_such_architecture(tmp_path):
    with pytest.raises(ExportError, match=r"no timm architecture equals resnet10t with these SE blocks"):
        exported(varied("resnet10t"), tmp_path / "exported", plain=True)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def _whole_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "exported"
    export_timm(network(varied("resnet10t"), num_classes=3), folder)
    return folder


@pytest.fixture
def folder(_whole_folder, tmp_path) -> Path:
    return Path(shutil.copytree(_whole_folder, tmp_path / "exported"))


def test_load_exported_loads_what_was_written(folder):
    model = network(varied("resnet10t"), num_classes=3)
    images = torch.randn(2, 3, 64, 64)
    loaded = load_exported(folder)
    assert not loaded.training
    assert loaded.se_config == varied("resnet10t")
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
        assert load_exported(folder, num_classes=9)(images).shape == (2, 9)
        assert len(load_exported(folder, features_only=True)(images)) == 5
    with pytest.raises(ExportError, match="no_such_argument"):
        load_exported(folder, no_such_argument=1)


def change(**changes):
    """Return a function that sets keys of ``config.json``; ``__`` separates nested keys."""

    def damage(folder):
        file = folder / "config.json"
        config = json.loads(file.read_text())
        for name, value in changes.items():
            *way, last = name.split("__")
            here = config
            for key in way:
                here = here[int(key) if key.isdigit() else key]
            here[last] = value
        file.write_text(json.dumps(config))

    return damage


def cut_weights(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(folder):
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))


def exchange_for_a_pickle(folder):
    (folder / "model.safetensors").unlink()
    torch.save(create_model(varied("resnet10t"), num_classes=3).state_dict(), folder / "pytorch_model.bin")


DAMAGES = {
    "truncated weights": (cut_weights, "model.safetensors is damaged"),
    "a changed bit": (flip_a_bit, "model.safetensors is damaged"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    "a pickle": (exchange_for_a_pickle, "pytorch_model.bin may hold a pickle, which is not loaded"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "it has no config.json"),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot be read"),
    "deep JSON": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "cannot be read"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "one JSON object"),
    "no folder": (shutil.rmtree, "it has no config.json"),
    "no record": (change(se_search=None), "'se_search' is missing"),
    "no digest": (change(se_search={}), "SHA-256"),
    "arguments no object": (change(model_args=[1]), "'model_args' is missing or not an object"),
    "unknown architecture": (change(architecture="evil"), "'evil'"),
    "timm's architecture": (change(architecture="resnet10t"), "'resnet10t'"),
    "a path as architecture": (change(architecture="local-dir:/tmp/x"), "local-dir:/tmp/x"),
    "unknown argument": (change(model_args__no_such="x"), "no_such"),
    "unknown key": (change(model_args__se_config__note="x"), "'note'"),
    "unknown key of a site": (change(model_args__se_config__sites__0__code="x"), "'code'"),
    "no configuration": (change(model_args__se_config=None), "an SE configuration must be an object with the keys"),
    "unknown backbone": (change(model_args__se_config__backbone="../resnet10t"), "'../resnet10t'"),
    "a path as tag": (change(model_args__se_config__backbone="resnet10t./../x"), "resnet10t./../x"),
    "unknown data": (change(pretrained_cfg__no_such="x"), "no_such"),
    "another size": (change(model_args__se_config__sites__0__ratio=2), "size mismatch"),
    "another number of classes": (change(model_args__num_classes="three"), "cannot be loaded"),
    "an absolute file": (change(pretrained_cfg__file="/etc/passwd"), "'/etc/passwd'"),
    "a file outside": (change(pretrained_cfg__file="../model.safetensors"), "'../model.safetensors'"),
    "a file of a hub": (change(pretrained_cfg__hf_hub_id="a/b"), "'a/b'"),
    "an address": (change(pretrained_cfg__url="https://a.b/c"), "'https://a.b/c'"),
    "other weights": (change(model_args__checkpoint_path="../x.pth"), "model_args.checkpoint_path"),
    "partial weights": (change(model_args__pretrained_strict=False), "model_args.pretrained_strict"),
    "a cache outside": (change(model_args__cache_dir="/tmp"), "model_args.cache_dir"),
    "a loader of its own": (change(pretrained_cfg__custom_load=True), "pretrained_cfg.custom_load"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_load_exported_refuses_what_is_not_as_it_was_written(folder, name):
    damage, words = DAMAGES[name]
    damage(folder)
    with pytest.raises(SeSearchError, match=re.escape(words)) as refused:
        load_exported(folder)
    assert "\n" not in str(refused.value)


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_card_of_a_found_network_has_the_accuracy_that_a_validation_with_timm_gives(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    with_se = int(pd.read_csv("run/trials.csv").query("se_blocks > 0")["number"].iloc[0])
    result = invoke("export", "run", "--trial", with_se, "--to", "exported")
    assert result.exit_code == 0, result.output
    assert "config.json, model.safetensors, README.md" in result.output

    model = timm.create_model("local-dir:exported", pretrained=True).eval()
    config = resolve_data_config({}, model=model)
    data = load_data("digits")
    assert (config["input_size"], config["interpolation"]) == (data.input_size, data.interpolation)
    mean, std = (torch.tensor(value)[:, None, None] for value in (data.mean, data.std))
    top1 = AverageMeter()
    with torch.no_grad():
        for images, labels in DataLoader(data.validation, 64):
            pixels = images * std + mean  # from 0 to 1
            outputs = model(normalize(pixels, config["mean"], config["std"]))
            top1.update(accuracy(outputs, labels)[0].item(), len(labels))

    card = Path("exported", "README.md").read_text()
    (shown,) = re.findall(r"^\| accuracy \| ([\d.]+) % \\\[([\d.]+), ([\d.]+)\\\] \|", card, re.MULTILINE)
    assert float(shown[0]) == pytest.approx(top1.avg, abs=0.005)
    assert f"Exported trial {with_se} to exported (" in result.output
    row = pd.read_csv("run/trials.csv").set_index("number").loc[with_se]
    assert model.se_config == SEConfig.from_json(row["config"])
    assert [float(one) / 100 for one in shown] == pytest.approx(
        [row["accuracy"], row["accuracy_low"], row["accuracy_high"]], abs=5e-5
    )
    assert f"| latency ratio | ×{row['latency_ratio']:.3f} \\[{row['latency_low']:.3f}, " in card
    pooled = f"pooled over {json.loads(Path('run/run.json').read_text())['latency_pooled_over']} measurements"
    assert f"{row['latency_pairs']} pairs of calls, {pooled}, 95 % interval; batch 1, 3×32×32, float32, PyTorch" in card
    assert "400 validation images of digits" in card
    assert "without retraining" in card
    assert "random weights, not from published ones" in card
    description = json.loads(Path("exported", "config.json").read_text())["pretrained_cfg"]["description"]
    assert "without retraining" in description


def test_the_command_says_where_timm_builds_the_network_by_itself(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    trials = pd.read_csv("run/trials.csv").set_index("number")
    bare = int(trials.index[trials["se_blocks"] == 0][0])
    output = invoke("export", "run", "--trial", bare, "--to", "exported").output
    assert "timm has this network as test_resnet: an export with --plain loads without se_search." in output

    output = invoke("export", "run", "--trial", bare, "--to", "exported", "--plain", "--standalone").output
    assert "model.py" in output
    assert "import timm; timm.create_model('local-dir:exported', pretrained=True)" in output
    assert json.loads(Path("exported", "config.json").read_text())["architecture"] == "test_resnet"

    other = int(trials.index[trials["se_blocks"] > 0][0])
    refused = invoke("export", "run", "--trial", other, "--to", "other", "--plain")
    assert refused.exit_code == 2
    assert refused.stderr.startswith(
        "Error: --plain is not possible because no timm architecture equals test_resnet with these SE blocks"
    )
    assert not Path("other").exists()


@pytest.mark.slow
def test_the_command_writes_every_graph_beside_the_folder_and_writes_over_it_again(finished_run, monkeypatch):
    monkeypatch.chdir(finished_run)
    every = ["export", "run", "--pick", "accurate", "--to", "exported"]
    result = invoke(*every, "--onnx", "--pt2", "--openvino", "--standalone")
    assert result.exit_code == 0, result.output
    names = {path.name for path in Path("exported").iterdir()}
    graphs = {"model.onnx", "model.pt2", "model.xml", "model.bin"}
    assert names == {"config.json", "model.safetensors", "README.md", "model.py"} | graphs
    card = Path("exported", "README.md").read_text()
    assert "For other runtimes, in single precision: `model.onnx`, `model.pt2`, `model.xml`." in card

    import onnxruntime

    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32), np.float32)
    (made,) = onnxruntime.InferenceSession("exported/model.onnx").run(None, {"images": images})
    with torch.no_grad():
        expected = load_exported("exported")(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(made, expected, atol=1e-4 * np.abs(expected).max())

    assert invoke(*every).exit_code == 0
    assert {path.name for path in Path("exported").iterdir()} == {"config.json", "model.safetensors", "README.md"}


@pytest.mark.parametrize(
    "option", ["--plain", "--standalone", "--onnx", "--pt2", "--openvino", "--optimized", "--push-to-hub"]
)
def test_help_shows_an_example_of_every_option(option):
    assert re.search(rf"^ +se-search export .*{option}\b", invoke("export", "--help").output, re.MULTILINE)


def check_optimized(folder, model, graph, made):
    sentence = f"For other runtimes, in single precision: `{graph}`. Optimized for inference: same outputs, lower"
    assert sentence in (folder / "README.md").read_text()
    images = torch.randn(3, 3, 32, 32)
    outputs = made(images)
    with torch.no_grad():
        for expected in (model(images), load_exported(folder)(images)):
            assert (outputs - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_an_optimized_program_has_the_outputs_of_the_network_and_stands_beside_a_folder_for_timm(with_program):
    folder, model = with_program
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md", "model.py", "model.pt2"}
    program = torch.export.load(folder / "model.pt2")
    assert not [node for node in program.graph.nodes if "batch_norm" in str(node.target)]
    check_optimized(folder, model, "model.pt2", program.module())
    # It needs nothing but PyTorch.
    script = (
        "import sys, torch\n"
        f"torch.export.load({str(folder / 'model.pt2')!r}).module()(torch.zeros(4, 3, 32, 32))\n"
        "assert not {'se_search', 'timm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_optimized_graph_has_the_outputs_of_the_network_and_is_the_only_one(tmp_path):
    import onnxruntime

    folder = tmp_path / "exported"
    model = exported(varied("resnet10t"), folder, optimized=True, input_size=(3, 32, 32), onnx=True)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "README.md", "model.onnx"}
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    check_optimized(
        folder, model, "model.onnx", lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    )


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"mean": (0.5,)}, "mean has 1 value for images with 3 channels"),
        ({"std": (1, 1, 1, 1)}, "std has 4 values for images with 3 channels"),
        ({"crop_pct": "no"}, "crop_pct is 'no': it must be above 0 and at most 1"),
        ({"crop_pct": 1.5}, "crop_pct is 1.5"),
        (
            {"interpolation": "nonsense"},
            "interpolation 'nonsense' is unknown: choose one of nearest, bilinear, bicubic",
        ),
        ({"input_size": (3, 9, 9)}, "this VisionTransformer cannot take images of 3×9×9: "),
    ],
)
def test_what_a_folder_would_say_wrongly_of_images_is_refused(tmp_path, given, told):
    model = create_model(SEConfig("test_vit"))
    with pytest.raises(ExportError) as refusal:
        export_timm(model, tmp_path / "exported", **given)
    assert told in str(refusal.value)
    assert not (tmp_path / "exported").exists()
