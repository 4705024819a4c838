"""Cubes made in parts against one plain tclean of the same arguments: every pixel of every product is the same."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagechecks import by_tclean, in_this_process
from surgeline.imaging.cube import clean_cube
from surgeline.imaging.cubeparts import major_cycle, minor_cycle
from surgeline.simulate import Simulation, simulate
from surgeline.work.jobs import FunctionCall, Job
from surgeline.work.ownfolder import remove_left
from surgeline.work.procedure import drive

PRODUCTS = ("image", "image.pbcor", "residual", "model", "mask", "psf", "pb", "weight", "sumwt")
FIRST, SECOND = "1.ms", "2.ms"
AUTOMASK = {
    "usemask": "auto-multithresh",
    "sidelobethreshold": 0.7,
    "noisethreshold": 3.0,
    "lownoisethreshold": 1.5,
    "minbeamfrac": 0.1,
    "niter": 60,
    "cycleniter": 8,
}
# Beside what they say, all with the first of two MSs.
CASES: dict[str, dict[str, Any]] = {
    "one weighting for all channels of two MSs": {
        "perchanweightdensity": False,
        "uvtaper": ["3klambda"],
        "vis": [FIRST, SECOND],
    },
    "uniform weights, wide field": {
        "weighting": "uniform",
        "perchanweightdensity": False,
        "gridder": "wproject",
        "wprojplanes": 4,
        "pbcor": True,
    },
    "data frame, multiscale": {"specmode": "cubedata", "deconvolver": "multiscale", "scales": [0, 3]},
    "velocities, clark, nearest": {
        "start": "2200km/s",
        "width": "230km/s",
        "restfreq": "1.42040575GHz",
        "deconvolver": "clark",
        "interpolation": "nearest",
    },
    "barycentric frequencies, common beam, n-sigma": {
        "start": "1.40801GHz",
        "width": "1010kHz",
        "outframe": "BARY",
        "restoringbeam": "common",
        "nsigma": 2.0,
        "niter": 100,
        "cyclefactor": 0.5,
    },
    "cubic, mask by the primary beam, two polarizations": {
        "interpolation": "cubic",
        "usemask": "pb",
        "pbmask": 0.9,
        "stokes": "IV",
        "nchan": 9,
    },
    "region, beam of its own": {
        "mask": "circle[[16pix,16pix],6pix], range=[1.4085GHz,1.4105GHz]",
        "restoringbeam": ["120arcsec", "100arcsec", "10deg"],
        "stokes": "IV",
        "fullsummary": True,
    },
    "automask with slow noise, negative emission": {
        **AUTOMASK,
        "fastnoise": False,
        "negativethreshold": 3.0,
        "pbmask": 0.2,
        "dogrowprune": False,
    },
    "automask, n-sigma": {**AUTOMASK, "nsigma": 2.0, "threshold": "0mJy"},
}


@pytest.fixture(scope="module")
def sky(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What tclean is told of two small MSs with a line in them, unless a test says otherwise."""
    folder = tmp_path_factory.mktemp("sky")
    observed = []
    for seed, name in enumerate((FIRST, SECOND)):
        quiet = {"gain_amplitude_scatter": 0.0, "gain_phase_scatter_deg": 0.0, "bandpass_scatter": 0.0}
        simulation = Simulation(
            antennas=9, channels=20, noise_jy=0.05, integration_seconds=120, target_scans=1, seed=seed, **quiet
        )
        observed.append(str(folder / name))
        simulate(Path(observed[-1]), simulation)
    return {
        "vis": observed[0],
        "field": "TARGET",
        "datacolumn": "data",
        "specmode": "cube",
        "nchan": 5,
        "start": 9,
        "width": 1,
        "imsize": 32,
        "cell": "20arcsec",
        "pblimit": 0.1,
        "weighting": "briggs",
        "niter": 20,
        "threshold": "20mJy",
    }


def run_here(jobs: Sequence[Job]) -> list[Any]:
    return [in_this_process(job) for job in jobs]


def in_parts(arguments: dict[str, Any], parts: int, run: Callable[[Sequence[Job]], Sequence[Any]] = run_here) -> Any:
    return drive(clean_cube(arguments, parts), run, lambda jobs: None, lambda job: [])


def assert_same(folder: Path, one: str, other: str) -> None:
    from casatools import image

    found, differing = [], {}
    for product in PRODUCTS:
        paths = [folder / f"{stem}.{product}" for stem in (one, other)]
        assert paths[0].exists() == paths[1].exists(), product
        if not paths[0].exists():
            continue
        pixels = []
        for path in paths:
            tool = image()
            tool.open(str(path))
            pixels.append(np.where(tool.getchunk(getmask=True), tool.getchunk(), np.nan))
            tool.done()
        if not np.array_equal(*pixels, equal_nan=True):
            unequal = np.argwhere(~np.isclose(*pixels, rtol=0, atol=0, equal_nan=True))
            channels = sorted(set(unequal[:, 3].tolist()))
            largest = np.nanmax(np.abs(pixels[0] - pixels[1]))
            differing[product] = f"{len(unequal)} pixels of channels {channels} by at most {largest}"
        found.append(product)
    assert not differing
    assert {"image", "residual", "model", "mask", "psf", "pb"} <= set(found)
    assert np.any(pixels[0])


def assert_same_record(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Two records of tclean's tell the same, down to the iterations of each channel in each cycle."""
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert np.array_equal(found[name], value) if isinstance(value, np.ndarray) else found[name] == value, name


# With three there are parts with one neighbour and with two.
PARTS = {"one weighting for all channels of two MSs": (1, 2, 3), "automask, n-sigma": (2, 3)}


@pytest.mark.parametrize("case", CASES)
def test_every_pixel_is_that_of_one_tclean(case: str, sky: dict[str, Any], tmp_path: Path) -> None:
    arguments = {**sky, **CASES[case]}
    if not isinstance(arguments["vis"], str):
        arguments["vis"] = [str(Path(sky["vis"]).with_name(name)) for name in arguments["vis"]]
    record = by_tclean(arguments, tmp_path / "whole")
    for parts in PARTS.get(case, (3,)):
        cleaned = in_parts({**arguments, "imagename": str(tmp_path / f"in {parts}")}, parts)
        assert_same(tmp_path, "whole", f"in {parts}")
        assert_same_record(cleaned.record, record)
        assert cleaned.iterations > 0


def test_a_dirty_cube_is_that_of_one_tclean(sky: dict[str, Any], tmp_path: Path) -> None:
    arguments = {**sky, "niter": 0, "restoration": False, "imsize": 24}
    record = by_tclean(arguments, tmp_path / "whole")
    assert_same_record(in_parts({**arguments, "imagename": str(tmp_path / "parts")}, 2).record, record)
    for product in ("residual", "psf", "pb"):
        assert (tmp_path / f"parts.{product}").exists()
    assert not (tmp_path / "parts.image").exists()
    assert not (tmp_path / "parts.mask").exists()


_DIES = """
import os, pickle, sys
from pathlib import Path
from surgeline.work.casaprocess import CasaProcess
CasaProcess(Path.cwd(), Path("died.log")).prepare()
from surgeline.imaging import automask, cubeparts
module, function = sys.argv[2:]
def die(*arguments): os.kill(os.getpid(), 9)
setattr({"automask": automask, "cubeparts": cubeparts}[module], function, die)
pickle.loads(Path(sys.argv[1]).read_bytes()).run()
"""


def test_a_job_that_dies_in_a_cycle_is_done_again(sky: dict[str, Any], tmp_path: Path) -> None:
    arguments = {**sky, **AUTOMASK, "nchan": 4}
    by_tclean(arguments, tmp_path / "whole")
    # After what a cycle changes on disk is changed, and before its job has ended.
    moments = {minor_cycle: ("cubeparts", "leave_edges"), major_cycle: ("automask", "_keep")}
    died = []

    def run(jobs: Sequence[Job]) -> list[Any]:
        first = jobs[0]
        assert isinstance(first, FunctionCall)
        if moment := moments.get(first.function):
            (tmp_path / "job").write_bytes(pickle.dumps(first))
            ran = subprocess.run([sys.executable, "-c", _DIES, "job", *moment], cwd=tmp_path, env={**os.environ})
            died.append((first.function.__name__, ran.returncode))
            del moments[first.function]
        return run_here(jobs)

    in_parts({**arguments, "imagename": str(tmp_path / "parts")}, 2, run)
    assert died == [("minor_cycle", -signal.SIGKILL), ("major_cycle", -signal.SIGKILL)]
    assert_same(tmp_path, "whole", "parts")


_RUNS = """
import pickle
from pathlib import Path
from surgeline.work.casaprocess import CasaProcess
CasaProcess(Path.cwd(), Path("elsewhere.log")).prepare()
Path("value").write_bytes(pickle.dumps(pickle.loads(Path("job").read_bytes()).run()))
"""


def test_a_cycle_goes_on_in_another_process_than_the_one_that_keeps_its_images_open(
    sky: dict[str, Any], tmp_path: Path
) -> None:
    elsewhere = []

    def run(jobs: Sequence[Job]) -> list[Any]:
        first = jobs[0]
        assert isinstance(first, FunctionCall)
        if first.function is not minor_cycle or elsewhere:
            return run_here(jobs)
        elsewhere.append(first.arguments[1])
        (tmp_path / "job").write_bytes(pickle.dumps(first))
        # It would wait for ever for what is locked here.
        subprocess.run([sys.executable, "-c", _RUNS], cwd=tmp_path, timeout=120, check=True)
        return [pickle.loads((tmp_path / "value").read_bytes()), *run_here(jobs[1:])]

    arguments = {**sky, "imsize": 24, "cycleniter": 4}
    by_tclean(arguments, tmp_path / "whole")
    in_parts({**arguments, "imagename": str(tmp_path / "parts")}, 2, run)
    assert elsewhere == [1]
    assert_same(tmp_path, "whole", "parts")


def test_gridders_whose_temporary_files_were_taken_away_are_made_anew(
    sky: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Other tests that run beside this one have theirs in the current directory.
    monkeypatch.chdir(tmp_path)

    def run(jobs: Sequence[Job]) -> list[Any]:
        values = []
        for job in jobs:
            values.append(in_this_process(job))
            remove_left(Path.cwd())
        return values

    arguments = {**sky, "imsize": 24}
    in_parts({**arguments, "imagename": str(tmp_path / "kept")}, 1)
    in_parts({**arguments, "imagename": str(tmp_path / "anew")}, 1, run)
    assert_same(tmp_path, "kept", "anew")
