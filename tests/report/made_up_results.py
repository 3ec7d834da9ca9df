"""Results of searches that nobody has made: real configurations of a space with values by a formula."""

import random

import numpy as np
import pandas as pd

from se_search.network.overhead import backbone_parameters
from se_search.results.contributions import describe_contributions
from se_search.results.picks import pick_trials
from se_search.results.record import DataRecord, RunRecord, SiteRecord
from se_search.study.definitions import ConstraintsDefinition
from se_search.study.evaluator_definition import SupernetDefinition
from se_search.study.files import load_space
from se_search.study.objectives import COLUMNS, OBJECTIVES, VERIFIED_COLUMNS, custom_objective
from se_search.study.space import SearchSpace


def made_up_results(count, backbone="resnet18", space="blocks", objectives=None, seed=0):
    """Return a table of complete trials and the description of their run.

    Accuracy is 0.9 plus 0.001 for each SE block and noise, with an interval of ±0.02; latency is 1 plus 0.01 for each
    block. The first three trials have the names of the known answers; the front is that of accuracy and parameters.
    """
    searched = SearchSpace(backbone, load_space(space))
    drawn, rng = random.Random(seed), np.random.default_rng(seed)
    named = dict(list(searched.known_answers().items())[:count])
    configs = list(dict.fromkeys([*named.values(), *(searched.draw(drawn) for _ in range(2 * count))]))[:count]
    names = {config: name for name, config in named.items()}
    bare = backbone_parameters(backbone)
    rows = []
    for number, config in enumerate(configs):
        blocks = len(config.placed)
        accuracy = 0.9 + 0.001 * blocks + 0.01 * float(rng.standard_normal())
        parameters = sum(placed.parameters for placed in config.placed)
        latency = 1 + 0.01 * blocks + 0.005 * float(rng.standard_normal())
        rows.append(
            {
                "number": number,
                "state": "complete",
                "name": names.get(config, ""),
                "config_id": config.id,
                "accuracy": accuracy,
                "accuracy_low": accuracy - 0.02,
                "accuracy_high": accuracy + 0.02,
                "log_loss": 2 - 2 * accuracy,
                "log_loss_low": 1.97 - 2 * accuracy,
                "log_loss_high": 2.04 - 2 * accuracy,
                "counted_parameters": parameters,
                "total_parameters": bare + parameters,
                "parameter_overhead": parameters / bare,
                "flops_overhead": 0.0001 * blocks,
                "latency_ratio": latency,
                "latency_low": latency - 0.004,
                "latency_high": latency + 0.006,
                "latency_pairs": 100,
                "latency_stopped": "target",
                "feasible": True,
                "on_front": False,
                "gate": config.placed[0].gate if blocks else "",
                "se_blocks": blocks,
                "config": config.to_json(),
                "error": "",
                "epochs": 8,
                "seconds": 1.0,
            }
        )
    trials = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    trials[list(VERIFIED_COLUMNS)] = np.nan
    best = (
        trials.sort_values(["parameter_overhead", "accuracy"], ascending=[True, False])["accuracy"]
        .cummax()
        .reindex(trials.index)
    )
    trials["on_front"] = (trials["accuracy"] == best) & ~trials["accuracy"].duplicated()
    accuracy = OBJECTIVES["accuracy"]
    run = RunRecord(
        name="made-up",
        folder="runs/made-up",
        backbone=backbone,
        backbone_parameters=bare,
        data=DataRecord("digits", 1000, 400, 397, 10, (3, 32, 32)),
        study="",
        space="",
        placement=searched.definition.placement,
        seed=seed,
        budget=count,
        device="cpu",
        evaluator=SupernetDefinition(),
        objectives=named_objectives(*objectives or ("accuracy", "parameter_overhead", "latency_ratio")),
        constraints=ConstraintsDefinition(),
        latency_learned_from=0,
        latency=None,
        sites=sites_of(searched),
        picks=pick_trials(trials),
        cautions=(),
        gain=None,
        quality=accuracy,
        contributions=describe_contributions(trials, searched.sites, accuracy, {}),
        verified=(),
        excitation=(),
        hypervolume_history=tuple(1 - 0.9**place for place in range(1, count + 1)),
        hypervolume_reference={},
        timings={},
        finished=True,
    )
    return trials, run


def named_objectives(*names):
    """The objectives of these names, some of the user's own."""
    return tuple(OBJECTIVES.get(name) or custom_objective(name, "minimize") for name in names)


def sites_of(space):
    """The sites of a space, as a record has them."""
    return tuple(SiteRecord(site.block, site.stage, site.position, site.channels) for site in space.sites)
