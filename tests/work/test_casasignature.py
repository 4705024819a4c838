from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from surgeline.errors import BadInput
from surgeline.work.casasignature import signature, task_names

COMPARED = ("tclean", "gaincal", "bandpass", "flagdata", "importuvfits", "split", "setjy", "uvcontsub", "exportfits")
ASK_CASA = """
import inspect, json, sys
from pathlib import Path
from surgeline.work.casaprocess import CasaProcess
CasaProcess(Path.cwd(), Path("casa.log")).prepare()
import casatasks
tasks = {name: found for name, found in vars(casatasks).items() if name[0] != "_" and hasattr(found, "_info_group_")}
defaults = {
    name: {argument: repr(found.default) for argument, found in inspect.signature(tasks[name]).parameters.items()}
    for name in sys.argv[1:]
}
print(json.dumps([defaults, list(tasks)]))
"""


@pytest.fixture(scope="module")
def casas_own(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, dict[str, str]], list[str]]:
    """What CASA itself says of its tasks: the defaults of some, and the names of all."""
    answer = subprocess.run(
        [sys.executable, "-c", ASK_CASA, *COMPARED],
        cwd=tmp_path_factory.mktemp("casa"),
        capture_output=True,
        text=True,
        check=True,
    )
    parameters, names = json.loads(answer.stdout.splitlines()[-1])
    return parameters, names


@pytest.mark.parametrize("task", sorted(task_names()))
def test_every_tasks_signature_can_be_read(task: str) -> None:
    found = signature(task)
    assert set(found.defaults) <= set(found.types)
    # A default that is no plain value would be lost where tclean's arguments are filled up.
    assert set(found.default_values()) == set(found.defaults)


@pytest.mark.parametrize("task", COMPARED)
def test_names_and_defaults_are_casas_own(task: str, casas_own: tuple[dict[str, dict[str, str]], list[str]]) -> None:
    ours: dict[str, Any] = signature(task).default_values()
    assert {name: repr(value) for name, value in ours.items()} == casas_own[0][task]


def test_every_task_of_casa_is_known(casas_own: tuple[dict[str, dict[str, str]], list[str]]) -> None:
    assert len(casas_own[1]) > 80
    # casalog is CASA's log and no task, though it looks like one.
    assert set(casas_own[1]) - {"casalog"} == task_names()


def test_a_tasks_own_defaults_are_accepted() -> None:
    for task in COMPARED:
        found = signature(task)
        # Names of files are empty by default, and CASA refuses that; everything else it accepts.
        found.check(found.default_values())


@pytest.mark.parametrize(
    ("task", "argument", "right", "wrong"),
    [
        ("tclean", "cell", ["5arcsec", ["5arcsec", "5arcsec"], 5.0, 5], []),
        ("tclean", "imsize", [256, [256, 300]], []),
        ("tclean", "scales", [[0, 5], 0], ["big", ["big"]]),
        ("tclean", "start", ["1440km/s", 3, {"m0": {}}], []),
        ("tclean", "gain", [0.1, 1], ["much", None, True]),
        ("gaincal", "gaintable", ["my.B", ["my.B", "my.F"]], [5, [5]]),
        ("gaincal", "solnorm", [True], ["yes", 0]),
        ("flagdata", "inpfile", ["flags.txt", ["antenna='1'"]], [5]),
        ("setjy", "fluxdensity", [-1, [1, 0, 0, 0]], [{"I": 1}]),
        ("listobs", "vis", ["my.ms"], [["my.ms"], Path("my.ms"), None]),
    ],
)
def test_types_are_checked_as_casa_does(task: str, argument: str, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        signature(task).check({argument: value})
    for value in wrong:
        with pytest.raises(BadInput, match=argument):
            signature(task).check({argument: value})


def test_reading_signatures_does_not_start_casa(tmp_path: Path) -> None:
    code = (
        "import sys; from surgeline.work.casasignature import signature; signature('tclean').default_values()\n"
        "assert not {'casatools', 'casatasks', 'casaconfig'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert list(tmp_path.iterdir()) == []
