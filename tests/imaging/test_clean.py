"""One call in place of tclean's, as a script makes it: the same parameters, products and record."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgeline import open_backend
from surgeline.config import load
from surgeline.errors import BadInput
from surgeline.imaging import clean, ways
from surgeline.simulate import Simulation, simulate
from surgeline.work.epochs import forget_epochs
from surgeline.work.procedure import drive
from surgeline.work.taskqueue import Backend

CONTINUUM = {"field": "TARGET", "datacolumn": "data", "imsize": 48, "cell": "20arcsec", "niter": 30, "cycleniter": 12}
CUBE = {**CONTINUUM, "specmode": "cube", "nchan": 6, "start": 8, "width": 1}


@pytest.fixture(scope="module")
def vis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("observation") / "my.ms"
    simulate(path, Simulation(antennas=8, channels=20, integration_seconds=120, target_scans=1))
    return path


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    """This process alone, in which jobs run one after the other."""
    folder = tmp_path_factory.mktemp("serial")
    backend = open_backend(load(overrides=("backend=serial",), environment={}, home=folder), folder=folder)
    yield backend
    backend.close()


def pixels(path: Path) -> Any:
    from casatools import image

    with closing(image()) as tool:
        tool.open(str(path))
        return tool.getchunk()


# As people write them: nothing guards it from being run again by processes that import it.
SCRIPT = """
import json, sys
from surgeline.imaging import clean
record = clean(vis=sys.argv[1], imagename="images/my", workers=2, **json.loads(sys.argv[2]))
print(json.dumps({name: record[name] for name in ("stopcode", "stopDescription", "iterdone", "nmajordone")}))
"""


@pytest.mark.parametrize(("arguments", "allowed"), [(CUBE, 0), ({**CONTINUUM, "parallel": "rows"}, 1e-3)])
def test_a_script_needs_one_call_and_gets_tcleans_image_and_record(
    arguments: dict[str, Any], allowed: float, vis: Path, casa: Path, tmp_path: Path
) -> None:
    from casatasks import tclean

    (tmp_path / "image.py").write_text(SCRIPT)
    command = [sys.executable, "image.py", str(vis), json.dumps(arguments)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"image.py", "images", "logs"}
    forget_epochs()
    own = {name: value for name, value in arguments.items() if name != "parallel"}
    wanted = tclean(vis=str(vis), imagename=str(tmp_path / "one"), **own)
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told == {name: wanted[name] for name in told}
    for product in ("image", "residual", "model", "psf", "pb", "mask", "sumwt"):
        found, one = pixels(tmp_path / "images" / f"my.{product}"), pixels(tmp_path / f"one.{product}")
        assert np.abs(found - one).max() <= allowed * np.abs(one).max(), product


@pytest.mark.parametrize("way", ["rows", "serial"])
def test_a_continuum_by_rows_or_by_one_job_is_tcleans(
    way: ways.Way, vis: Path, casa: Path, tmp_path: Path, serial: Backend
) -> None:
    from casatasks import tclean

    found = clean(str(vis), str(tmp_path / "found"), parallel=way, backend=serial, **CONTINUUM)
    forget_epochs()
    wanted = tclean(vis=str(vis), imagename=str(tmp_path / "one"), **CONTINUUM)
    assert set(found) == set(wanted)
    assert {name: found[name] for name in ("stopcode", "iterdone", "nmajordone", "niter")} == {
        name: wanted[name] for name in ("stopcode", "iterdone", "nmajordone", "niter")
    }
    assert list(found["summarymajor"]) == list(wanted["summarymajor"])
    one, other = pixels(tmp_path / "found.image"), pixels(tmp_path / "one.image")
    assert np.abs(one - other).max() <= (1e-3 if way == "rows" else 0) * np.abs(other).max()


@pytest.mark.parametrize(
    ("arguments", "cores", "way"),
    [
        (CUBE, 1, "channels"),
        (CUBE, 4, "channels"),
        ({**CUBE, "gridder": "mosaic"}, 1, "serial"),
        ({**CUBE, "gridder": "mosaic"}, 4, "mpi"),
        ({**CUBE, "deconvolver": "mtmfs"}, 1, "serial"),
        (CONTINUUM, 1, "rows"),
        ({**CONTINUUM, "gridder": "awproject"}, 1, "serial"),
        ({**CONTINUUM, "gridder": "awproject"}, 4, "mpi"),
        ({**CONTINUUM, "field": "0"}, 4, "serial"),
    ],
)
def test_the_way_follows_from_what_is_to_be_made(
    arguments: dict[str, Any],
    cores: int,
    way: ways.Way,
    vis: Path,
    casa: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The target has two integrations, field 0 one.
    monkeypatch.setattr(ways, "WORTH_CUTTING", 2000)
    asked = {"vis": str(vis), "imagename": "my.image", **arguments}
    chosen = drive(
        ways.choose(asked, 2, "auto", cores),
        lambda jobs: [job.run() for job in jobs],
        lambda jobs: None,
        lambda job: [],
    )
    assert chosen.way == way
    assert chosen.reason


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"imsiz": 48}, "imsize"),
        ({"niter": "many"}, "niter"),
        ({"parallel": "columns"}, "columns"),
        ({"interactive": True}, "interactive"),
        ({"calcpsf": False}, "calcpsf"),
        ({"restart": False}, "restart"),
        ({"parallel": "rows", "specmode": "cube"}, "specmode"),
        ({"parallel": "rows", "gridder": "awproject"}, "gridder"),
        ({"parallel": "channels", "specmode": "mfs"}, "nchan"),
        ({"vis": "no.ms"}, "no.ms"),
    ],
)
def test_what_cannot_be_honoured_is_refused_before_any_work_starts(
    arguments: dict[str, Any], named: str, vis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput) as refused:
        clean(**{"vis": str(vis), "imagename": "my.image", **arguments})
    assert named in f"{refused.value} {refused.value.way_out}"
    assert refused.value.way_out
    assert not list(tmp_path.iterdir())


def test_an_image_named_as_its_data_are_leaves_them_and_takes_the_place_of_any_earlier_one(
    vis: Path, casa: Path, tmp_path: Path, serial: Backend
) -> None:
    copy = tmp_path / "my.ms"
    shutil.copytree(vis, copy)
    own = {"vis": str(copy), "imagename": str(tmp_path / "my"), "backend": serial}
    ways_in_turn: tuple[ways.Way, ...] = ("channels", "serial", "channels")
    found = []
    for way in ways_in_turn:
        clean(**own, parallel=way, **CUBE)
        found.append(pixels(tmp_path / "my.image"))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    clean(**own, parallel="serial", pbcor=True, **CONTINUUM)
    assert (tmp_path / "my.image.pbcor").is_dir()
    clean(**own, parallel="rows", **CONTINUUM)
    assert not (tmp_path / "my.image.pbcor").exists()
    assert (copy / "table.dat").exists()


def test_an_image_that_no_worker_has_the_memory_for_is_refused(vis: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(vis), json.dumps({**CONTINUUM, "imsize": 60000})]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode
    assert re.search(r"estimated to take \d+\.\d GB of memory, and each worker has \d+\.\d GB", ran.stderr)
