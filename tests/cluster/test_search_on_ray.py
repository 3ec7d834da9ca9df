"""Searches on a Ray cluster of several nodes on this machine, with faults."""

import os

import pytest
from faults import Orders, starting, wait_until

import se_search
from se_search import SEConfig, load_run
from se_search.driver import loop
from se_search.driver.loop import load_network
from se_search.errors import ClusterError, RunFolderError
from se_search.latency import meter
from se_search.training.evaluator import evaluate_network
from se_search.trials.folder import load_trials
from se_search.trials.latency import StudyLatency

pytest.importorskip("ray")
from ray.cluster_utils import Cluster

UNIFORM, PLAIN = SEConfig.uniform("test_resnet", 16), SEConfig.without_attention("test_resnet")
QUICK = {"evaluator": "obedient", "latency_limit": 0.01, "latency_size": "data", "sampler": "random", "threads": 1}
HEAD = {"num_cpus": 1, "include_dashboard": False}


def search(folder, cluster, **settings):
    return se_search.search("test_resnet", out=folder, ray=cluster.address, **(QUICK | settings))


def complete(run):
    trials = run.trials
    assert trials["config_id"].is_unique
    return trials[trials["state"] == "complete"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Orders that the processes of the module's cluster obey."""
    given = Orders(tmp_path_factory.mktemp("orders"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.environment.items():
            patch.setenv(name, value)
        patch.syspath_prepend(str(given.packages))
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_worker_niceness", "0")
        yield given


@pytest.fixture(scope="module")
def nodes(environment):
    """A cluster of a head, which evaluates nothing, and two nodes."""
    cluster = Cluster(True, head_node_args=HEAD | {"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture
def orders(environment):
    yield environment
    environment.clear()


@pytest.fixture
def start(orders, tmp_path):
    with starting(tmp_path) as start:
        yield start


def test_a_process_that_dies_is_replaced_and_one_configuration_kills_three(orders, nodes, tmp_path, capfd):
    orders.kill(UNIFORM, "once")
    orders.kill(PLAIN, "always")
    run = search(tmp_path / "run", nodes, budget=5)
    assert len(complete(run)) == 5
    (failed,) = run.trials[run.trials["state"] == "failed"].to_dict("records")
    assert failed["config_id"] == PLAIN.id
    assert failed["error"] == "EvaluationError: 3 processes that evaluated it were killed or crashed"
    began = orders.began()
    assert len(began) == 5 + 1 + 3
    assert str(os.getpid()) not in {process for _, process, _ in began}
    assert len({node for _, _, node in began}) == 2
    assert (complete(run)["latency_ratio"] > 0).all()
    told = "".join(capfd.readouterr())
    assert "has died: it is evaluated again" in told
    assert "A worker died or was killed" not in told


@pytest.mark.slow
def test_latency_is_measured_while_nothing_runs_here(orders, nodes, tmp_path, monkeypatch):
    usual, at_once = StudyLatency.measure_or_predict, []

    def of(latency, config):
        at_once.append(orders.running())
        return usual(latency, config)

    monkeypatch.setattr(StudyLatency, "measure_or_predict", of)
    run = search(tmp_path / "run", nodes, budget=5)
    assert at_once == [0] * 5
    assert len(complete(run)) == 5


@pytest.mark.slow
def test_nodes_join_and_a_lost_one_is_not_held_against_its_configurations(orders, nodes, start, tmp_path):
    """Three nodes in turn are killed while they evaluate the same configuration."""
    orders.hold(UNIFORM)
    log = tmp_path / "run.log"
    process = start("run.log", "--budget", 6, "--threads", 1, "--ray", nodes.address)
    for number in range(3):
        nodes.add_node(num_cpus=1)
        (node,) = wait_until(lambda number=number: [one[2] for one in orders.began() if one[0] == UNIFORM.id][number:])
        nodes.remove_node(next(one for one in nodes.worker_nodes if one.node_id == node), allow_graceful=False)
        wait_until(lambda number=number: log.read_text().count("A node is lost") == number + 1)
    orders.release()
    assert process.wait(240) == 0, log.read_text()
    run = load_run(tmp_path / "run")
    assert set(run.trials["state"]) == {"complete"}
    assert len(complete(run)) == 6


@pytest.mark.slow
def test_a_node_that_reads_other_images_costs_no_configuration(orders, nodes, tmp_path, capsys, monkeypatch):
    search(tmp_path / "run", nodes, budget=2)
    orders.lose_an_image(next(iter(nodes.worker_nodes)).node_id)
    run = search(tmp_path / "run", nodes, budget=6)
    assert list(run.trials["state"]) == ["complete"] * 6
    complete(run)
    assert capsys.readouterr().out.count("receives no more trials: 400 validation images could be read") == 1
    orders.lose_an_image("every node")
    with pytest.raises(RunFolderError, match="399 can now: restore them as they were"):
        search(tmp_path / "run", nodes, budget=7)
    assert "failed" not in set(load_run(run.folder).trials["state"])
    usual = loop.describe_data
    monkeypatch.setattr(loop, "describe_data", lambda data: usual(data) | {"train": 1})
    with pytest.raises(
        ClusterError,
        match="no node can evaluate: DataError: the images here differ from those of the search: train was",
    ):
        search(tmp_path / "run", nodes, budget=7)


@pytest.mark.slow
def test_trained_weights_come_back(nodes, tmp_path):
    run = search(tmp_path / "run", nodes, budget=2, evaluator={"name": "finetune", "epochs": 1})
    for row in complete(run).to_dict("records"):
        network, data = load_network(run.folder, SEConfig.from_json(row["config"]))
        assert evaluate_network(network, data.validation).accuracy.value == pytest.approx(row["accuracy"], abs=0.003)
    assert len(list((run.folder / "networks").iterdir())) == 2


@pytest.mark.slow
def test_the_node_that_offers_it_measures_latency(orders, nodes, tmp_path, monkeypatch):
    """This process reports another processor, as a search on another machine would."""
    there = meter.processor_name("cpu")
    monkeypatch.setattr(meter, "processor_name", lambda device: "another processor")
    wrong = nodes.add_node(num_cpus=1, resources={"latency": 1})
    with pytest.raises(ClusterError, match="evaluations would disturb its measurements: start it with --num-cpus 0"):
        search(tmp_path / "wrong", nodes, budget=3, latency_node=True)
    nodes.remove_node(wrong)
    right = nodes.add_node(num_cpus=0, resources={"latency": 1})
    run = search(tmp_path / "run", nodes, budget=3, latency_node=True)
    nodes.remove_node(right)
    assert len(complete(run)) == 3
    attributes = [trial.user_attrs for trial in load_trials(run.folder).get_trials()]
    assert {one["latency_conditions"]["processor"] for one in attributes} == {there}
    assert right.node_id not in {node for _, _, node in orders.began()}
    with pytest.raises(RunFolderError, match="started on another device: latency was measured with processor"):
        search(tmp_path / "run", nodes, budget=4)


@pytest.mark.slow
def test_a_lost_head_ends_the_search_with_a_sentence_and_a_new_one_completes_it(orders, start, tmp_path):
    first_head = Cluster(True, head_node_args=HEAD)
    orders.hold()
    process = start("first.log", "--budget", 3, "--threads", 1, "--ray", first_head.address)
    wait_until(lambda: orders.running() == 1)
    first_head.head_node.kill_gcs_server(check_alive=False)
    assert process.wait(60) == 2
    told = (tmp_path / "first.log").read_text()
    assert told.rstrip().rpartition("\n")[2].startswith("Error: the head of the Ray cluster at ")
    first_head.shutdown()
    orders.release()
    second_head = Cluster(True, head_node_args=HEAD)
    assert start("second.log", "--budget", 3, "--threads", 1, "--ray", second_head.address).wait(240) == 0
    second_head.shutdown()
    assert len(complete(load_run(tmp_path / "run"))) == 3


@pytest.mark.slow
def test_sixty_trials_survive_a_lost_node_and_a_killed_search(nodes, start, tmp_path):
    """The supernet of a small backbone; a node joins before another is killed."""
    options = ("--evaluator", "supernet", "--epochs", 1, "--space", "blocks", "--budget", 60, "--threads", 1)
    first, log = start("first.log", *options, "--ray", nodes.address), tmp_path / "first.log"
    wait_until(lambda: "12/60 trial" in log.read_text(), seconds=900)
    nodes.add_node(num_cpus=1)
    nodes.remove_node(next(iter(nodes.worker_nodes)), allow_graceful=False)
    wait_until(lambda: "30/60 trial" in log.read_text(), seconds=900)
    first.kill()
    first.wait()
    assert start("second.log", *options, "--ray", nodes.address).wait(1800) == 0, (tmp_path / "second.log").read_text()
    assert len(complete(load_run(tmp_path / "run"))) == 60
