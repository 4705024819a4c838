"""The graph of stages as text."""

from __future__ import annotations

import random
from collections import defaultdict
from textwrap import dedent

import pytest

from surgeline import FunctionCall
from surgeline.work.resources import Resources
from surgeline.workflow.drawing import draw
from surgeline.workflow.planning import Plan, PlannedStage


def drawn(*stages: PlannedStage, ascii_only: bool = False) -> str:
    return draw(Plan((), stages), ascii_only).strip("\n")


def stage(name: str, *needs: str) -> PlannedStage:
    return PlannedStage(name, name, needs, "foretold")


def text(lines: str) -> str:
    return dedent(lines).strip("\n")


def test_stages_one_after_the_other_are_a_line() -> None:
    assert drawn(stage("import"), stage("flag", "import")) == text("""
        ●  import
        ●  flag
    """)


def test_stages_side_by_side_have_lines_of_their_own_until_they_meet() -> None:
    stages = [
        stage("import"),
        stage("flag", "import"),
        stage("look", "import"),
        stage("model", "import"),
        stage("bandpass", "flag", "model"),
        stage("export", "look", "bandpass"),
    ]
    assert drawn(*stages) == text("""
        ●  import
        ├─┬─╮
        ● │ │  flag
        │ ● │  look
        │ │ ●  model
        ├─│─╯
        ● │  bandpass
        ├─╯
        ●  export
    """)


def test_a_terminal_of_ascii_shows_it_too() -> None:
    stages = [stage("a"), stage("b", "a"), stage("c", "a"), stage("d", "b", "c")]
    assert drawn(*stages, ascii_only=True) == text(r"""
        *  a
        |-\
        * |  b
        | *  c
        |-/
        *  d
    """)


def test_stages_that_nothing_waits_for_end_their_lines() -> None:
    stages = [stage("a"), stage("b"), stage("c", "b"), stage("d", "a")]
    assert drawn(*stages) == text("""
        ●  a
        │ ●  b
        │ ●  c
        ●  d
    """)
    assert drawn(stage("a"), stage("b")) == "●  a\n\n●  b"


def test_jobs_are_told_where_they_are_known() -> None:
    call = FunctionCall(print)
    known = PlannedStage(
        "make images", "make_images", ("import",), "foretold", "it was asked for",
        jobs=tuple(call.declare(name=f"clean {n}", resources=Resources(cores=2), seconds=200.0) for n in range(9)),
        complete=False,
    )  # fmt: skip
    unseen = PlannedStage("export", "export", ("make images",), "unseen")
    before = PlannedStage("import", "import", (), "finished")
    lines = drawn(before, known, unseen).splitlines()
    assert lines[0] == "✓  import   finished before"
    assert lines[1] == "●  make images (make_images)   at least 9 jobs"
    assert lines[2] == "│    runs again: it was asked for"
    assert lines[3] == "│    · clean 0   2 cores, about 3 min"
    assert lines[7] == "│    · and 5 more"
    assert lines[8] == "○  export"
    assert lines[-1].startswith("○ nothing is known")


@pytest.mark.parametrize("number", [3, 12])
def test_every_line_leads_where_it_should(number: int) -> None:
    """Whatever the graph: read back from the drawing, who needs whom is the same."""
    choose = random.Random(number)
    for _ in range(50):
        stages = [stage("s0")]
        for position in range(1, number):
            before = choose.sample(range(position), choose.randint(0, min(3, position)))
            stages.append(stage(f"s{position}", *(f"s{n}" for n in sorted(before))))
        assert read_back(drawn(*stages)) == {one.name: set(one.needs) for one in stages}


def read_back(drawing: str) -> dict[str, set[str]]:
    """Follow the lines down: each column carries the stages that its line comes from."""
    found: dict[str, set[str]] = {}
    columns: defaultdict[int, set[str]] = defaultdict(set)
    above = ""
    for line in drawing.splitlines():
        # What ends has no line below it.
        for place, letter in enumerate(above):
            if letter == "●" and line[place : place + 1] in ("", " "):
                columns.pop(place, None)
        above = line
        if "●" in line:
            place = line.index("●")
            name = line[place:].replace("│", " ").split()[1]
            found[name] = columns.pop(place, set())
            columns[place].add(name)
            continue
        if "├" not in line:
            continue
        start = line.index("├")
        for place, letter in enumerate(line):
            if letter in "╮┬":
                columns[place] = {next(iter(columns[start]))}
            elif letter in "╯┴":
                columns[start] |= columns.pop(place)
    return found
