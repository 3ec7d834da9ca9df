"""The page of the atlas, opened as a person opens it: a file, without a network."""

import pytest
from typer.testing import CliRunner

from se_search.cli import app
from se_search.evidence.atlas import architectures
from se_search.evidence.latencies import LatencyRow
from se_search.report import atlas_page
from se_search.report.atlas_page import latency_figure

RESNETS = architectures("*resnet[2-5]*")
KNOWN = {name: costs for name, costs in RESNETS.items() if costs}


def row_of(backbone, ratio, runtime="eager"):
    return LatencyRow(
        backbone=backbone,
        configuration="uniform r=16",
        parameter_overhead=0.1,
        flops_overhead=0.003,
        latency_ratio=ratio,
        latency_low=ratio - 0.01,
        latency_high=ratio + 0.01,
        latency_pairs=40,
        latency_stopped="limit",
        latency_interruptions=0.0,
        pooled=True,
        runtime=runtime,
        version=f"{runtime}, PyTorch 2",
        optimized=False,
        cuda_graph=False,
        batch=1,
        size=(3, 224, 224),
        dtype="float32",
        memory_format="contiguous",
        device="cpu",
        processor="a processor",
        threads=2,
        timm="1",
        date="2026-11-29",
    )


def test_the_page_is_sorted_and_filtered_offline(open_page, tmp_path, monkeypatch):
    monkeypatch.setattr(atlas_page, "atlas_latencies", tuple)
    monkeypatch.setattr(atlas_page, "architectures", lambda: RESNETS)
    file = tmp_path / "atlas.html"
    assert CliRunner().invoke(app, ["atlas", "--html", str(file)]).exit_code == 0
    page, errors, asked = open_page(file)
    rows = page.locator("#architectures tbody tr")
    assert rows.count() == len(KNOWN)
    region = page.get_by_role("region", name="Architectures")
    for direction in (1, -1):
        region.get_by_role("button", name="Parameters").click()
        values = rows.evaluate_all("(rows) => rows.map((row) => +row.cells[2].dataset.value)")
        assert values == sorted((costs.parameters for costs in KNOWN.values()), reverse=direction < 0)
    page.get_by_label("Filter").fill("RESNET50 standard")
    expected = {name for name, costs in KNOWN.items() if "resnet50" in name and costs.default_position == "standard"}
    shown = page.locator("#architectures tbody tr:not([hidden]) td:first-child")
    assert set(shown.all_inner_texts()) == expected
    page.wait_for_selector("#figure-costs .point")
    assert "No latency has been measured" in page.content()
    assert errors == []
    assert all(url.startswith(("file:", "blob:", "data:")) for url in asked)
    # The same command writes the page again, but over no other file.
    other = tmp_path / "other.html"
    other.write_text("mine")
    refused = CliRunner().invoke(app, ["atlas", "--html", str(other)])
    assert (refused.exit_code, other.read_text()) == (2, "mine")
    assert "is not a page of the atlas" in refused.stderr


@pytest.mark.slow
def test_the_page_of_all_architectures_opens_without_an_error(open_page, tmp_path):
    file = atlas_page.write_atlas(tmp_path / "atlas.html")
    page, errors, _ = open_page(file)
    page.wait_for_selector("#figure-costs .point")
    assert page.locator("#architectures tbody tr").count() == sum(map(bool, architectures().values()))
    assert errors == []


def test_latencies_are_drawn_against_flops_and_stand_in_the_table(monkeypatch):
    rows = (row_of("resnet18", 1.05), row_of("resnet50", 1.08), row_of("resnet18", 1.02, "compile"))
    figure = latency_figure(rows)
    assert [trace.name for trace in figure.data] == ["eager, batch 1", "compile, batch 1"]
    assert list(figure.data[0].y) == pytest.approx([5, 8])
    assert list(figure.data[0].error_y.array) == pytest.approx([1, 1])
    assert list(figure.layout.yaxis.range) == pytest.approx([1, 9])  # every value, with a margin of a point at least
    monkeypatch.setattr(atlas_page, "atlas_latencies", lambda: rows)
    monkeypatch.setattr(atlas_page, "architectures", lambda: RESNETS)
    page = atlas_page.render_atlas()
    assert "measured in 2 architectures" in page
    assert '<td data-value="1.08">+8.0 % [+7.0 %, +9.0 %]</td>' in page
