"""The overhead of a trial, in counts: commits, reads and conversions do not grow with the number of trials."""

from contextlib import contextmanager
from itertools import pairwise

import pytest
import sqlalchemy
from optuna.trial import TrialState
from own_evaluators import answer

from se_search.driver.loop import run_search
from se_search.latency.meter import LatencyMeter
from se_search.study.evaluator_definition import FROM_PYTHON
from se_search.study.files import load_study
from se_search.study.space import SearchSpace
from se_search.trials.folder import load_trials


class Killed(BaseException):
    """Stands in for SIGKILL."""


class Null:
    """An immediate evaluator whose result depends on the configuration id; calls a function before each evaluation."""

    def __init__(self, before=lambda: None):
        self._before = before

    def __call__(self, study, space, data):
        self._images = len(data.validation)
        return self

    def prepare(self, folder, space, progress_bar):
        pass

    def evaluate(self, config):
        self._before()
        return answer(config, self._images)


@pytest.fixture(autouse=True)
def measured_once(monkeypatch):
    """Measure latency once and use it for all networks."""
    measure, kept = LatencyMeter.measure, []

    def measure_once(meter, model, look=None):
        return kept[0] if kept else kept.append(measure(meter, model)) or kept[0]

    monkeypatch.setattr(LatencyMeter, "measure", measure_once)


@contextmanager
def listening(event, function):
    sqlalchemy.event.listen(sqlalchemy.engine.Engine, event, function)
    try:
        yield
    finally:
        sqlalchemy.event.remove(sqlalchemy.engine.Engine, event, function)


def run(folder, budget, evaluator, space="blocks", **overrides):
    study = load_study(
        "digits",
        backbone="test_resnet",
        space=space,
        sampler="random",
        budget=budget,
        evaluator=f"{FROM_PYTHON}Null",
        latency={"limit": 0.01, "size": "data"},
        **overrides,
    )
    run_search(study, folder, evaluator)


def differences(numbers):
    return [after - before for before, after in pairwise(numbers)]


@pytest.mark.parametrize("space", ["stages", "blocks"])
def test_a_trial_is_committed_when_it_begins_and_when_it_ends(tmp_path, space):
    commits, at_evaluation = [], []

    def count(connection):
        commits.append(connection.connection.dbapi_connection.in_transaction)  # else nothing was written

    limits = {"max_params": 5.0, "max_latency": 100.0}
    with listening("commit", count):
        run(tmp_path / "run", 7, Null(lambda: at_evaluation.append(sum(commits))), space, **limits)
    # The first trial also records the number of images in the study.
    assert differences(at_evaluation)[1:] == [2] * 5
    for trial in load_trials(tmp_path / "run").trials:
        assert len(trial.user_attrs) >= 20
        assert set(trial.constraints) == {"max_params", "max_latency"}


def test_what_a_trial_reads_and_converts_does_not_grow_with_the_trials_before_it(tmp_path, monkeypatch):
    converted, read = [], []
    to_config = SearchSpace.to_config

    def count_conversion(space, parameters):
        converted.append(1)
        return to_config(space, parameters)

    def count_reading(connection, cursor, statement, *rest):
        read.append(statement.startswith("SELECT"))

    monkeypatch.setattr(SearchSpace, "to_config", count_conversion)
    conversions, readings = [], []
    with listening("before_cursor_execute", count_reading):
        run(tmp_path / "run", 30, Null(lambda: (conversions.append(len(converted)), readings.append(sum(read)))))
    # The finished trial, one or two proposals, the trial itself, and the first remaining points.
    assert max(differences(conversions)[3:]) <= 6
    assert max(differences(readings)[-5:]) <= max(differences(readings)[3:8])


def test_killed_at_any_write_every_complete_trial_is_whole_and_the_search_goes_on_as_it_would_have(tmp_path):
    run(tmp_path / "whole", 6, Null())
    whole = load_trials(tmp_path / "whole").trials
    for moment in range(4, 24, 7):  # a trial takes nine statements
        folder = tmp_path / str(moment)
        run(folder, 3, Null())
        written = []

        def kill(connection, cursor, statement, *rest, written=written, moment=moment):
            written.append(statement.startswith(("INSERT", "UPDATE")))
            if sum(written) == moment:
                raise Killed

        with pytest.raises(Killed), listening("before_cursor_execute", kill):
            run(folder, 6, Null())
        for trial in load_trials(folder).get_trials(states=[TrialState.COMPLETE]):
            assert trial.user_attrs.keys() | {"name"} == whole[0].user_attrs.keys()
        run(folder, 6, Null())
        again = load_trials(folder).get_trials(states=[TrialState.COMPLETE])
        assert [trial.user_attrs["config_id"] for trial in again] == [one.user_attrs["config_id"] for one in whole]
