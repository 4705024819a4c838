"""Continua gridded by an engine on a CPU, against direct Fourier sums and against one tclean of the same data."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from numpy.typing import NDArray

from imagechecks import (
    by_rows,
    by_tclean,
    in_this_process,
    pixels,
    plain_numbers,
    products,
    run_then_die_once,
    two_workers,
)
from surgeline import FunctionCall, TaskQueue
from surgeline.errors import BadInput, DataError, JobFailed
from surgeline.imaging import clean
from surgeline.imaging.continuum import clean_by_rows
from surgeline.imaging.gpu.engines import Gridding
from surgeline.imaging.gpu.visibilities import see, windows
from surgeline.imaging.keptimagers import forget
from surgeline.imaging.rowcut import cut_rows
from surgeline.imaging.rowimages import continuum_parameters
from surgeline.imaging.synthesis import opened
from surgeline.imaging.ways import clean_image
from surgeline.work.jobs import Job
from surgeline.work.procedure import drive
from surgeline.work.taskqueue import Backend

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

CPU = Gridding("cpu")
LIGHT_SPEED = 299792458.0
NO_ERRORS: dict[str, Any] = {"gain_amplitude_scatter": 0.0, "gain_phase_scatter_deg": 0.0, "bandpass_scatter": 0.0}


@pytest.fixture(scope="module")
def vis(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from surgeline.simulate import Simulation, simulate

    path = tmp_path_factory.mktemp("observation") / "simulated.ms"
    simulate(path, Simulation(antennas=10, channels=4, target_scans=1, configuration="C", seed=5, **NO_ERRORS))
    return path


@pytest.fixture(scope="module")
def quasar(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """3C273 with the VLA: four correlations, each with weights and flags of its own."""
    import casadata
    from casatasks import importuvfits
    from casatools import table

    vis = str(tmp_path_factory.mktemp("3c273") / "3c273.ms")
    importuvfits(fitsfile=f"{casadata.datapath}/demo/3C273XC1.fits", vis=vis)
    with closing(table()) as tool:
        tool.open(vis, nomodify=False)
        tool.removecols(["WEIGHT_SPECTRUM"])
        flags, weights = tool.getcol("FLAG"), tool.getcol("WEIGHT")
        for hand, step in enumerate((7, 5, 8, 9)):
            flags[hand, :, hand::step] = True
            weights[hand] = 1 + (np.arange(weights.shape[1]) * (hand + 1)) % 5
        tool.putcol("FLAG", flags)
        tool.putcol("WEIGHT", weights)
    return vis


@pytest.fixture(scope="module")
def galaxy(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """NGC 5921 with the VLA: a line of 63 channels, and what antennas have with themselves."""
    import casadata
    from casatasks import importuvfits

    vis = str(tmp_path_factory.mktemp("ngc5921") / "ngc5921.ms")
    importuvfits(fitsfile=f"{casadata.datapath}/demo/NGC5921.fits", vis=vis)
    return vis


@pytest.fixture
def arguments(vis: Path) -> dict[str, Any]:
    return {
        "vis": str(vis),
        "field": "2",
        "datacolumn": "data",
        "imsize": 64,
        "cell": "5arcsec",
        "specmode": "mfs",
        "weighting": "briggs",
        "robust": 0.5,
    }


def plane(path: Path, stokes: int = 0) -> NDArray[Any]:
    found: NDArray[Any] = pixels(path)[:, :, stokes, 0]
    return found


def peak_of(image: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """The value and the place of the highest point, by parabolas through the pixels around the highest pixel."""
    at = np.unravel_index(np.argmax(image), image.shape)
    place = []
    for axis in (0, 1):
        before, here, after = (
            image[tuple(int(one) + (step if other == axis else 0) for other, one in enumerate(at))]
            for step in (-1, 0, 1)
        )
        place.append(at[axis] + 0.5 * (before - after) / (before - 2 * here + after))
    return float(image[at]), np.array(place)


def rms_of(image: NDArray[Any]) -> float:
    return float(1.4826 * np.median(np.abs(image - np.median(image))))


def beam_of(path: Path) -> NDArray[Any]:
    with opened(path) as tool:
        beam = tool.restoringbeam(channel=0, polarization=0)
    return np.array([beam["major"]["value"], beam["minor"]["value"]])


def assert_agree(stem: Path, reference: Path, stokes: int = 0) -> None:
    """Flux, position, noise and beam are tclean's, whose gridding has errors of its own towards the image's edges."""
    found, wanted = (plane(Path(f"{one}.image"), stokes) for one in (stem, reference))
    (flux, place), (its_flux, its_place) = peak_of(found), peak_of(wanted)
    assert flux == pytest.approx(its_flux, rel=1e-3)
    assert np.abs(place - its_place).max() < 0.05
    assert rms_of(found) == pytest.approx(rms_of(wanted), rel=1e-2)
    inner = tuple(slice(side // 4, 3 * side // 4) for side in wanted.shape)
    assert np.abs(found - wanted)[inner].max() < 1e-3 * its_flux
    assert np.abs(found - wanted).max() < 6e-3 * its_flux
    beams = [beam_of(Path(f"{one}.image")) for one in (stem, reference)]
    assert beams[0] == pytest.approx(beams[1], rel=1e-3)


def direct_sum(arguments: dict[str, Any], like: Path, w_term: bool, psf: bool = False) -> NDArray[Any]:
    """The naturally weighted image of the simulated target by its definition: the direction of each of the pixels of
    an image, the baselines from the MS, and a sum over all visibilities."""
    from casatools import measures, table

    with closing(table()) as tool:
        tool.open(arguments["vis"])
        rows = np.flatnonzero(tool.getcol("FIELD_ID") == int(arguments["field"]))
        uvw, data, time = (tool.getcol(name)[..., rows] for name in ("UVW", "DATA", "TIME"))
        tool.open(f"{arguments['vis']}/SPECTRAL_WINDOW")
        frequency = tool.getcell("CHAN_FREQ", 0)
        tool.open(f"{arguments['vis']}/FIELD")
        (longitude,), (latitude,) = tool.getcell("PHASE_DIR", int(arguments["field"]))
    with opened(like) as tool:
        system = tool.coordsys()
        system.setconversiontype("J2000")
        shape = tool.shape()[:2]
        places = np.indices(shape).reshape(2, -1)
        world = system.toworldmany(np.vstack([places, np.zeros_like(places)]).astype(float))["numeric"]
    sky = measures()
    sky.doframe(sky.observatory("VLA"))
    sky.doframe(sky.epoch("UTC", {"value": float(time.mean()), "unit": "s"}))
    sky.doframe(sky.direction("J2000", {"value": longitude, "unit": "rad"}, {"value": latitude, "unit": "rad"}))
    as_seen = sky.measure(sky.frequency("TOPO", "1GHz"), "LSRK")["m0"]["value"] / 1e9
    sky.done()
    east, north = world[0] - longitude, world[1]
    directions = np.array([
        np.cos(north) * np.sin(east),
        np.sin(north) * np.cos(latitude) - np.cos(north) * np.sin(latitude) * np.cos(east),
        np.sin(north) * np.sin(latitude) + np.cos(north) * np.cos(latitude) * np.cos(east) - 1,
    ])  # fmt: skip
    if psf:
        # Of a source at the image's centre.
        directions -= directions[:, [np.ravel_multi_index(np.array(shape) // 2, shape)]]
    visibilities = np.ones(data.shape[1:]) if psf else data.mean(axis=0)
    total = np.zeros(places.shape[1])
    for channel, values in zip(frequency * as_seen / LIGHT_SPEED, visibilities, strict=True):
        path = uvw[0][:, None] * directions[0] + uvw[1][:, None] * directions[1]
        if w_term:
            path += uvw[2][:, None] * directions[2]
        total += (values[:, None] * np.exp(-2j * math.pi * channel * path)).real.sum(axis=0)
    found: NDArray[Any] = (total / visibilities.size).reshape(shape)
    return found


@pytest.mark.parametrize(
    ("gridder", "phasecenter"),
    [
        ("standard", ""),
        ("wproject", ""),
        ("wproject", "J2000 14h20m20 +20d06m00"),
        ("wproject", "ICRS 14h19m50 +19d56m00"),
    ],
)
def test_psf_and_dirty_image_are_direct_sums(
    arguments: dict[str, Any], tmp_path: Path, gridder: str, phasecenter: str
) -> None:
    arguments |= {"weighting": "natural", "gridder": gridder, "phasecenter": phasecenter, "imsize": [48, 40]}
    by_rows({**arguments, "niter": 0, "imagename": str(tmp_path / "image")}, 2, gridding=CPU)
    w_term = gridder != "standard"
    wanted = direct_sum(arguments, tmp_path / "image.residual", w_term)
    assert np.abs(plane(tmp_path / "image.residual") - wanted).max() < 1e-5 * np.abs(wanted).max()
    psf = direct_sum(arguments, tmp_path / "image.residual", w_term, psf=True)
    assert np.abs(plane(tmp_path / "image.psf") - psf).max() < 1e-5
    assert plane(tmp_path / "image.psf").max() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("weighting", ["natural", "uniform", "briggs"])
def test_weights_are_those_of_tclean(arguments: dict[str, Any], tmp_path: Path, weighting: str) -> None:
    arguments |= {"weighting": weighting, "niter": 0}
    record = by_tclean(arguments, tmp_path / "one")
    for parts in (1, 3):
        stem = tmp_path / f"rows{parts}"
        assert plain_numbers(by_rows({**arguments, "imagename": str(stem)}, parts, gridding=CPU)) == plain_numbers(
            record
        )
        assert set(products(stem)) == set(products(tmp_path / "one"))
        sums = [float(pixels(Path(f"{one}.sumwt")).sum()) for one in (stem, tmp_path / "one")]
        assert sums[0] == pytest.approx(sums[1], rel=1e-5)
        assert np.abs(plane(Path(f"{stem}.psf")) - plane(tmp_path / "one.psf")).max() < 3e-3
        assert_agree(stem, tmp_path / "one")


@pytest.mark.parametrize("cell", ["20arcsec", "26arcsec"])
def test_what_is_too_fine_for_the_pixels_is_left_out_as_tclean_does(
    arguments: dict[str, Any], tmp_path: Path, cell: str
) -> None:
    arguments |= {"cell": cell, "imsize": [64, 100], "weighting": "natural", "niter": 0}
    by_rows({**arguments, "imagename": str(tmp_path / "rows")}, 2, gridding=CPU)
    by_tclean(arguments, tmp_path / "one")
    sums = [float(pixels(tmp_path / f"{stem}.sumwt").sum()) for stem in ("rows", "one")]
    assert sums[0] == pytest.approx(sums[1], rel=1e-3)
    # 1350 rows, 4 channels, 2 hands, each of which weighs 100.
    assert sums[0] < 0.9 * 1350 * 4 * 2 * 100


KINDS: dict[str, dict[str, Any]] = {
    "hogbom": {"niter": 60, "nmajor": 2, "pbcor": True},
    "clark": {"niter": 400, "deconvolver": "clark", "threshold": "40mJy", "mask": "box[[16pix,16pix],[48pix,48pix]]"},
    "multiscale": {"niter": 40, "nmajor": 2, "deconvolver": "multiscale", "scales": [0, 4]},
    "automatic": {"niter": 300, "usemask": "auto-multithresh", "cycleniter": 30, "nmajor": 3,
                  "sidelobethreshold": 0.5, "noisethreshold": 3.0, "minbeamfrac": 0.0},
    "nsigma": {"niter": 200, "nsigma": 5.0, "phasecenter": "J2000 14h20m02 +20d01m00", "nmajor": 3},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_cleaned_image_agrees_with_tclean(arguments: dict[str, Any], tmp_path: Path, kind: str) -> None:
    arguments |= KINDS[kind]
    record = by_rows({**arguments, "imagename": str(tmp_path / "rows")}, 2, gridding=CPU)
    wanted = by_tclean(arguments, tmp_path / "one")
    assert plain_numbers(record) == plain_numbers(wanted)
    assert record["nmajordone"] > 1
    assert set(products(tmp_path / "rows")) == set(products(tmp_path / "one"))
    assert_agree(tmp_path / "rows", tmp_path / "one")


def test_taylor_terms_agree_with_tclean(arguments: dict[str, Any], tmp_path: Path) -> None:
    arguments |= {"niter": 40, "deconvolver": "mtmfs", "nterms": 2, "nmajor": 2}
    by_rows({**arguments, "imagename": str(tmp_path / "rows")}, 2, gridding=CPU)
    by_tclean(arguments, tmp_path / "one")
    assert set(products(tmp_path / "rows")) == set(products(tmp_path / "one"))
    for kind in ("psf.tt0", "psf.tt2", "residual.tt0", "residual.tt1", "image.tt0"):
        found, wanted = (plane(tmp_path / f"{stem}.{kind}") for stem in ("rows", "one"))
        assert np.abs(found - wanted)[16:48, 16:48].max() < 2e-3 * np.abs(wanted).max(), kind


def test_several_mss_fields_and_windows_agree_with_tclean(vis: Path, tmp_path: Path) -> None:
    from surgeline.simulate import Simulation, simulate

    other = tmp_path / "pointings.ms"
    observed = Simulation(antennas=8, spectral_windows=2, channels=3, pointings=2, start_frequency_hz=1.42e9,
                          target_scans=1, seed=8, **NO_ERRORS)  # fmt: skip
    simulate(other, observed)
    arguments = {"vis": [str(vis), str(other)], "field": ["2", "2,3"], "spw": ["0:1~3", "0,1:0~1"], "uvrange": ">60m",
                 "phasecenter": "J2000 14h20m00 +20d02m00", "datacolumn": "data", "imsize": 64, "cell": "8arcsec",
                 "weighting": "briggs", "niter": 20, "nmajor": 1, "pblimit": -0.1}  # fmt: skip
    by_rows({**arguments, "imagename": str(tmp_path / "rows")}, 2, gridding=CPU)
    by_tclean(arguments, tmp_path / "one")
    sums = [float(pixels(tmp_path / f"{stem}.sumwt").sum()) for stem in ("rows", "one")]
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)
    assert_agree(tmp_path / "rows", tmp_path / "one")


def test_a_start_model_is_subtracted(arguments: dict[str, Any], tmp_path: Path) -> None:
    by_tclean({**arguments, "niter": 60, "nmajor": 2}, tmp_path / "start")
    own = {**arguments, "niter": 20, "nmajor": 1, "startmodel": str(tmp_path / "start.model")}
    by_rows({**own, "imagename": str(tmp_path / "rows")}, 2, gridding=CPU)
    by_tclean(own, tmp_path / "one")
    assert_agree(tmp_path / "rows", tmp_path / "one")
    assert np.abs(plane(tmp_path / "rows.residual")).max() < 0.6 * plane(tmp_path / "start.image").max()


@pytest.mark.parametrize("stokes", ["I", "Q", "IV", "IQUV"])
def test_stokes_parameters_of_circular_hands_with_flags_and_weights_of_their_own(
    quasar: str, tmp_path: Path, stokes: str
) -> None:
    arguments = {"vis": quasar, "datacolumn": "data", "imsize": 128, "cell": "0.3arcsec", "stokes": stokes,
                 "weighting": "briggs", "niter": 0}  # fmt: skip
    by_rows({**arguments, "imagename": str(tmp_path / "rows")}, 2, gridding=CPU)
    by_tclean(arguments, tmp_path / "one")
    sums = [pixels(tmp_path / f"{stem}.sumwt") for stem in ("rows", "one")]
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)
    found, wanted = (pixels(tmp_path / f"{stem}.residual") for stem in ("rows", "one"))
    assert found.shape == wanted.shape
    for number in range(len(stokes)):
        ours, its = found[:, :, number, 0], wanted[:, :, number, 0]
        assert np.abs(ours - its)[32:96, 32:96].max() < 1e-3 * np.abs(its).max(), stokes[number]


def test_stokes_parameters_of_linear_hands(arguments: dict[str, Any], tmp_path: Path) -> None:
    """The same data, their two hands called otherwise: Q is what V was."""
    from casatools import table

    copy = tmp_path / "linear.ms"
    shutil.copytree(arguments["vis"], copy)
    with closing(table()) as tool:
        tool.open(str(copy), nomodify=False)
        data = tool.getcol("DATA")
        data[1] *= 0.5
        tool.putcol("DATA", data)
        tool.open(str(copy / "POLARIZATION"), nomodify=False)
        tool.putcol("CORR_TYPE", np.array([[9], [12]]))
        tool.open(str(copy / "FEED"), nomodify=False)
        tool.putcol("POLARIZATION_TYPE", np.array([["X"], ["Y"]] * 1).repeat(tool.nrows(), axis=1))
    arguments |= {"vis": str(copy), "stokes": "IQ", "niter": 0}
    by_rows({**arguments, "imagename": str(tmp_path / "rows")}, 2, gridding=CPU)
    by_tclean(arguments, tmp_path / "one")
    for number in (0, 1):
        found, wanted = (plane(tmp_path / f"{stem}.residual", number) for stem in ("rows", "one"))
        assert np.abs(found - wanted)[16:48, 16:48].max() < 1e-3 * np.abs(wanted).max()
    assert plane(tmp_path / "rows.residual", 1).max() == pytest.approx(
        plane(tmp_path / "rows.residual").max() / 3, rel=0.05
    )


def test_a_stokes_parameter_that_the_correlations_do_not_give_is_told(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="RR, LL; Stokes Q needs RL, LR"):
        by_rows({**arguments, "stokes": "IQU", "imagename": str(tmp_path / "image")}, 1, gridding=CPU)


def test_a_real_galaxy_in_the_frame_of_the_sun(galaxy: str, tmp_path: Path) -> None:
    arguments = {"vis": galaxy, "field": "2", "spw": "0:5~60", "datacolumn": "data", "imsize": 128,
                 "cell": "15arcsec", "weighting": "briggs", "niter": 20, "nmajor": 1, "stokes": "IV"}  # fmt: skip
    by_rows({**arguments, "imagename": str(tmp_path / "rows")}, 2, gridding=CPU)
    by_tclean(arguments, tmp_path / "one")
    assert_agree(tmp_path / "rows", tmp_path / "one")


@pytest.mark.parametrize("gridder", ["wproject", "standard"])
def test_a_source_far_off_has_its_flux_and_position_where_w_is_accounted_for(
    vis: Path, tmp_path: Path, gridder: str
) -> None:
    from casatools import table

    copy = tmp_path / "far.ms"
    shutil.copytree(vis, copy)
    arguments = {"vis": str(copy), "field": "2", "spw": "0:1", "datacolumn": "data", "imsize": 640,
                 "cell": "8arcsec", "gridder": gridder, "wprojplanes": 1, "weighting": "natural", "niter": 0,
                 "pblimit": -0.1, "imagename": str(tmp_path / "image")}  # fmt: skip
    (part,) = cut_rows(arguments, 1, "run")
    (window,) = windows([(continuum_parameters(arguments).getSelPars()["ms0"], part.rows[0][1])])
    seen = see(window, part.coordinates[0], {})
    cell = math.radians(8 / 3600)
    east, north = 220 * cell, -150 * cell
    below = math.sqrt(1 - east**2 - north**2) - 1
    with closing(table()) as tool:
        tool.open(str(copy), nomodify=False)
        chosen = tool.selectrows(window.rows)
        u, v, w = chosen.getcol("UVW") * seen.stretch
        data = chosen.getcol("DATA")
        data[:, 1] = np.exp(2j * math.pi * window.frequency[0] / LIGHT_SPEED * (u * east + v * north + w * below))
        chosen.putcol("DATA", data)
        chosen.close()
    by_rows(arguments, 2, gridding=CPU)
    image = plane(tmp_path / "image.residual")
    flux, place = peak_of(image)
    if gridder == "wproject":
        assert flux == pytest.approx(1, abs=1e-5)
        assert np.abs(place - [320 - 220, 320 - 150]).max() < 0.05
    else:
        assert image[320 - 220, 320 - 150] < 0.95


def test_fits_has_the_headers_of_the_image(arguments: dict[str, Any], tmp_path: Path) -> None:
    from astropy.io import fits
    from astropy.wcs import WCS
    from casatasks import exportfits

    by_rows({**arguments, "niter": 60, "imagename": str(tmp_path / "rows")}, 2, gridding=CPU)
    by_tclean({**arguments, "niter": 60}, tmp_path / "one")
    headers = []
    for stem in ("rows", "one"):
        exportfits(imagename=str(tmp_path / f"{stem}.image"), fitsimage=str(tmp_path / f"{stem}.fits"))
        headers.append(fits.getheader(tmp_path / f"{stem}.fits"))
    found, wanted = headers
    # When and by what it was written, how much memory there was, and the beam, which is compared below.
    left_out = {"DATE", "ORIGIN", "HISTORY", "COMMENT", "", "MEMAVAIL", "MEMREQ", "BMAJ", "BMIN", "BPA"}
    assert {key: found[key] for key in set(found) - left_out} == {key: wanted[key] for key in set(wanted) - left_out}
    assert (found["BUNIT"], found["OBJECT"], found["TELESCOP"]) == ("Jy/beam", "TARGET", "VLA")
    assert found["BMAJ"] == pytest.approx(wanted["BMAJ"], rel=1e-3)
    assert found["CTYPE3"] == "FREQ"
    assert found["CRVAL3"] == pytest.approx(1.4015e9, rel=1e-4)
    # The brightest source stands where the truth has it.
    data = fits.getdata(tmp_path / "rows.fits")[0, 0].T
    _, place = peak_of(data)
    expected = WCS(found).celestial.world_to_pixel_values(*brightest_point(Path(f"{arguments['vis']}.truth.json")))
    assert np.abs(place - expected).max() < 0.05


def brightest_point(truth: Path) -> tuple[float, float]:
    """Right ascension and declination in degrees of the brightest point of a simulated target."""
    (target,) = (one for one in json.loads(truth.read_text())["fields"] if one["role"] == "target")
    point = next(one for one in target["components"] if one["name"] == "north-east")
    east, north = (math.radians(point[f"{axis}_arcsec"] / 3600) for axis in "lm")
    height = math.radians(target["declination_deg"])
    outward = math.sqrt(1 - east**2 - north**2)
    turn = math.atan2(east, outward * math.cos(height) - north * math.sin(height))
    declination = math.asin(north * math.cos(height) + outward * math.sin(height))
    return target["right_ascension_deg"] + math.degrees(turn), math.degrees(declination)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    with two_workers(tmp_path_factory.mktemp("workers")) as backend:
        yield backend


def test_a_worker_that_dies_in_a_major_cycle_changes_nothing(
    workers: Backend, arguments: dict[str, Any], tmp_path: Path
) -> None:
    marker = tmp_path / "died"

    def deadly(job: Job) -> Job:
        if not job.declared.name.startswith("major cycle 1"):
            return job
        return FunctionCall(run_then_die_once, job, marker).declare(
            name=job.declared.name, reads=job.declared.reads, keeps=job.declared.keeps
        )

    def run_batch(jobs: Sequence[Job]) -> list[Any]:
        with TaskQueue(workers) as queue:
            for job in jobs:
                queue.add(deadly(job))
            return [outcome.result() for outcome in queue.get_results()]

    arguments |= {"niter": 90, "nmajor": 3}
    procedure = clean_by_rows({**arguments, "imagename": str(tmp_path / "survived")}, 2, gridding=CPU)
    record = drive(procedure, run_batch, lambda jobs: None, lambda job: []).record
    assert marker.exists()
    unharmed = by_rows({**arguments, "imagename": str(tmp_path / "unharmed")}, 2, gridding=CPU)
    assert plain_numbers(record) == plain_numbers(unharmed)
    found = products(tmp_path / "survived")
    for ending, path in products(tmp_path / "unharmed").items():
        assert np.array_equal(pixels(path), pixels(found[ending])), ending


def test_a_gridder_that_is_kept_makes_the_same_as_one_that_is_made_again(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    def forgetful(job: Job) -> Any:
        forget()
        return in_this_process(job)

    arguments |= {"niter": 60, "nmajor": 2}
    by_rows({**arguments, "imagename": str(tmp_path / "kept")}, 1, gridding=CPU)
    by_rows({**arguments, "imagename": str(tmp_path / "lost")}, 1, forgetful, CPU)
    for ending, path in products(tmp_path / "kept").items():
        assert np.array_equal(pixels(path), pixels(products(tmp_path / "lost")[ending])), ending


def test_there_are_as_many_parts_as_it_takes_for_each_to_fit_a_worker(
    arguments: dict[str, Any], tmp_path: Path
) -> None:
    arguments["imagename"] = str(tmp_path / "image")
    (whole,) = cut_rows(arguments, 1, "run")
    parts = cut_rows(arguments, 1, "run", fit=whole.visibilities // 3 + 1)
    assert len(parts) == 3
    assert sum(part.visibilities for part in parts) == pytest.approx(whole.visibilities, abs=3)


def one_after_the_other(jobs: Sequence[Job]) -> list[Any]:
    return [in_this_process(job) for job in jobs]


def image(
    arguments: dict[str, Any], gridding: Gridding, gpus: int | None, run: Callable[..., Any] = one_after_the_other
) -> Any:
    procedure = clean_image(arguments, 2, gridding=gridding, gpus=gpus)
    return drive(procedure, run, lambda jobs: None, lambda job: [])[0]


def test_without_a_gpu_it_is_refused_unless_the_cpu_may_do_it(arguments: dict[str, Any], tmp_path: Path) -> None:
    arguments |= {"niter": 0, "imagename": str(tmp_path / "image")}

    def never(jobs: Sequence[Job]) -> list[Any]:
        raise AssertionError("no job is to begin")

    with pytest.raises(JobFailed, match="no worker has a GPU") as caught:
        image(arguments, Gridding("gpu"), 0, never)
    assert "otherwise" in caught.value.way_out
    cleaned = image(arguments, Gridding("gpu", otherwise="cpu"), 0)
    assert (cleaned.gridding.engine, cleaned.gridding.reason) == ("cpu", "no worker has a GPU")
    assert (tmp_path / "image.residual").is_dir()


def test_where_a_job_finds_no_gpu_the_cpu_takes_over_if_it_may(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    arguments |= {"niter": 20, "nmajor": 1}
    asked: list[tuple[str, int]] = []

    def watched(jobs: Sequence[Job]) -> list[Any]:
        asked.extend((job.declared.name, job.declared.resources.gpus) for job in jobs)
        return one_after_the_other(jobs)

    with pytest.raises(JobFailed, match="GPU"):
        image({**arguments, "imagename": str(tmp_path / "refused")}, Gridding("gpu"), 1)
    gridding = Gridding("gpu", otherwise="cpu")
    cleaned = image({**arguments, "imagename": str(tmp_path / "taken")}, gridding, 1, watched)
    assert cleaned.gridding.engine == "cpu"
    assert "GPU" in cleaned.gridding.reason
    # One GPU has one part; what has been taken over asks for none any more.
    assert [gpus for name, gpus in asked if name.startswith("PSF")] == [1]
    assert [gpus for name, gpus in asked if name.startswith("major cycle")] == [0, 0]
    by_rows({**arguments, "imagename": str(tmp_path / "cpu")}, 1, gridding=CPU)
    assert np.array_equal(plane(tmp_path / "taken.image"), plane(tmp_path / "cpu.image"))


def test_one_call_says_what_gridded(arguments: dict[str, Any], tmp_path: Path, workers: Backend) -> None:
    record = clean(
        imagename=str(tmp_path / "image"), backend=workers, engine="cpu", niter=5, cycleniter=5, **arguments
    )
    assert (record["engine"], record["engineReason"]) == ("cpu", "it was asked for")
    assert record["iterdone"] == 5
    assert (tmp_path / "image.image").is_dir()


def test_the_kernels_of_a_gpu_make_the_same_image(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, or in Triton's interpreter."""
    arguments |= {"imsize": 32, "cell": "10arcsec", "spw": "0:0", "antenna": "0~3&", "weighting": "natural",
                  "timerange": "06:54:00~06:55:00", "niter": 5, "nmajor": 1, "gridder": "wproject"}  # fmt: skip
    for name, gridding in (("gpu", Gridding("gpu")), ("cpu", CPU)):
        by_rows({**arguments, "imagename": str(tmp_path / name)}, 1, gridding=gridding)
    for kind in ("psf", "residual", "image"):
        found, wanted = (plane(tmp_path / f"{name}.{kind}") for name in ("gpu", "cpu"))
        assert np.abs(found - wanted).max() < 3e-5 * np.abs(wanted).max(), kind


@pytest.mark.parametrize(
    ("refused", "named"),
    [
        ({"specmode": "cube"}, "specmode"),
        ({"gridder": "mosaic"}, "gridder"),
        ({"weighting": "superuniform"}, "weighting"),
        ({"stokes": "RR"}, "stokes"),
        ({"uvtaper": ["10arcsec"]}, "uvtaper"),
        ({"outlierfile": "others.txt"}, "outlierfile"),
        ({"datacolumn": "model"}, "datacolumn"),
        ({"imsize": 63}, "63"),
        ({"parallel": "serial"}, "serial"),
        ({"otherwise": "cpu"}, "otherwise"),
        ({"engine": "quick"}, "quick"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_any_work(
    refused: dict[str, Any], named: str, workers: Backend
) -> None:
    with pytest.raises(BadInput) as caught:
        clean(**{"vis": "no.ms", "imagename": "image", "backend": workers, "engine": "cpu", **refused})
    assert named in str(caught.value)
    assert caught.value.way_out
