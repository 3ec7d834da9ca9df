"""The model card: its content, and that untrusted text never becomes markup."""

import re
from dataclasses import replace

import pandas as pd
import pytest
import timm
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from networks_to_export import network

from se_search import PlacedSE, SEConfig, create_model, export_timm, find_sites
from se_search.api.origin import origin_of_trial
from se_search.export.card import Origin, Result, draw_configuration
from se_search.markdown import escape_code, escape_text
from se_search.results.record import read_results
from se_search.study.files import load_study

NASTY = [
    "a\n---\nlicense: stolen\n---\n# Title",
    "<script>alert(1)</script>",
    "[click](javascript:alert(1)) ![x](http://a.b/c.png)",
    "`code` ``and`` | a cell | **bold** _slanted_ ~~gone~~",
    "# heading",
    "- item",
    "--- x",
    "1. item",
    "12) item",
    "+0.5% of 1.25",
    "===",
    "@everyone",
    "&lt;b&gt; \\` https://a.b www.a.b",
    "\u202eright to left\x00\x1b[31m",
]


def rendered(text):
    return MarkdownIt("commonmark", {"linkify": False}).enable("table").enable("strikethrough").render(text)


def front_matter(card):
    _, front, rest = re.split(r"^---$", card, maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(front), rest


@pytest.mark.parametrize("text", NASTY)
def test_text_and_code_from_outside_show_as_they_are(text):
    shown = " ".join("".join(one if one.isprintable() else " " for one in text).split())
    html = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    assert rendered(escape_text(text)) == f"<p>{html}</p>\n"
    assert rendered(f"| a |\n|---|\n| {escape_code(text)} |").count("<td>") == 1
    assert f"<td><code>{html}</code></td>" in rendered(f"| a |\n|---|\n| {escape_code(text)} |")


@pytest.mark.parametrize("text", NASTY)
def test_nothing_from_outside_becomes_markup_or_metadata(tmp_path, text):
    name = text.replace("/", "∕").replace("\x00", "")
    model = create_model(SEConfig.uniform("test_resnet", 8), num_classes=2)
    origin = Origin(text, license=text, results=(Result(text, text, text),))
    export_timm(model, tmp_path / name, interpolation="bilinear", origin=origin, label_names=["ok", text])
    front, rest = front_matter((tmp_path / name / "README.md").read_text())
    assert set(front) == {"library_name", "pipeline_tag", "tags", "license"}
    assert front["license"] == text
    html = rendered(rest)
    assert html.count("<h1>") == 1
    assert html.count("<h2>") == 5
    assert "<hr" not in html
    assert not re.search(r"<(script|a|img|strong|em|s|b)\b", html)
    assert html.count("<tr>") == 5 + 2 + 2 + 8 + 1  # rows: parameters with two stages, results, images


def test_a_configuration_is_drawn_stage_by_stage():
    config = SEConfig.uniform("resnet50", 16, stages=[3, 4]).with_site(
        find_sites("resnet50", position="standard")[0], ratio=4, gate="tanh", bias=False, rounding=1
    )
    assert draw_configuration(config).splitlines() == [
        "stage 2  A · ·",
        "stage 3  B B B B",
        "stage 4  B B B B B B",
        "stage 5  · · ·",
        "",
        "A  r=4, gate tanh, position standard, no biases, hidden width a multiple of 1",
        "B  r=16, gate sigmoid, position standard",
        "·  no SE block",
    ]


def test_several_positions_of_a_block_share_its_place():
    standard, pre = (SEConfig.uniform("resnet10t", 8, stages=[2], position=where) for where in ("standard", "pre"))
    drawn = draw_configuration(SEConfig("resnet10t", (*standard.placed, *pre.placed))).splitlines()
    assert drawn[0] == "stage 2  A+B"
    assert sorted(drawn[5:7]) == ["A  r=8, gate sigmoid, position pre", "B  r=8, gate sigmoid, position standard"]


def test_own_attention_is_drawn_as_kept_replaced_or_taken_out():
    first, second, *_ = find_sites("seresnet18", position="existing")
    drawn = draw_configuration(SEConfig("seresnet18", (PlacedSE(first, 4),), removed=(second,)))
    assert drawn.splitlines()[:2] == ["stage 2  A x", "stage 3  o o"]
    assert "o  the backbone's own attention, unchanged" in drawn
    assert "x  the backbone's own attention, removed" in drawn


def test_the_card_tells_overhead_by_formula_and_counted(tmp_path):
    # 2 · (4 · 256² + ...)/16 over the blocks, and the count with biases, as in timm's seresnet50.
    export_timm(create_model(SEConfig.uniform("resnet50", 16)), tmp_path / "exported", input_size=(3, 32, 32))
    card = (tmp_path / "exported" / "README.md").read_text()
    assert "| timm's published backbone | 25,557,032 |" in card
    assert "| added, by the formula Σ 2C²/r | +2,514,944 (+9.84 %) |" in card
    assert "| added, counted | +2,530,992 (+9.90 %) |" in card
    assert "timm's own architecture `seresnet50` is the same network" in card


def test_the_card_of_a_users_own_network_says_what_is_known(tmp_path):
    model = network(SEConfig.uniform("test_resnet", 8), num_classes=2)
    export_timm(model, tmp_path / "exported", description="Trained on my cats.", label_names=["cat", "no cat"])
    front, card = front_matter((tmp_path / "exported" / "README.md").read_text())
    assert "license" not in front
    assert "Trained on my cats. If training started from timm's published weights" in card
    assert "No measured values are recorded." in card
    assert "| class names | `cat`, `no cat` |" in card
    assert 'timm.create_model("local-dir:exported", pretrained=True)' in card


@pytest.mark.parametrize(
    ("evaluator", "words"),
    [
        ({"name": "supernet"}, ["slice of the search's weight-sharing network", "for 3 epochs"]),
        ({"name": "scratch"}, ["Trained independently from random weights", "for 3 epochs"]),
        ({"name": "finetune"}, ["Trained independently", "first trained on the same images"]),
        ({"name": "finetune", "pretrained": "timm"}, ["that timm publishes, whose licence applies"]),
        ({"name": "finetune", "pretrained": "local-dir:x"}, ["that the user gave, whose licence applies"]),
        ({"name": "one-epoch"}, ["the evaluator one-epoch"]),
    ],
)
def test_the_card_says_how_the_weights_of_each_evaluator_were_made(finished_run, evaluator, words):
    table, run = read_results(finished_run / "run")
    run = replace(run, evaluator=load_study("digits", evaluator=evaluator | {"epochs": 3}).evaluator)
    origin = origin_of_trial(table.to_dict("records")[0], run)
    for word in words:
        assert word in origin.weights
    # The licence of timm's published weights applies to weights trained from them.
    published = evaluator == {"name": "finetune", "pretrained": "timm"}
    assert origin.license == (timm.get_pretrained_cfg("test_resnet").license if published else None)
    assert timm.get_pretrained_cfg("test_resnet").license == "apache-2.0"
    assert origin.base_model == ("timm/test_resnet.r160_in1k" if published else None)


def test_the_hubs_own_classes_read_the_metadata(finished_run, tmp_path):
    table, run = read_results(finished_run / "run")
    row = table.to_dict("records")[1]
    origin = replace(origin_of_trial(row, run), license="apache-2.0", base_model="timm/test_resnet.r160_in1k")
    export_timm(network(SEConfig.from_json(row["config"]), num_classes=10), tmp_path / "exported", origin=origin)
    data = ModelCard.load(tmp_path / "exported" / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == ("timm", "image-classification", "apache-2.0")
    assert (data.model_name, data.base_model) == ("exported", "timm/test_resnet.r160_in1k")
    (result,) = data.eval_results
    assert (result.task_type, result.metric_type) == ("image-classification", "accuracy")
    assert (result.dataset_name, result.dataset_split) == ("digits", "validation")
    assert result.metric_value == row["accuracy"]


def test_the_card_tells_a_measured_latency_from_a_predicted_one(finished_run):
    table, run = read_results(finished_run / "run")
    run = replace(run, latency_learned_from=16)
    row = table.to_dict("records")[0]
    told = [
        next(result.conditions for result in origin_of_trial(one, run).results if result.name == "latency ratio")
        for one in (row, row | {"latency_stopped": "model", "latency_pairs": pd.NA})
    ]
    pooled = f"pooled over {run.latency_pooled_over} measurements"
    assert run.latency_pooled_over > 0
    assert f"{row['latency_pairs']} pairs of calls, {pooled}, 95 % interval; batch 1" in told[0]
    assert "predicted by an additive model of 16 measured configurations, 95 % prediction interval; batch 1" in told[1]


@pytest.mark.parametrize(
    ("given", "published"),
    [
        ("digits", "digits"),
        ("images/pets", "images/pets"),
        ("/home/me/pets", "pets"),
        ("wds//home/me/pets", "wds/pets"),
        ("hfds/me/pets", "hfds/me/pets"),
        ("torch/cifar10", "torch/cifar10"),
    ],
)
def test_a_card_does_not_tell_where_images_lie_on_a_machine(finished_run, given, published):
    table, run = read_results(finished_run / "run")
    run = replace(run, data=replace(run.data, name=given))
    origin = origin_of_trial(table.to_dict("records")[0], run)
    said = f"{origin.weights} {origin.results}"
    assert f" of {published} " in said
    assert ("/home" in said) == ("/home" in published)
