"""What imaging takes in memory, as told before and as measured, and how parts of cubes get smaller by it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from surgeline.imaging.cube import clean_cube, cut_into_parts
from surgeline.imaging.memory import (
    PROCESS,
    bytes_of_continuum,
    bytes_of_engine,
    bytes_of_one_job,
    bytes_of_part,
    bytes_of_rows_part,
    channels_that_fit,
    visibilities_that_fit,
)
from surgeline.imaging.onejob import clean_in_one_job
from surgeline.simulate import Simulation, simulate

# What tells measured cases apart.
_NAMING = ("specmode", "gridder", "deconvolver")


def cube(side: int, **other: Any) -> dict[str, Any]:
    return {"vis": "my.ms", "imagename": "my.cube", "nchan": 1000, "imsize": side, "niter": 10, **other}


def test_an_engine_holds_as_many_visibilities_as_fit_beside_the_image() -> None:
    arguments = {"vis": "my.ms", "imagename": "my.continuum", "imsize": 2048}
    for memory in (2_000_000_000, 64_000_000_000):
        fit = visibilities_that_fit(arguments, memory)
        assert 0.99 * memory < bytes_of_engine(arguments, fit) <= memory
    # Where not even the image fits, there is no endless number of parts.
    assert visibilities_that_fit({**arguments, "imsize": 32768}, 2_000_000_000) > 10**6


@pytest.mark.parametrize("other", [{}, {"gridder": "wproject"}, {"deconvolver": "multiscale", "scales": [0, 5, 15]}])
@pytest.mark.parametrize("memory", [2_000_000_000, 16_000_000_000])
def test_parts_fit_the_memory_of_a_worker_and_as_many_are_worked_on_as_there_are_workers(
    memory: int, other: dict[str, Any]
) -> None:
    for side in (64, 1024, 1500):
        parts = cut_into_parts(cube(side, **other), 4, memory)
        assert sum(part.channels for part in parts) == 1000
        assert len(parts) % 4 == 0
        assert all(bytes_of_part(part.arguments, part.gridded) <= memory for part in parts)
    assert len(cut_into_parts(cube(64, **other), 4, memory)) == 4


def test_where_nothing_fits_a_part_is_one_channel() -> None:
    arguments = cube(8000, nchan=12)
    assert channels_that_fit(arguments, 4_000_000_000) == 0
    assert [part.channels for part in cut_into_parts(arguments, 4, 4_000_000_000)] == [1] * 12


def test_more_of_anything_takes_more() -> None:
    plain = bytes_of_continuum({"imsize": 2000})
    larger: list[dict[str, Any]] = [
        {"imsize": [2000, 2500]},
        {"imsize": 2000, "stokes": "IV"},
        {"imsize": 2000, "gridder": "wproject", "wprojplanes": 32},
        {"imsize": 2000, "gridder": "mosaic"},
        {"imsize": 2000, "gridder": "awproject"},
        {"imsize": 2000, "deconvolver": "multiscale", "scales": [0, 5, 15]},
        {"imsize": 2000, "deconvolver": "mtmfs", "nterms": 2, "scales": []},
    ]
    for arguments in larger:
        assert bytes_of_continuum(arguments) > plain
        assert bytes_of_rows_part(arguments) <= bytes_of_continuum(arguments)
    terms = [bytes_of_continuum({"imsize": 2000, "deconvolver": "mtmfs", "nterms": nterms}) for nterms in (1, 2, 3)]
    assert terms == sorted(terms)
    assert bytes_of_one_job({"imsize": 2000}) == plain
    assert bytes_of_one_job({"imsize": 2000, "specmode": "cube", "nchan": 7}) == bytes_of_part({"imsize": 2000}, 7)


def test_jobs_say_what_they_take() -> None:
    parts = list(next(clean_cube(cube(1500), 4, memory=2_000_000_000)))
    assert len(parts) > 4
    assert all(PROCESS < (job.declared.memory or 0) <= 2_000_000_000 for job in parts)
    continuum = {"vis": "my.ms", "imagename": "my.continuum", "imsize": 1500}
    (job,) = next(clean_in_one_job(continuum))
    assert job.declared.memory == bytes_of_continuum(continuum)
    (job,) = next(clean_in_one_job(continuum, mpi=True))
    assert job.declared.memory is None


_MEASURED = """
import json, sys
from pathlib import Path
from surgeline.work.casaprocess import CasaProcess
CasaProcess(Path.cwd(), Path("casa.log")).prepare()
from surgeline.imaging.cube import clean_cube
from surgeline.imaging.onejob import clean_in_one_job
from surgeline.work.procedure import drive
arguments = {
    "vis": "my.ms", "field": "TARGET", "datacolumn": "data", "niter": 2, "cell": "8arcsec",
    **json.loads(sys.argv[1]),
}
procedure = clean_cube(arguments, 1) if "nchan" in arguments else clean_in_one_job(arguments)
told = []
def run(jobs):
    told.extend(job.declared.memory or 0 for job in jobs)
    return [job.run() for job in jobs]
drive(procedure, run, lambda jobs: None, lambda job: [])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024, max(told))
"""


@pytest.fixture(scope="module")
def measured_on(tmp_path_factory: pytest.TempPathFactory, casa: Path) -> Path:
    """A folder with an MS of a telescope whose beam is a function of the radius alone."""
    from casatools import table

    folder = tmp_path_factory.mktemp("memory")
    simulate(folder / "my.ms", Simulation(antennas=6, channels=20, integration_seconds=300, target_scans=1))
    with closing(table()) as tool:
        tool.open(str(folder / "my.ms" / "OBSERVATION"), nomodify=False)
        tool.putcol("TELESCOPE_NAME", ["EVLA"] * tool.nrows())
    return folder


@pytest.mark.parametrize(
    "arguments",
    [
        {"specmode": "cube", "nchan": 4, "start": 9, "imsize": 900},
        {"imsize": 900},
        {"imsize": 900, "deconvolver": "multiscale", "scales": [0, 5, 15]},
        {"imsize": 900, "deconvolver": "mtmfs", "nterms": 2, "scales": [0, 5]},
        {"imsize": 900, "gridder": "wproject", "wprojplanes": 32},
        {"imsize": 900, "gridder": "mosaic"},
    ],
    ids=lambda arguments: "-".join(str(arguments[name]) for name in arguments if name in _NAMING),
)
def test_what_is_told_is_what_it_takes_or_a_little_more(
    tmp_path: Path, measured_on: Path, arguments: dict[str, Any]
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _MEASURED, json.dumps({**arguments, "imagename": str(tmp_path / "image")})],
        cwd=measured_on,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    took, told = map(int, ran.stdout.split()[-2:])
    assert took < told < 1.6 * took
