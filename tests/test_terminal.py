"""What commands show: at 80 columns, on a terminal that cannot redraw, and as text that a shell takes."""

import io
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from se_search import progress, terminal
from se_search.export.timm_folder import Exported

FRONT = pd.DataFrame(
    {
        "trial": ["0", "11"],
        "accuracy": ["93.10 % [90.20, 95.20]", "94.00 % [91.10, 95.90]"],
        "parameters": ["+0.00 %", "+1.25 %"],
        "latency": ["×1.000 [0.995, 1.005]", "×1.021 [1.016, 1.026]"],
        "SE blocks": ["0", "8"],
        "": ["small, fast, no SE", "knee, accurate, log-loss not significantly better than trial 0's"],
    }
)


@pytest.fixture
def console_of(monkeypatch):
    """A function that lets the package print to a terminal of so many columns and of such a kind."""

    def of(width, kind="xterm"):
        monkeypatch.setenv("TERM", kind)
        console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False, color_system=None)
        monkeypatch.setattr(progress, "console", console)
        monkeypatch.setattr(terminal, "console", console)
        return console.file

    return of


def test_a_table_that_is_too_wide_has_its_remarks_below_and_no_number_is_broken(console_of):
    shown = console_of(80)
    terminal._print_table(FRONT)
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    for column in FRONT.drop(columns=""):
        for text in (column, *FRONT[column]):
            assert any(text in line for line in lines[:3]), text
    assert lines[3:] == [
        "trial 0: small, fast, no SE",
        "trial 11: knee, accurate, log-loss not significantly better than trial 0's",
    ]


def test_a_table_that_fits_has_its_remarks_beside(console_of):
    shown = console_of(160)
    terminal._print_table(FRONT)
    assert [line.rstrip().endswith("trial 0's") for line in shown.getvalue().splitlines()] == [False, False, True]


@pytest.mark.parametrize("width", [80, 60, 40, 24])
def test_no_word_of_a_table_is_broken_at_any_width(console_of, width):
    shown = console_of(width)
    table = FRONT.assign(**{"": FRONT[""].str.replace("not significantly better than", "no better than")})
    terminal._print_table(table)
    progress.print_table(list(table.columns), table.to_numpy().tolist())
    lines = shown.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    words = {word for column in table for cell in (column, *table[column]) for word in cell.split()}
    printed = {word for line in lines for word in line.replace(":", " ").replace(";", " ").split()}
    assert {word.replace(":", "") for word in words} <= printed | {""}


def test_a_row_that_does_not_fit_is_a_name_with_a_paragraph_below(console_of):
    shown = console_of(30)
    progress.print_table(
        ("network", "", "r=4", "r=16", "source"), [["seresnet50", "se", "39.44 %", "9.90 %", "x" * 20]]
    )
    assert shown.getvalue().splitlines() == [
        "network seresnet50",
        "  se; r=4: 39.44 %; r=16: 9.90",
        "  %; source:",
        "  xxxxxxxxxxxxxxxxxxxx",
    ]


def test_markup_in_a_table_is_text(console_of):
    shown = console_of(80)
    terminal._print_table(pd.DataFrame({"block": ["[red]layer[/red]"]}))
    assert "[red]layer[/red]" in shown.getvalue()


def test_a_terminal_that_cannot_redraw_gets_plain_lines(console_of):
    shown = console_of(80, "dumb")
    with progress.progress_bar("Evaluating configurations", 3, 1) as advance:
        advance(1, "trial 1: accuracy 50.0%")
    assert shown.getvalue() == "Evaluating configurations (1/3)\ntrial 1: accuracy 50.0%\n"


@pytest.mark.parametrize("folder", ["exported", "my networks", 'it\'s $HOME `id` "x" \\ !'])
def test_the_command_that_loads_an_export_is_one_for_a_shell(console_of, folder):
    shown = console_of(80)
    terminal.show_exported(Exported(Path(folder), ("config.json",), trial=3), plain=True)
    line = shown.getvalue().splitlines()[-1]
    program, option, code = shlex.split(line)
    assert (program, option) == ("python", "-c")
    stand_in = "timm = type('', (), {'create_model': staticmethod(lambda name, pretrained: print(name, end=''))})"
    told = code.replace("import timm; ", f"{stand_in}\n")
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == f"local-dir:{folder}"
    if folder == "exported":
        assert line == "  python -c \"import timm; timm.create_model('local-dir:exported', pretrained=True)\""


ESCAPES = "a\x1b]0;title\x07\x1b[2J\r\u202eb"
SHOWN = r"a\x1b]0;title\x07\x1b[2J\r\u202eb"


def test_escapes_are_shown_as_text(console_of, capsys):
    shown = console_of(200)
    progress.say(ESCAPES)
    terminal._print_table(pd.DataFrame({"block": [ESCAPES], "": [ESCAPES]}))
    with progress.progress_bar(ESCAPES, 2):
        pass
    progress.complain(ESCAPES)
    lines = shown.getvalue().splitlines()
    assert lines[0] == SHOWN
    assert lines[2].split() == [SHOWN, SHOWN]
    assert SHOWN in "".join(lines[3:])
    assert "title\x07" not in shown.getvalue()
    assert capsys.readouterr().err == f"{SHOWN}\n"


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("arguments", [["--version"], ["studies"]])
def test_output_to_a_full_device_ends_in_one_sentence(arguments):
    with FULL.open("w") as full:
        command = [sys.executable, "-m", "se_search", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.stderr == "Error: the output cannot be written (No space left on device)\n"
    assert done.returncode == 2
