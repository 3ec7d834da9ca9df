"""The table of phases and faults that follows the tests of `faults`."""

import sys
from pathlib import Path


def write_table(terminalreporter):
    """Print the table after its tests; nothing after others, or where the selection leaves most of its cells out."""
    outcomes = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            cell = dict(report.user_properties).get("cell") if report.when == "call" else None
            if cell is not None:
                outcomes[tuple(cell)] = "holds" if outcome == "passed" else "FAILS"
    if not outcomes or "not slow" in terminalreporter.config.option.markexpr:
        return
    sys.path.append(str(Path(__file__).parent / "faults"))  # as pytest does where it collects the tests
    from cells import EMPTY, FAULTS, PHASES

    reasons = list(dict.fromkeys(EMPTY.values()))
    marks = {cell: f"({reasons.index(reason) + 1})" for cell, reason in EMPTY.items()}
    terminalreporter.section("phases and faults")
    width = max(map(len, PHASES))
    write = terminalreporter.write_line
    write(" ".join([" " * width, *FAULTS]))
    for phase in PHASES:
        cells = ((outcomes | marks).get((phase, fault), "").center(len(fault)) for fault in FAULTS)
        write(" ".join([phase.ljust(width), *cells]).rstrip())
    held = sum(outcome == "holds" for outcome in outcomes.values())
    write(f"{len(PHASES) * len(FAULTS)} cells: {len(outcomes)} run, {held} hold, {len(EMPTY)} are empty:")
    for number, reason in enumerate(reasons, start=1):
        write(f"({number}) {reason}")
