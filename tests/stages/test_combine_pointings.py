"""Mosaics by linear combination, of an observation of three pointings whose sources are known."""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from surgeline.context.records import Dataset, Decision, Fact, Image, Observation, Product
from surgeline.context.store import Context
from surgeline.errors import DataError
from surgeline.imaging.linearmosaic import Beam, PointingImage, add_pointings, add_sums, common_beam, finish, lay_out
from surgeline.imaging.synthesis import plane_noise
from surgeline.paths import SessionPaths
from surgeline.simulate import Simulation, primary_beam_arcsec, simulate
from surgeline.stages import combine_pointings, export, make_images, moments, plan_images
from surgeline.stages.observation import read_observation
from surgeline.stages.stage import Stage
from surgeline.work.jobs import Job
from surgeline.work.procedure import drive

pytestmark = pytest.mark.usefixtures("casa")

MOSAIC = "TARGET.linear_mosaic.spw0.continuum"
SIMULATED = Simulation(
    antennas=12,
    channels=2,
    channel_width_hz=4e6,
    integration_seconds=20.0,
    flux_scan_seconds=20.0,
    phase_scan_seconds=20.0,
    target_scan_seconds=300.0,
    pointings=3,
    noise_jy=0.05,
    gain_amplitude_scatter=0.0,
    gain_phase_scatter_deg=0.0,
    bandpass_scatter=0.0,
    line=False,
)
# CASA is not for several threads of a process; procedures side by side have one each.
_CASA = threading.Lock()


@dataclass
class Session:
    """A working folder with calibrated pointings in it, and the process that is in it."""

    observation: Observation
    context: Context
    truth: dict[str, Any]

    def run(self, name: str, module: ModuleType, **parameters: Any) -> list[Fact]:
        """Run a stage, every job in this process, and commit what it finds out."""
        stage = Stage(name, (self.observation.vis,), self.context.at(), workers=1)
        facts: list[Fact] = drive(
            module.run(stage, module.Parameters(**parameters)), run_jobs, lambda jobs: None, unexpected
        )
        self.context.commit(name, facts)
        return facts


def run_jobs(jobs: Sequence[Job]) -> list[Any]:
    with _CASA:
        values = [job.run() for job in jobs]
    assert all(Path(path).exists() for job in jobs for path in job.declared.writes)
    return values


def unexpected(job: Job) -> list[Any]:
    raise AssertionError(job)


def primary_beam_table(path: Path) -> None:
    """What tells tclean of the primary beam that was simulated."""
    from casatools import vpmanager

    width = float(primary_beam_arcsec(np.array([1e9]))[0])
    beams = vpmanager()
    beams.reset()
    # CASA's half width is the whole one.
    beams.setpbgauss(telescope="VLA", halfwidth=f"{width}arcsec", maxrad="2deg", reffreq="1GHz", dopb=True)
    beams.saveastable(str(path))
    beams.reset()


@pytest.fixture(scope="module")
def session(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Three pointings of a target, each planned and imaged by itself."""
    from casatasks import split

    folder = tmp_path_factory.mktemp("mosaic")
    paths = SessionPaths(folder)
    paths.make()
    before = Path.cwd()
    os.chdir(folder)
    try:
        truth = simulate(Path("data/sim.ms"), SIMULATED)
        primary_beam_table(Path("primary_beam"))
        observation = read_observation("data/sim.ms", "sim.ms")
        datasets = []
        for number in (2, 3, 4):
            path = f"data/sim.{observation.field(number).name}.ms"
            split("data/sim.ms", path, field=str(number), datacolumn="data")
            lines = path.replace(".ms", ".line.ms")
            shutil.copytree(path, lines)
            datasets += [
                Dataset(path=path, parent=observation.vis, kind="calibrated", fields=(number,), windows=(0,)),
                Dataset(path=lines, parent=path, kind="line", fields=(number,), windows=(0,)),
            ]
        with closing(Context(paths.context)) as context:
            context.commit("calibrate", [observation, *datasets])
            made = Session(observation, context, truth)
            own = {"vptable": "primary_beam"}
            made.run(
                "plan_images",
                plan_images,
                mosaic="linear",
                pbcor=True,
                continuum=own,
                cube={**own, "specmode": "cubedata", "threshold": "12mJy"},
            )
            made.run("make_images", make_images)
            yield made
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def mosaic(session: Session) -> list[Fact]:
    """What the stage found out."""
    return session.run("combine_pointings", combine_pointings, width=2)


def pixels(path: str) -> np.ndarray:
    """An image's pixels, NaN where it is blank."""
    from casatools import image

    with closing(image()) as tool:
        tool.open(path)
        return np.where(tool.getchunk(getmask=True), tool.getchunk(), np.nan)


def sources(truth: dict[str, Any]) -> list[tuple[str, float, float, float]]:
    """Name, right ascension and declination (degrees) and flux (Jy) of each source."""
    middle = truth["fields"][3]
    grid = WCS(naxis=2)
    grid.wcs.ctype = ["RA---SIN", "DEC--SIN"]
    grid.wcs.crval = [middle["right_ascension_deg"], middle["declination_deg"]]
    grid.wcs.cdelt = [1 / 3600, 1 / 3600]
    return [
        (
            part["name"],
            *map(float, grid.wcs_pix2world(part["l_arcsec"], part["m_arcsec"], 0)),
            part["mean_flux_jy"][0],
        )
        for part in middle["components"]
    ]


def test_images_are_told_as_they_were_cleaned_and_corrected_for_the_primary_beam(
    session: Session, mosaic: list[Fact]
) -> None:
    cubes = [image for image in session.context.all(Image, kind="cube") if "linear_mosaic" not in image.path]
    assert len(cubes) == 6
    for cube in cubes:
        if cube.corrected:
            assert cube.path == f"{cube.stem}.image.pbcor"
            plain, beam = pixels(f"{cube.stem}.image"), pixels(f"{cube.stem}.pb")
            np.testing.assert_allclose(pixels(cube.path) * beam, plain, atol=1e-6)
            assert cube.maximum == pytest.approx(np.nanmax(plain / beam), rel=1e-6)
    # Of each cube the moments are made once, and of the mosaic, too.
    made = [fact.path for fact in session.run("moments", moments) if isinstance(fact, Image)]
    assert sorted(made) == sorted(
        f"{stem}.moment{number}"
        for stem in {*(cube.stem for cube in cubes), "images/TARGET.linear_mosaic.spw0.cube"}
        for number in (0, 1)
    )


def test_sources_of_a_mosaic_have_their_fluxes_and_places(session: Session, mosaic: list[Fact]) -> None:
    (image,) = (fact for fact in mosaic if isinstance(fact, Image) and fact.kind == "continuum")
    assert (image.path, image.field, image.unit) == (f"images/{MOSAIC}.image.pbcor", "TARGET", "Jy/beam")
    session.run("export", export)
    with fits.open(f"products/{MOSAIC}.image.pbcor.fits") as opened:
        header, found = opened[0].header, opened[0].data[0, 0]
    noise = fits.getdata(f"products/{MOSAIC}.sensitivity.fits")[0, 0]
    grid = WCS(header).celestial
    cell = abs(header["CDELT2"])
    (decision,) = (fact for fact in mosaic if isinstance(fact, Decision) and fact.what == MOSAIC)
    assert f"with a beam of {header['BMAJ'] * 3600:.4g} × {header['BMIN'] * 3600:.4g} arcsec" in decision.value
    assert decision.value.startswith("3 pointings on")
    assert header["OBJECT"] == "TARGET"
    for name, ra, dec, flux in sources(session.truth):
        x, y = (float(pixel) for pixel in grid.wcs_world2pix(ra, dec, 0))
        peak, right, up = fitted_peak(found, x, y)
        sigma = float(noise[round(y), round(x)])
        # Of cubic interpolation and of the clean beam's shape a per cent of the brightness is left.
        assert abs(peak - flux) < 4 * sigma + 0.01 * flux, (name, peak, flux, sigma)
        beam = header["BMAJ"] / cell
        assert math.hypot(right - x, up - y) < 4 * beam * sigma / flux + 0.05, (name, right - x, up - y)


def fitted_peak(data: np.ndarray, x: float, y: float) -> tuple[float, float, float]:
    """Height and place of the peak nearest to a place: the top of a paraboloid through the logarithms around it."""
    column, row = round(x), round(y)
    box = data[row - 2 : row + 3, column - 2 : column + 3]
    up, right = np.unravel_index(np.argmax(box), box.shape)
    column, row = column - 2 + int(right), row - 2 + int(up)
    v, u = np.mgrid[-1:2, -1:2]
    u, v = u.ravel(), v.ravel()
    terms = np.stack([np.ones(9), u, v, u * u, u * v, v * v], axis=1)
    logarithms = np.log(data[row - 1 : row + 2, column - 1 : column + 2].ravel())
    a, b, c, d, e, f = np.linalg.lstsq(terms, logarithms, rcond=None)[0]
    top = np.linalg.solve([[2 * d, e], [e, 2 * f]], [-b, -c])
    return float(np.exp(a + (b * top[0] + c * top[1]) / 2)), column + float(top[0]), row + float(top[1])


def test_noise_is_what_the_sensitivity_says_and_least_where_pointings_overlap(
    session: Session, mosaic: list[Fact]
) -> None:
    exported = {fact.path: fact.kind for fact in mosaic if isinstance(fact, Product)}
    assert exported[f"products/{MOSAIC}.sensitivity.fits"] == "sensitivity"
    found, noise = pixels(f"images/{MOSAIC}.image.pbcor"), pixels(f"images/{MOSAIC}.sensitivity")
    assert np.array_equal(np.isnan(found), np.isnan(noise))
    # Clean components and their sidelobes are in few of the pixels.
    ratio = (found / noise)[~np.isnan(found)]
    assert 1.4826 * np.median(abs(ratio - np.median(ratio))) == pytest.approx(1.0, abs=0.1)
    assert np.nanmax(noise) / np.nanmin(noise) <= 1 / 0.2 + 1e-5
    single = min(pixels(f"images/TARGET_{number}.spw0.continuum.residual").size for number in (1, 2, 3))
    assert found.size > 1.3 * single
    # In the middle the neighbours help the pointing that is there.
    width, height = noise.shape[:2]
    (alone,) = plane_noise("images/TARGET_2.spw0.continuum.residual")
    assert noise[width // 2, height // 2, 0, 0] < 0.95 * alone
    # What was only on the way is gone.
    assert not list(Path("images").glob("*.sum.*"))
    assert not list(Path("images").glob("pointing-*"))


def combined(session: Session, images: Sequence[PointingImage], width: int, name: str) -> np.ndarray:
    """The mosaic by a tree of a width."""
    layout = lay_out([each.image for each in images], 215.0, 20.0)
    sums = []
    for first in range(0, len(images), width):
        sums.append(f"images/{name}.{first}")
        add_pointings(images[first : first + width], layout.boxes[first : first + width], layout, sums[-1])
    add_sums(sums, f"images/{name}.all", layout)
    finish(f"images/{name}.all", layout, f"images/{name}.image", f"images/{name}.noise", 0.2)
    return pixels(f"images/{name}.image")


def test_the_shape_of_the_tree_does_not_show_in_the_pixels(session: Session, mosaic: list[Fact]) -> None:
    files = [
        PointingImage(*(f"images/TARGET_{number}.spw0.continuum.{kind}" for kind in ("image", "residual", "pb")))
        for number in (1, 2, 3)
    ]
    made = pixels(f"images/{MOSAIC}.image.pbcor")
    for width in (1, 3):
        found = combined(session, files, width, f"width{width}")
        np.testing.assert_allclose(found, made, rtol=1e-6, atol=1e-9)


def test_cubes_of_pointings_make_a_cube_with_one_beam(session: Session, mosaic: list[Fact]) -> None:
    (cube,) = (fact for fact in mosaic if isinstance(fact, Image) and fact.kind == "cube")
    found = pixels(cube.path)
    with closing(opened_image(cube.path)) as tool:
        assert "beams" not in tool.restoringbeam()
        grid, channels = tool.coordsys(), tool.shape()[3]
    with closing(opened_image("images/TARGET_1.spw0.cube.image")) as tool:
        assert channels == tool.shape()[3] == 2
        first = tool.coordsys().referencevalue("n", "spectral")["numeric"]
    assert grid.referencevalue("n", "spectral")["numeric"] == pytest.approx(first)
    name, ra, dec, flux = sources(session.truth)[0]
    x, y, *_ = grid.topixel([math.radians(ra), math.radians(dec), 1.0, first[0]])["numeric"]
    for channel in range(channels):
        peak, right, up = fitted_peak(found[:, :, 0, channel].T, x, y)
        assert peak == pytest.approx(flux, rel=0.06), name
        assert math.hypot(right - x, up - y) < 0.15


def opened_image(path: str) -> Any:
    from casatools import image

    tool = image()
    tool.open(path)
    return tool


def test_channels_that_are_elsewhere_are_brought_to_those_of_the_first_pointing(session: Session) -> None:
    """Two pointings of a sky whose brightness rises with frequency, one a quarter of a channel off."""
    from casatools import image

    files = []
    for number, shift in enumerate((0.0, 0.25)):
        stem = f"images/slope{number}"
        for kind in ("image", "residual", "pb"):
            values = np.ones((40, 40, 1, 5))
            if kind == "image":
                values *= 1.0 + np.arange(5) + shift
            elif kind == "residual":
                values = np.random.default_rng(number).normal(0, 0.1, values.shape)
            tool = image()
            tool.fromarray(f"{stem}.{kind}", values)
            grid = tool.coordsys()
            start, step = (found("n", "spectral")["numeric"][0] for found in (grid.referencevalue, grid.increment))
            grid.setreferencevalue([start + shift * step], "spectral")
            tool.setcoordsys(grid.torecord())
            tool.setrestoringbeam(major="3arcmin", minor="3arcmin", pa="0deg")
            tool.close()
        files.append(PointingImage(f"{stem}.image", f"{stem}.residual", f"{stem}.pb"))
    found = combined(session, files, 1, "slope")
    # The first channel lies outside the second pointing's.
    assert np.nanmax(abs(found - (1.0 + np.arange(5)))) < 1e-5
    assert not np.isnan(found).any()


@pytest.fixture(scope="module")
def on_one_grid(session: Session) -> list[PointingImage]:
    """The pointings imaged around one centre, with one beam."""
    from casatasks import tclean

    made = []
    for number in (1, 2, 3):
        stem = f"images/common{number}"
        tclean(
            f"data/sim.TARGET_{number}.ms", imagename=stem, imsize=[540, 324], cell="11arcsec",
            phasecenter="J2000 215deg 20deg", niter=0, restoringbeam="60arcsec", vptable="primary_beam",
        )  # fmt: skip
        made.append(PointingImage(f"{stem}.image", f"{stem}.residual", f"{stem}.pb"))
    return made


def test_pixels_of_one_grid_are_added_up_as_they_are(session: Session, on_one_grid: list[PointingImage]) -> None:
    brightness, weight = np.zeros((540, 324, 1, 1)), np.zeros((540, 324, 1, 1))
    for files in on_one_grid:
        (noise,) = plane_noise(files.residual)
        beam = np.nan_to_num(pixels(files.primary_beam))
        brightness += beam * np.nan_to_num(pixels(files.image)) / noise**2
        weight += beam**2 / noise**2
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(weight > 0.2**2 * weight.max(), brightness / weight, np.nan)
        deepest = 1.0 / np.sqrt(weight.max())
    np.testing.assert_allclose(combined(session, on_one_grid, 2, "one"), expected, rtol=1e-5, atol=1e-9)
    assert np.nanmin(pixels("images/one.noise")) == pytest.approx(deepest, rel=1e-5)


def test_it_is_what_casas_own_tool_makes_where_pointings_are_equally_deep(
    session: Session, on_one_grid: list[PointingImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """casatools.linearmosaic weights all pointings alike, whatever their noise."""
    from casatools import linearmosaic

    from surgeline.imaging import linearmosaic as ours

    monkeypatch.setattr(ours, "plane_noise", lambda path, planes: [1e-3])
    own = combined(session, on_one_grid, 2, "alike")
    tool = linearmosaic()
    tool.setlinmostype("optimal")
    tool.defineoutputimage(
        nx=540, ny=324, cellx="11arcsec", celly="11arcsec", imagecenter="J2000 215deg 20deg",
        outputimage="images/casa.image", outputweight="images/casa.weight",
    )  # fmt: skip
    tool.makemosaic(
        images=[files.image for files in on_one_grid], weightimages=[files.primary_beam for files in on_one_grid]
    )
    theirs = pixels("images/casa.image")
    # It loses a pixel at the edge of each pointing, which it regrids in any case.
    clear = ~np.isnan(own) & ~np.isnan(theirs)
    for files in on_one_grid:
        outside = np.isnan(pixels(files.primary_beam))
        for axis in (0, 1):
            inside = ~outside & ~np.roll(outside, 2, axis) & ~np.roll(outside, -2, axis)
            beyond = outside & np.roll(outside, 2, axis) & np.roll(outside, -2, axis)
            clear &= inside | beyond
    assert clear.sum() > 0.9 * (~np.isnan(own)).sum()
    np.testing.assert_allclose(own[clear], theirs[clear], rtol=1e-4, atol=1e-6)


def test_beams_that_differ_are_brought_to_one_that_holds_them_all() -> None:
    beams = [Beam(48.5, 44.0, -7.7), Beam(48.1, 43.6, -0.7), Beam(47.7, 44.8, -9.6)]
    found, smoothed = common_beam(beams)
    assert smoothed
    assert all(found.major > beam.major and found.minor > beam.minor for beam in beams)
    assert found.major * found.minor < 1.06 * max(beam.major * beam.minor for beam in beams)
    assert common_beam([beams[0], Beam(48.5001, 44.0, -7.7)]) == (beams[0], False)
    # The position angle of what is nearly round says nothing.
    assert common_beam([Beam(44.001, 44.0, 10.0), Beam(44.001, 44.0, 80.0)])[1] is False


def test_without_pointings_that_overlap_there_is_nothing_to_combine(session: Session) -> None:
    with pytest.raises(DataError, match="mosaic: linear"):
        session.run("combine_pointings", combine_pointings, images=["TARGET_1.*"])
