"""Data-parallel training with two processes, against one process and under torchrun.

Started by torchrun, this file is a small search: all but the first process take part in the training and end.
"""

import itertools
import json
import math
import multiprocessing
import os
import pickle
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from se_search import PlacedSE, SEConfig, find_sites
from se_search.data.image_data import ImageData, ImageStream, Unreadable, UnreadableImages, batches
from se_search.data.load import load_data
from se_search.errors import DataError, DefinitionError, EvaluationError
from se_search.training import distributed
from se_search.training.common_start import Adaptation, CommonStart
from se_search.training.distributed import Share, Team, take_part, together, use_own_device
from se_search.training.evaluator import evaluate_network
from se_search.training.pretrained_supernet import PretrainedSupernet
from se_search.training.protocols import no_progress
from se_search.training.recipe import Training, TrainingRecipe, classification_losses
from se_search.training.stand_alone import Finetune, Scratch
from se_search.training.supernet import Supernet

BACKBONE = "test_resnet"
SITES = find_sites(BACKBONE, position="standard")
DATA = load_data("digits")
RECIPE = TrainingRecipe(epochs=3, batch=7, learning_rate=0.01)
CONFIGURATIONS = (SEConfig(BACKBONE), SEConfig.uniform(BACKBONE, 4))


class Blocks:
    """A space: each block with one of two ratios, or without SE."""

    sites = SITES

    def draw(self, rng):
        placed = [PlacedSE(site, rng.choice((2, 8)), "sigmoid") for site in SITES if rng.random() < 0.5]
        return SEConfig(BACKBONE, tuple(placed))

    def largest(self):
        return SEConfig.uniform(BACKBONE, 2)

    def widen(self, config):
        return SEConfig(BACKBONE, tuple(PlacedSE(one.site, 2, "sigmoid") for one in config.placed))


def supernet(recipe, data=DATA, patience=None):
    widest = [PlacedSE(site, 2) for site in SITES]
    return Supernet(BACKBONE, widest, data, recipe, recalibration_images=64, patience=patience)


def tiny_data(count=24, images=None):
    generator = torch.Generator().manual_seed(0)
    pixels, labels = torch.randn(count, 3, 32, 32, generator=generator), torch.arange(count) % 4
    images = images or TensorDataset(pixels, labels)
    return ImageData("tiny", 4, (3, 32, 32), (0.0,) * 3, (1.0,) * 3, "bilinear", images, images, images, images)


def linear_network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))


def train(recipe, model, data, team, checkpoint=None, epochs=None):
    training = Training(model, recipe, data, "cpu", checkpoint, team)
    for done in training.epochs(classification_losses(training.model, recipe)):
        if done == epochs:
            break
    return training


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def processes():
    """A forkserver whose processes have all imports loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["se_search.training.supernet"])
    return context


def in_two(processes, function, *arguments):
    """Call a function in two processes that torchrun's variables name; return what each returns or says, and how each
    ends.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    pipes, started = [], []
    for rank in range(2):
        receiver, sender = processes.Pipe(duplex=False)
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
        variables |= {"MASTER_ADDR": "localhost", "TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_RESTART_COUNT": 0}
        process = processes.Process(target=_answer, args=(sender, variables, function, arguments))
        process.start()
        sender.close()
        pipes.append(receiver)
        started.append(process)
    answers = []
    for pipe in pipes:
        try:
            answers.append(pickle.loads(pipe.recv_bytes()) if pipe.poll(60) else "hangs")
        except EOFError:
            answers.append(None)
    for process in started:
        process.join(10)
        process.kill()
    return answers, [process.exitcode for process in started]


def _answer(sender, variables, function, arguments):
    os.environ.update({name: str(value) for name, value in variables.items()})
    torch.set_num_threads(1)
    try:
        answer = function(*arguments)
    except Exception as error:
        traceback.print_exc()
        answer = f"{type(error).__name__}: {error}"
    sender.send_bytes(pickle.dumps(answer))  # tensors by their values


# --- trainings of two processes --------------------------------------------------------------------------------------

SETTINGS = (
    {},
    {"batch": 5, "optimizer": "sgd", "clip_gradient": 0.1, "learning_rate": 0.1},
    {"batch": 23, "ema_decay": 0.9, "label_smoothing": 0.1, "learning_rate": 0.003},
)


def with_each_setting(team):
    return [weights(train(replace(RECIPE, **one), linear_network(), tiny_data(), team).evaluated) for one in SETTINGS]


def with_frozen_norms(team, patience=None, **settings):
    """A supernet without dependence between images: its norms use their initial statistics."""
    # AdamW makes as much of gradients that are nearly zero, and so of their rounding, as of all others.
    network = supernet(replace(RECIPE, optimizer="sgd", **settings), tiny_data(), patience)
    network.model.eval()
    network.model.train = lambda mode=True: network.model
    training = network._train(Blocks(), no_progress, None, team)
    return weights(network.model), [epoch["loss"] for epoch in training.history]


def up_to_a_plateau(team):
    return with_frozen_norms(team, patience=1, learning_rate=1e-12, epochs=6)[1]


class PartlyUnreadable(Dataset):
    """24 images, three of them unreadable."""

    def __init__(self):
        self.images = tiny_data().train
        self.unreadable = UnreadableImages("training", 24)

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return Unreadable(f"image {index}") if index in (2, 3, 21) else self.images[index]


def with_unreadable_images(team):
    """A share of two images with one or none readable: that rank has no images in that step."""
    data = tiny_data(images=PartlyUnreadable())
    return weights(train(replace(RECIPE, epochs=1, batch=4), linear_network(), data, team).model), data.unreadable


def whole_and_interrupted(team, folder):
    """Train without interruption, and resume from rank 0's checkpoint while the other ranks have other weights."""
    recipe = replace(RECIPE, ema_decay=0.9, mixup=0.2)
    whole = train(recipe, linear_network(), tiny_data(), team)
    kept = folder / "checkpoint.pt" if team.rank == 0 else None
    train(recipe, linear_network(), tiny_data(), team, kept, epochs=1)
    parts = train(recipe, linear_network(seed=5 + team.rank), tiny_data(), team, kept)
    return weights(whole.evaluated), weights(parts.evaluated), parts.history


def random_numbers_beside_noise(team):
    """Record the first random number of each step, before noise per image: a share of 7 is 4 or 3, of 3 it is all."""
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3 * 32 * 32, 4))
    training = Training(network, RECIPE, tiny_data(), "cpu", team=team)
    usual = classification_losses(training.model, RECIPE)
    drawn = []

    def losses(images, targets):
        drawn.append(int(torch.randint(2**62, ())))
        return usual(images, targets)

    list(training.epochs(losses))
    return drawn


def not_finite_in_the_second(team):
    training = Training(linear_network(), RECIPE, tiny_data(), "cpu", team=team)
    usual = classification_losses(training.model, RECIPE)

    def losses(images, targets):
        for loss in usual(images, targets):
            yield loss * (math.nan if team.rank == 1 and training.step == 2 else 1.0)

    with pytest.raises(EvaluationError) as raised:
        list(training.epochs(losses))
    return str(raised.value)


def _trainings(folder):
    with together("cpu", True) as team:
        return {
            "settings": with_each_setting(team),
            "supernet": with_frozen_norms(team),
            "plateau": up_to_a_plateau(team),
            "unreadable": with_unreadable_images(team),
            "interrupted": whole_and_interrupted(team, folder),
            "random": random_numbers_beside_noise(team),
            "not finite": not_finite_in_the_second(team),
        }


@pytest.fixture(scope="module")
def two(processes, tmp_path_factory):
    """Results of two-process trainings, per rank."""
    answers, ends = in_two(processes, _trainings, tmp_path_factory.mktemp("two"))
    assert ends == [0, 0]
    return answers


def assert_close(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=5e-5, msg=lambda text, at=name: f"{at}: {text}")


@pytest.mark.parametrize("setting", range(len(SETTINGS)))
def test_two_processes_train_to_the_weights_of_one(two, setting):
    """24 images: shares of different sizes, and last batches of 3, 4 and 1 image."""
    alone = with_each_setting(None)[setting]
    for answer in two:
        assert_close(answer["settings"][setting], alone)
    assert not torch.allclose(alone["1.weight"], linear_network()[1].weight, atol=1e-3)


def test_two_processes_train_the_supernet_to_the_weights_of_one(two):
    """Ranks draw the same configurations, and blocks that no rank used in a step stay unchanged."""
    alone, losses = with_frozen_norms(None)
    for answer in two:
        trained, seen = answer["supernet"]
        assert_close(trained, alone)
        assert seen == pytest.approx(losses, rel=1e-5)


def test_all_processes_draw_the_same_configurations_whatever_noise_their_networks_draw(two):
    first, second = (answer["random"] for answer in two)
    assert len(set(first)) == 12
    assert second == [number for place, number in enumerate(first) if place % 4 != 3]


def test_all_processes_end_on_a_plateau_after_the_same_epoch(two):
    first, second = (answer["plateau"] for answer in two)
    assert first == second
    assert len(first) == len(up_to_a_plateau(None)) < 6


def test_images_that_any_process_cannot_read_are_known_to_all_and_nobody_waits_for_them(two):
    (first, of_first), (second, of_second) = (answer["unreadable"] for answer in two)
    assert of_first == of_second == ("image 2", "image 21", "image 3")
    assert_close(first, second)


def test_an_interrupted_training_goes_on_in_all_processes_from_what_the_first_one_has_kept(two):
    histories = [answer["interrupted"][2] for answer in two]
    assert histories[0] == histories[1]
    assert [epoch["processes"] for epoch in histories[0]] == [2, 2, 2]
    expected = two[0]["interrupted"][0]
    for answer in two:
        for trained in answer["interrupted"][:2]:
            assert all(torch.equal(value, expected[name]) for name, value in trained.items())


def test_a_loss_that_is_not_finite_in_one_process_ends_all_with_the_same_sentence(two):
    sentence = "the training loss is nan in epoch 1, step 3: lower the study's learning_rate or set its clip_gradient"
    assert [answer["not finite"] for answer in two] == [sentence, sentence]


def _ending_of_the_second():
    with together("cpu", True) as team:
        training = Training(linear_network(), RECIPE, tiny_data(), "cpu", team=team)
        if team.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        list(training.epochs(classification_losses(training.model, RECIPE)))


def test_if_a_process_is_killed_the_other_does_not_wait_for_it(processes):
    (first, second), ends = in_two(processes, _ending_of_the_second)
    assert second is None
    assert ends == [0, -signal.SIGKILL]
    assert first.startswith("EvaluationError: another process of the training has exited or does not respond")


# --- shares ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 17])
def test_the_shares_of_a_batch_are_all_its_images_and_each_has_two_or_none(size, count):
    indices = list(range(100, 100 + count))
    shares = [Share(range(200), Team(rank, size)).__getitems__(indices) for rank in range(size)]
    assert sorted(image for share in shares for image in share) == indices
    assert all(len(share) != 1 for share in shares) or count == 1
    full = [len(share) for share in shares if share]
    assert max(full) - min(full) <= 1


def test_a_process_without_a_share_of_a_batch_makes_no_image():
    # Images that are corrupted as a batch, which PyTorch's `affine_grid` refuses for none.
    images = load_data("digits-hard").train
    assert Share(images, Team(1, 2)).__getitems__([5]) == []
    assert len(Share(images, Team(0, 2)).__getitems__([5])) == 1


class Noisy(Dataset):
    """Images of random numbers drawn by augmentation."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.rand(3), index


def test_the_shares_of_a_batch_are_augmented_differently_and_each_time_in_the_same_way():
    def drawn(rank):
        ((images, _),) = batches(Share(Noisy(), Team(rank, 2)), 8, shuffle_seed=3)
        return images

    assert torch.equal(drawn(0), drawn(0))
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.isin(drawn(0), drawn(1)).any()


# --- who takes part --------------------------------------------------------------------------------------------------


def _prepare(folder):
    evaluator = Finetune(BACKBONE, DATA, TrainingRecipe(epochs=2, batch=64, learning_rate=0.003))
    take_part(evaluator, Blocks(), DATA, "cpu")
    evaluator.prepare(folder, Blocks(), no_progress)
    assert distributed.size() == 1
    return evaluate_network(evaluator.start(SEConfig(BACKBONE), 0).eval(), DATA.validation).accuracy.low


@pytest.mark.slow
def test_two_processes_train_the_backbone_of_finetune_once_and_the_second_one_ends(processes, tmp_path):
    for _ in range(2):
        (first, second), ends = in_two(processes, _prepare, tmp_path)
        assert first > 0.5  # of ten classes
        assert second is None
        assert ends == [0, 0]
        summary = tmp_path / "backbone.json"
        assert [epoch["processes"] for epoch in json.loads(summary.read_text())["epochs"]] == [2, 2]
        assert {file.name for file in tmp_path.iterdir()} == {summary.name, "backbone.safetensors", "networks"}


def _prepare_from_weights(folder):
    recipe = TrainingRecipe(epochs=1, batch=64, learning_rate=1e-30)
    start = CommonStart(BACKBONE, DATA, recipe, weights=f"{folder}.safetensors", adaptation=Adaptation(1, 0.01))
    evaluator = PretrainedSupernet(start, [PlacedSE(site, 2) for site in SITES])
    take_part(evaluator, Blocks(), DATA, "cpu")
    evaluator.prepare(folder, Blocks(), no_progress)
    bare = evaluate_network(start.load(folder).eval(), DATA.validation)
    return max(abs(bare.losses - evaluator.evaluate(Blocks().largest()).losses).flatten().tolist())


def test_two_processes_adapt_a_backbone_and_train_the_supernet_from_it(processes, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save_file(timm.create_model(BACKBONE, num_classes=7).state_dict(), f"{folder}.safetensors")
    (difference, second), ends = in_two(processes, _prepare_from_weights, folder)
    assert difference < 1e-5
    assert second is None
    assert ends == [0, 0]
    for name in ("backbone.json", "supernet.json"):
        assert [epoch["processes"] for epoch in json.loads((folder / name).read_text())["epochs"]] == [2]


@pytest.fixture
def second_of_two(monkeypatch):
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
    for name, value in (variables | {"TORCHELASTIC_RUN_ID": "test"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("second_of_two")
def test_where_nothing_is_shared_all_but_the_first_process_end_at_once(monkeypatch):
    evaluator = Scratch(BACKBONE, DATA, RECIPE)
    with pytest.raises(SystemExit) as ended:
        take_part(evaluator, Blocks(), DATA, "cpu")
    assert ended.value.code == 0
    monkeypatch.setenv("RANK", "0")
    take_part(evaluator, Blocks(), DATA, "cpu")
    assert distributed.size() == 1


def test_without_torchrun_a_process_is_alone_whatever_another_launcher_has_set(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert (distributed.size(), distributed.rank()) == (1, 0)
    take_part(supernet(RECIPE), Blocks(), DATA, "cpu")
    with together("cpu", True) as team:
        assert team is None


class Stream(ImageStream):
    def __len__(self):
        return 24

    def __iter__(self):
        return iter(tiny_data().train)

    def shuffled(self, seed):
        return iter(self)


@pytest.mark.parametrize("rank", ["0", "1"])
@pytest.mark.usefixtures("second_of_two")
def test_a_stream_is_refused(monkeypatch, rank):
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(DataError, match=r"'tiny' are a stream, .*without torchrun"):
        take_part(supernet(RECIPE, tiny_data()), Blocks(), tiny_data(images=Stream()), "cpu")


@pytest.mark.usefixtures("second_of_two")
def test_one_device_for_several_processes_is_refused(monkeypatch):
    use_own_device("cpu")
    with pytest.raises(DefinitionError, match=r"'cuda:1' is a single device .* 2 processes: use cuda,"):
        use_own_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(DefinitionError, match=r"2 processes and PyTorch sees 1 CUDA devices: .*--nproc-per-node 1"):
        use_own_device("cuda")


# --- started by torchrun ---------------------------------------------------------------------------------------------


def _search(folder, kill_at):
    """Training part of a search: the process is killed at a step, or prints its result."""
    use_own_device("cpu")
    network = supernet(TrainingRecipe(epochs=2, batch=64, learning_rate=0.003))
    take_part(network, Blocks(), DATA, "cpu")
    begun_at = []

    @contextmanager
    def progress_bar(description, total, completed):
        begun_at.append(completed)
        steps = itertools.count(completed + 1)

        def advance(step=1, line=None):
            if step and next(steps) == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        yield advance

    network.prepare(folder, Blocks(), progress_bar)
    accuracies = [network.evaluate(config).accuracy.low for config in CONFIGURATIONS]
    print(json.dumps({"begun_at": begun_at, "accuracies": accuracies}))


@pytest.mark.slow
def test_a_killed_search_that_torchrun_starts_again_goes_on_and_only_its_first_process_writes(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, __file__, str(run), "20"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert "SIGKILL" in done.stderr or "exitcode: -9" in done.stderr
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("{")]
    told = json.loads(line)
    assert told["begun_at"] == [16]  # steps, of which an epoch has as many
    assert min(told["accuracies"]) > 0.5  # of ten classes
    epochs = json.loads((run / "supernet.json").read_text())["epochs"]
    assert [epoch["processes"] for epoch in epochs] == [2, 2]
    assert epochs[1]["loss"] < epochs[0]["loss"]
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    assert {file.name for file in run.iterdir()} == {"supernet.json", "supernet.safetensors"}


if __name__ == "__main__":
    kill_at = int(sys.argv[2]) if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" else 0
    _search(Path(sys.argv[1]), kill_at)
