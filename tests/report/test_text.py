"""The report as Markdown, read by a parser of it."""

import itertools
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from se_search.report.page import render_report
from se_search.report.tables import describe_front
from se_search.report.text import render_markdown
from se_search.results.decision import decide
from se_search.results.picks import Picks
from se_search.results.record import read_results
from se_search.results.verified import Member, Retraining, Schedule
from se_search.study.objectives import OBJECTIVES

HOSTILE = (
    "a | b ``` `c` *d* <script>alert(1)</script> [e](f) ![g](h) &amp; \\ #1 @all ~~i~~ $j$ https://k.l www.m.n\n\n# o"
)
UNSEEN = "\u202e\x1b"  # what turns the direction of a text, and what terminals obey
AS_TEXT = " ".join(HOSTILE.split())


@pytest.fixture
def results(finished_run):
    return read_results(finished_run / "run")


def parse(text):
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(text)


def texts(tokens, kind):
    """What is shown within the elements of a kind, and that there is no markup in it."""
    shown = []
    for before, token in itertools.pairwise(tokens):
        if before.type == f"{kind}_open":
            assert {child.type for child in token.children} <= {"text", "text_special"}, token.content
            shown.append("".join(child.content for child in token.children))
    return shown


def test_the_front_is_a_table_with_the_values_of_the_front(results):
    trials, run = results
    front = describe_front(trials, run)
    tokens = parse(render_markdown(trials, run))
    assert texts(tokens, "heading") == ["Where SE pays in test_resnet", "Pareto front", "How this was made"]
    assert texts(tokens, "th") == [name or "remarks" for name in front.columns]
    assert texts(tokens, "td") == [cell for row in front.itertuples(index=False) for cell in row]
    paragraphs = texts(tokens, "paragraph")
    assert "6 of 6 configurations evaluated on digits; the search is finished." in paragraphs
    assert all(caution in paragraphs for caution in run.cautions)
    assert decide(trials, run).known in paragraphs
    assert any(text.startswith("Versions: python 3.") for text in paragraphs)


def test_the_decision_leads_with_its_figures_and_the_next_command(results):
    trials, run = results
    decision = decide(trials, run)
    tokens = parse(render_markdown(trials, replace(run, folder="runs/my_run")))
    paragraphs = texts(tokens, "paragraph")
    assert paragraphs[0] == f"No measurable difference. {decision.headline}."
    assert paragraphs[2:5] == [f"{one.name} {one.text} {one.interval}" for one in decision.figures]
    assert paragraphs[5] == f"Next: {decision.next[0].reason}"
    assert [token.content for token in tokens if token.type == "code_block"] == ["se-search verify runs/my_run\n"]


def test_without_a_description_it_says_what_was_run(results):
    trials, run = results
    run = replace(run, study="", data=replace(run.data, name="pictures"))
    assert "Study: test_resnet on pictures, 6 configurations" in texts(parse(render_markdown(trials, run)), "paragraph")
    assert "test_resnet on pictures, 6 configurations" in render_report(trials, run)


def test_of_a_run_that_judges_by_log_loss_that_is_told(results):
    trials, run = results
    tokens = parse(render_markdown(trials, replace(run, quality=OBJECTIVES["log_loss"])))
    paragraphs = texts(tokens, "paragraph")
    assert any(text.startswith("Log-loss is estimated by ") for text in paragraphs)
    first = trials[trials["on_front"]].sort_values("parameter_overhead").iloc[0]
    assert f"{first['log_loss']:.4f} [{first['log_loss_low']:.4f}, {first['log_loss_high']:.4f}]" in texts(tokens, "td")


def test_verified_networks_have_a_table(results):
    trials, run = results
    trainings = tuple(
        Retraining(seed, (accuracy,) * 3, (0.3, 0.2, 0.4), accuracy > 0.5, None)
        for seed, accuracy in enumerate((0.95, 0.1))
    )
    member = Member(
        config_id="",
        number=3,
        name="mine",
        accuracy=(0.9, 0.8, 0.95),
        log_loss=(0.3, 0.2, 0.4),
        accuracy_difference=(0.1, 0.0, 0.2),
        log_loss_difference=(-0.1, -0.2, 0.0),
        trainings=trainings,
        exported=trainings[0],
        learned=1,
        probability=(0.5, 0.01, 0.99),
        accuracy_learned=(0.95, 0.9, 0.97),
        log_loss_learned=(0.2, 0.1, 0.3),
        better_than=(),
    )
    schedule = Schedule(
        epochs=7,
        seeds=(0, 1),
        images=397,
        members=(replace(member, number=None, name="no SE"), member),
        agreement=None,
        ceiling=None,
        helps=False,
        finding="F.",
        held=None,
        ranking=("R.",),
        failures=("One failed.",),
    )
    tokens = parse(render_markdown(trials.assign(on_front=False), replace(run, verified=(schedule,))))
    assert "Verified: retrained independently (7 epochs, 2 seeds)" in texts(tokens, "heading")
    assert texts(tokens, "th")[3] == "log-loss against no SE"
    assert texts(tokens, "td") == [
        "–",
        "90.00 % [80.00, 95.00]",
        "0.3000 [0.2000, 0.4000]",
        "",
        "no SE, 1 of 2 trainings did not learn",
        "3",
        "90.00 % [80.00, 95.00]",
        "0.3000 [0.2000, 0.4000]",
        "-0.1000 [-0.2000, +0.0000]",
        "mine, 1 of 2 trainings did not learn",
    ]
    assert "Evaluated on 397 test images, with 95 % intervals." in texts(tokens, "paragraph")
    assert {"F.", "One failed.", "R."} <= set(texts(tokens, "paragraph"))


def test_names_from_outside_are_text(results):
    trials, run = results
    trials.loc[trials["on_front"], "name"] = HOSTILE
    named = dict.fromkeys(("name", "backbone", "study", "space"), UNSEEN + HOSTILE)
    cautions = (HOSTILE, "1. first", "- item")
    run = replace(run, **named, cautions=cautions, data=replace(run.data, name=HOSTILE))
    text = render_markdown(trials, run)
    tokens = parse(text)
    assert "https://" not in text  # GitHub makes links of these, also without brackets
    assert "www." not in text
    assert not [token.type for token in tokens if token.type in ("html_block", "fence", "ordered_list_open")]
    assert f"Where SE pays in {AS_TEXT}" in texts(tokens, "heading")
    assert all(AS_TEXT in " ".join(cell.split()) for cell in texts(tokens, "td")[5::6])
    assert {AS_TEXT, "1. first", "- item"} <= set(texts(tokens, "paragraph"))


def test_a_run_without_a_trial_has_a_text(results):
    trials, run = results
    cautions = ("No configuration has been evaluated yet.",)
    run = replace(run, picks=Picks(), latency=None, finished=False, cautions=cautions)
    tokens = parse(render_markdown(trials.iloc[:0], run))
    assert texts(tokens, "th") == []
    assert "0 of 6 configurations evaluated on digits; the search is not finished." in texts(tokens, "paragraph")
