"""What only a GPU shows; without one these tests fail. Run them with ``pytest -m gpu``."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import torch
import yaml
from networks import bare_network
from torch import nn

from se_search import SEConfig, insert, measure_latency, optimize_for_inference
from se_search.deployment.deployment import Deployment

pytestmark = pytest.mark.gpu

SIZE = (3, 96, 96)


def searched(seed=0):
    torch.manual_seed(seed)
    model = insert(bare_network("resnet18"), SEConfig.uniform("resnet18", 16)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("fc2.weight"):
            nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that were launched."""
    from se_search.deployment import kernels

    names = []
    for name in ("scale_add_relu", "squeeze_excite"):
        function = getattr(kernels, name)
        monkeypatch.setattr(
            kernels, name, lambda *args, name=name, function=function: names.append(name) or function(*args)
        )
    return names


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("images", [1, 32])
def test_kernels_compute_what_the_network_computes(memory_format, images, launched, monkeypatch):
    """Against double precision, eager and in a CUDA graph."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model = searched()
    batch = torch.randn(images, *SIZE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model.double()(batch.double()).cuda()
        optimized = optimize_for_inference(model.float().cuda(), SIZE, cuda_graph=True).to(memory_format=memory_format)
        on_gpu = batch.cuda().to(memory_format=memory_format)
        error = (optimized(on_gpu) - expected).abs().max() / expected.abs().max()
        assert error <= 1e-5
        assert launched == ["squeeze_excite"] * 8  # two blocks in each of four stages
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = optimized(on_gpu)
        graph.replay()
        assert (outputs - expected).abs().max() / expected.abs().max() <= 1e-5


@pytest.mark.parametrize(
    "deployment",
    [
        Deployment(device="cuda", size=SIZE),
        Deployment(device="cuda", size=SIZE, batch=16, dtype="bfloat16", memory_format="channels_last"),
        Deployment(device="cuda", size=SIZE, cuda_graph=True),
        Deployment(device="cuda", size=SIZE, cuda_graph=True, optimized=True),
        Deployment(device="cuda", size=SIZE, runtime="compile"),
    ],
    ids=["eager", "bfloat16", "graph", "optimized graph", "compiled"],
)
def test_a_latency_ratio_names_its_gpu(deployment):
    ratio = measure_latency(searched(), bare_network("resnet18"), deployment, limit=0.3)
    assert 0.8 < ratio.low <= ratio.median <= ratio.high < 5
    assert torch.cuda.get_device_name() in str(ratio.conditions)


def test_a_run_on_a_gpu_resumes_verifies_and_exports(tmp_path):
    study = {
        "backbone": "test_resnet",
        "budget": 4,
        "evaluator": {"epochs": 1, "recalibration_images": 64, "precision": "auto"},
        "latency": {"limit": 0.1, "size": "data"},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(study))

    def command(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "se_search", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    command("run", "--study", "tiny.yaml", "--budget", "2", "--out", "run")
    command("run", "--study", "tiny.yaml", "--out", "run")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    trials = pd.read_csv(tmp_path / "run" / "trials.csv")
    assert trials["number"].tolist() == [0, 1, 2, 3]
    assert trials["accuracy"].between(0, 1).all()
    assert torch.cuda.get_device_name() in json.dumps(run)
    command("verify", "run", "--members", "1", "--seeds", "1")
    command("export", "run", "--trial", "0", "--to", "exported")
    assert (tmp_path / "exported" / "config.json").exists()
