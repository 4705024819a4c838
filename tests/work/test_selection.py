from __future__ import annotations

from typing import Any

import pytest

from surgeline import FunctionCall, JobRequest
from surgeline.work.renaming import Renaming
from surgeline.work.selection import Selection

GAINCAL = {"vis": "a.ms", "caltable": "a.G"}


@pytest.mark.parametrize(
    ("task", "arguments", "selected"),
    [
        ("gaincal", {**GAINCAL, "field": "0,1", "spw": "2:4~60"}, {"a.ms": Selection("0,1", "2:4~60")}),
        ("gaincal", GAINCAL, {}),
        ("bandpass", {"vis": "a.ms", "caltable": "a.B", "field": "3C286"}, {"a.ms": Selection("3C286")}),
        ("split", {"vis": "a.ms", "outputvis": "b.ms", "spw": "1"}, {"a.ms": Selection(spw="1")}),
        ("tclean", {"vis": "a.ms", "imagename": "i", "field": "3"}, {"a.ms": Selection("3")}),
        (
            "tclean",
            {"vis": ["a.ms", "b.ms"], "imagename": "i", "field": ["3", ""], "spw": ["0"]},
            {"a.ms": Selection("3", "0"), "b.ms": Selection("", "0")},
        ),
        # What writes to an MS, what may read more, and what was not compared.
        ("tclean", {"vis": "a.ms", "imagename": "i", "field": "3", "savemodel": "modelcolumn"}, {}),
        ("tclean", {"vis": "a.ms", "imagename": "i", "field": "3", "parallel": True}, {}),
        ("tclean", {"vis": "a.ms", "imagename": "i", "field": "3", "gridder": "awproject"}, {}),
        ("tclean", {"vis": ["a.ms", "a.ms"], "imagename": "i", "field": ["3", "4"]}, {}),
        ("gaincal", {**GAINCAL, "field": "0", "msselect": "ROWNUMBER() < 9"}, {}),
        ("applycal", {"vis": "a.ms", "field": "3"}, {}),
        ("flagdata", {"vis": "a.ms", "field": "3", "mode": "summary"}, {}),
        ("listobs", {"vis": "a.ms", "field": "3"}, {}),
    ],
)
def test_tasks_say_which_rows_they_read_where_that_is_safe(
    task: str, arguments: dict[str, Any], selected: dict[str, Selection]
) -> None:
    assert JobRequest(task, arguments).declared.selects == selected


def test_a_function_says_it_by_itself_and_under_the_name_that_its_worker_uses() -> None:
    vis = "/archive/a.ms"
    job = FunctionCall(print, vis).declare(reads=[vis], selects={vis: Selection("3")})
    assert job.declare(name="other").declared.selects == {vis: Selection("3")}
    renaming = Renaming([vis])
    assert renaming.job(job).declared.selects == {renaming.there(vis): Selection("3")}
