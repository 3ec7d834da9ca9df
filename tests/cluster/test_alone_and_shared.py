"""A search that alternates between its run folder alone and a shared storage, interrupted in different states."""

from dataclasses import dataclass, field

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from own_evaluators import Quick

from se_search.cluster.storage import RetryingStorage
from se_search.driver.loop import _shared
from se_search.study.definitions import StudyDefinition
from se_search.study.files import load_space
from se_search.study.space import SearchSpace
from se_search.trials.evaluators import study_data
from se_search.trials.folder import load_trials, open_folder
from se_search.trials.search_study import SearchStudy
from se_search.trials.trials import Trials, costs_of, worth_of

SIZE = (3, 32, 32)
LATENCY = {"latency_ratio": 1.0, "latency_low": 1.0, "latency_high": 1.0, "latency_stopped": "target"}
KNOWN = {"no SE", "uniform r=16", "r=16 without the last stage"}


@dataclass
class Search:
    """One search, whose sessions record fixed results instead of evaluating."""

    folder: object
    study: StudyDefinition = field(
        default_factory=lambda: StudyDefinition(
            backbone="test_resnet", space=load_space("stages"), sampler="random", budget=50
        )
    )
    storage: RetryingStorage = field(default_factory=lambda: RetryingStorage(InMemoryStorage()))
    completed: set = field(default_factory=set)

    def __post_init__(self):
        self.space = SearchSpace("test_resnet", self.study.resolved_space)
        self.evaluator = Quick(self.study, self.space, study_data(self.study))

    def sit(self, where, events):
        """Start a trial for each event: ``c`` completes it, and ``k`` leaves it running, as a killed process does."""
        storage = None if where == "alone" else self.storage
        with (
            open_folder(self.folder, self.study) as own,
            _shared(own, self.folder, self.study, storage, None) as (study, _),
        ):
            trials = Trials(self.study, self.space, SIZE, study, {})
            for event in events:
                proposal = trials.propose()
                if event == "c":
                    notes = costs_of(proposal.config, SIZE) | LATENCY
                    notes |= worth_of(self.study, proposal.config, self.evaluator, notes, study, False)[0]
                    trials.complete(proposal, notes, False)
                    self.completed.add(proposal.config.id)

    def complete(self):
        """The complete trials in the folder and in the storage."""
        studies = load_trials(self.folder), SearchStudy(self.folder.name, self.storage)
        return [study.get_trials(states=(TrialState.COMPLETE,)) for study in studies]


@pytest.mark.parametrize(
    "sittings",
    [
        pytest.param([("alone", "c"), ("shared", "cc"), ("alone", "c"), ("shared", "c")], id="alone waiting"),
        pytest.param([("alone", "ck"), ("shared", "cc"), ("alone", "c"), ("shared", "c")], id="alone under way"),
        pytest.param([("shared", "c"), ("alone", "cc"), ("shared", "c"), ("alone", "c")], id="shared waiting"),
        pytest.param([("shared", "ck"), ("alone", "ccc"), ("shared", "c"), ("alone", "c")], id="shared under way"),
        pytest.param([("shared", "ckcc"), ("alone", "ccc"), ("shared", "c")], id="shared overtaken"),
        pytest.param([("shared", "cccck"), ("alone", "ck"), ("shared", "kc"), ("alone", "cc")], id="all of it"),
    ],
)
def test_folder_and_storage_hold_the_same_and_no_configuration_twice(tmp_path, sittings):
    search = Search(tmp_path / "run")
    for where, events in [*sittings, ("shared", "c")]:
        search.sit(where, events)
    own, shared = search.complete()
    for trials in (own, shared):
        ids = [trial.user_attrs["config_id"] for trial in trials]
        assert sorted(ids) == sorted(search.completed)
        assert {trial.user_attrs.get("name") for trial in trials} >= KNOWN
    assert own[-1].number == shared[-1].number
    assert own[-1].user_attrs == shared[-1].user_attrs
