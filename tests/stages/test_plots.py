"""What the weblog's pictures show: real calibration tables, images with known spectra, and how many there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PngImage

from surgeline.context.records import Antenna, Observation, Picture, Roles
from surgeline.stages.observation import read_observation
from surgeline.stages.plots import asking, curves
from surgeline.stages.plots.images import ImageFiles
from surgeline.stages.plots.observation import Heights
from surgeline.stages.plots.pixels import read_coordinates, read_frequencies, read_plane, shrunk
from surgeline.stages.plots.spectra import read_spectra
from surgeline.work.jobs import Job

BLUE = (0, 114, 178)
FLAGGED = "ea04"
CHANNELS, SIDE = 6, 40
BEAM_ARCSEC = 30.0
CELL_ARCSEC = 10.0
REST_HZ = 1.42040575e9


@pytest.fixture(scope="module")
def folder(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an MS of two spectral windows, and its calibration tables; one antenna is flagged."""
    from casatasks import bandpass, flagdata, gaincal

    from surgeline.simulate import Simulation, simulate

    path = tmp_path_factory.mktemp("plots")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        simulation = Simulation(
            antennas=7, spectral_windows=2, channels=8, integration_seconds=20.0, target_scan_seconds=60.0
        )
        simulate(Path("vla.ms"), simulation)
        flagdata(vis="vla.ms", antenna=FLAGGED, flagbackup=False)
        gaincal(vis="vla.ms", caltable="vla.G", field="0,1", solint="int", refant="ea01", minblperant=3)
        bandpass(vis="vla.ms", caltable="vla.B", field="0", refant="ea01", minblperant=3, gaintable=["vla.G"])
        yield path


@pytest.fixture(scope="module")
def observation(folder: Path) -> Observation:
    return read_observation("vla.ms", "simulated")


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    return folder


def drawn(asked: tuple[Job, list[Picture]]) -> list[Picture]:
    """Run a job of plots; its facts, after a look that it made the pictures that they name, and no more."""
    job, facts = asked
    job.run()
    paths = [fact.path for fact in facts]
    assert sorted(job.declared.writes) == sorted(paths) and len(set(paths)) == len(paths)
    assert all(Path(path).read_bytes().startswith(b"\x89PNG") for path in paths)
    assert all(fact.title and fact.caption for fact in facts)
    return facts


def pixels(path: str) -> Any:
    return np.asarray(PngImage.open(path).convert("RGB"), dtype=int)


def alike(path: str, colour: Sequence[int]) -> int:
    """How many pixels of a picture have a colour, or nearly so."""
    return int((np.abs(pixels(path) - colour).max(axis=2) < 24).sum())


def test_an_observation_has_four_pictures_by_one_job(here: Path, observation: Observation) -> None:
    roles = Roles(vis="vla.ms", flux=(0,), bandpass=(0,), phase=(1,), target=(2,), reason="known")
    facts = drawn(asking.of_observation(observation, roles))
    assert [fact.kind for fact in facts] == ["array", "uv coverage", "elevation", "scans"]
    assert {fact.vis for fact in facts} == {"vla.ms"} and {fact.topic for fact in facts} == {"observation"}
    # Data of another age have no intents, and those of an unknown telescope no elevations.
    bare = observation.model_copy(
        update={
            "telescope": "NOWHERE",
            "scans": tuple(scan.model_copy(update={"intents": ()}) for scan in observation.scans),
        }
    )
    assert len(drawn(asking.of_observation(bare, roles))) == 4


def test_elevations_are_those_of_casa(here: Path, observation: Observation) -> None:
    from casatools import measures

    tool = measures()
    tool.doframe(tool.observatory("VLA"))
    heights = Heights(observation)
    for field in observation.fields:
        for later in (0.0, 3 * 3600.0):
            day = (observation.start + later) / 86400.0 + 40587.0
            tool.doframe(tool.epoch("UTC", {"value": day, "unit": "d"}))
            direction = tool.direction("J2000", f"{field.ra}deg", f"{field.dec}deg")
            expected = np.degrees(tool.measure(direction, "AZELGEO")["m1"]["value"])
            assert abs(heights.of(field, [observation.start + later])[0] - expected) < 0.001
    tool.done()


@pytest.mark.parametrize(("kind", "table"), [("gains", "vla.G"), ("bandpass", "vla.B")])
def test_a_table_has_a_picture_of_all_antennas_and_one_of_each(
    here: Path, observation: Observation, kind: Any, table: str
) -> None:
    overview, *each = drawn(asking.of_solutions(kind, table, observation, "vla.ms", "solutions"))
    assert (overview.kind, overview.subject, overview.antenna) == (kind, table, None)
    assert [fact.antenna for fact in each] == [antenna.name for antenna in observation.antennas]
    assert all(fact.one_of_many for fact in each) and not overview.one_of_many
    coloured = {fact.antenna: alike(fact.path, BLUE) for fact in each}
    # What is left of a flagged antenna is the legend.
    assert min(coloured, key=lambda name: coloured[name] or 0) == FLAGGED
    assert sorted(coloured.values())[1] > 1.5 * coloured[FLAGGED]


def test_a_table_without_solutions_is_drawn_as_such(here: Path, observation: Observation) -> None:
    import shutil

    from casatools import table

    for name, kind in (("vla.G", "gains"), ("vla.B", "bandpass")):
        shutil.copytree(name, f"{name}.none")
        with closing(table()) as tool:
            tool.open(f"{name}.none", nomodify=False)
            tool.removerows(list(range(tool.nrows())))
        drawn(asking.of_solutions(kind, f"{name}.none", observation, "vla.ms", "nothing"))  # type: ignore[arg-type]


def test_long_tables_are_thinned_by_times(
    here: Path, observation: Observation, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(asking.of_solutions("gains", "vla.G", observation, "vla.ms", "solutions"))
    whole = alike("pictures/vla.G.antenna.1.png", BLUE)
    monkeypatch.setattr(curves, "_MOST_TIMES", 2)
    drawn(asking.of_solutions("gains", "vla.G", observation, "vla.ms", "solutions"))
    assert 0 < alike("pictures/vla.G.antenna.1.png", BLUE) < whole


def test_windows_that_lie_apart_have_axes_of_their_own() -> None:
    assert curves.columns_of({0: (1.40, 1.43), 1: (1.43, 1.46)}) == {0: 0, 1: 0}
    assert curves.columns_of({0: (98.0, 100.0), 1: (86.0, 88.0), 2: (88.1, 90.1)}) == {1: 0, 2: 0, 0: 1}
    # Of many, axes would be too narrow.
    assert set(curves.columns_of({number: (number, number + 0.1) for number in range(30)}).values()) == {0}


def test_very_many_antennas_do_not_have_a_picture_each(observation: Observation) -> None:
    antennas = tuple(
        Antenna(id=number, name=f"a{number}", station="", east=0.0, north=0.0, diameter=25.0) for number in range(300)
    )
    _, facts = asking.of_solutions(
        "gains", "x.G", observation.model_copy(update={"antennas": antennas}), "vla.ms", "gains"
    )
    assert len(facts) == 1 + asking.MOST_ANTENNAS
    assert f"the first {asking.MOST_ANTENNAS} have" in facts[0].caption
    _, (overview,) = asking.of_solutions("gains", "x.G", observation, "vla.ms", "gains", single=False)
    assert "have pictures" not in overview.caption


def test_flags_before_and_after(here: Path) -> None:
    shares = {
        "antenna": {"before": {"ea01": 0.0, "ea02": 0.1}, "after": {"ea01": 0.5, "ea02": 0.1}},
        "spectral window": {"after": {"0": 0.0}},
    }
    (fact,) = drawn(asking.of_flags("flag", "vla.ms", shares))
    assert (fact.kind, fact.topic, fact.vis) == ("flags", "flagging", "vla.ms")
    assert "antenna, spectral window" in fact.caption


def make_cube(path: str, planes: Any) -> None:
    """A CASA image of planes by channel, row and column, in Jy/beam."""
    from casatools import image

    with closing(image()) as tool:
        tool.fromarray(path, np.asarray(planes, dtype=float).transpose(2, 1, 0)[:, :, None, :], overwrite=True)
        system = tool.coordsys()
        system.setunits(["rad", "rad", "", "Hz"])
        cell = np.radians(CELL_ARCSEC / 3600.0)
        system.setincrement([-cell, cell], "direction")
        system.setreferencevalue([2.0, 0.5], "direction")
        system.setspectral(frequencies={"value": (REST_HZ - 1e5 * np.arange(len(planes))).tolist(), "unit": "Hz"})
        system.setrestfrequency(REST_HZ)
        tool.setcoordsys(system.torecord())
        system.done()
        tool.setbrightnessunit("Jy/beam")
        tool.setrestoringbeam(major=f"{BEAM_ARCSEC}arcsec", minor=f"{BEAM_ARCSEC}arcsec", pa="0deg")


@pytest.fixture(scope="module")
def source(folder: Path) -> tuple[str, Any]:
    """A cube with an extended source, noise, and a mask; and the true flux density of each channel, in Jy."""
    random = np.random.default_rng(5)
    fluxes = np.array([0.0, 1.0, 3.0, 2.0, 1.0, 0.0])
    rows, columns = np.mgrid[:SIDE, :SIDE]
    profile = np.exp(-((columns - 15) ** 2 + (rows - 22) ** 2) / 2 / 3.0**2)
    beam = np.pi / 4 / np.log(2) * (BEAM_ARCSEC / CELL_ARCSEC) ** 2
    planes = fluxes[:, None, None] * profile / profile.sum() * beam
    make_cube("source.image", planes + 1e-4 * random.normal(size=planes.shape))
    make_cube("source.residual", 1e-4 * random.normal(size=planes.shape))
    make_cube("source.mask", np.broadcast_to(profile > 1e-3, planes.shape))
    return "source", fluxes


def test_spectra_have_the_flux_of_the_source(here: Path, source: tuple[str, Any]) -> None:
    stem, fluxes = source
    coordinates = read_coordinates(f"{stem}.image")
    masked = ImageFiles(f"{stem}.image", mask=f"{stem}.mask", masks_sources=True)
    spectra = read_spectra(masked, coordinates, (15, 22), 1e-4)
    assert spectra.unit == "Jy" and "the mask" in spectra.over
    assert np.allclose(spectra.integrated, fluxes, atol=0.01)
    assert spectra.peak[2] == pytest.approx(3.0 / (2 * np.pi * 9) * np.pi / 4 / np.log(2) * 9, rel=0.01)
    # Without a mask that says where sources are, what stands out of the noise counts.
    unmasked = ImageFiles(f"{stem}.image", mask=f"{stem}.mask")
    assert np.allclose(read_spectra(unmasked, coordinates, (15, 22), 1e-4).integrated, fluxes, rtol=0.01, atol=0.01)
    # Nothing stands out of this noise.
    assert read_spectra(unmasked, coordinates, (15, 22), 1.0).integrated is None


def test_a_cube_has_a_picture_of_each_channel_in_the_order_of_channels(here: Path, source: tuple[str, Any]) -> None:
    stem, _ = source
    files = ImageFiles(f"{stem}.image", f"{stem}.residual", f"{stem}.mask", masks_sources=True)
    frequencies = read_frequencies(files.image)
    assert frequencies == pytest.approx([REST_HZ - 1e5 * channel for channel in range(CHANNELS)])
    job, facts = asking.of_image("a cube", "cube", "its peak", files, frequencies, "vla.ms")
    assert set(files.all) - {""} == set(job.declared.reads)
    drawn((job, facts))
    assert [fact.kind for fact in facts] == ["image", "residual", "spectrum", *["plane"] * CHANNELS]
    assert {fact.subject for fact in facts} == {files.image}
    planes = [fact for fact in facts if fact.kind == "plane"]
    assert [fact.channel for fact in planes] == list(range(CHANNELS))
    assert [fact.frequency for fact in planes] == frequencies
    assert not any("channels are shown" in fact.caption for fact in planes)


def test_planes_have_the_same_colours(here: Path) -> None:
    levels = [0.0, 1.0, 0.5, 1.0, 0.0]
    planes = np.ones((len(levels), SIDE, SIDE)) * np.array(levels)[:, None, None]
    make_cube("levels.image", planes)
    facts = drawn(
        asking.of_image("levels", "levels", "flat", ImageFiles("levels.image"), read_frequencies("levels.image"))
    )
    shown = [pixels(fact.path) for fact in facts if fact.kind == "plane"]
    height, width, _ = shown[0].shape
    colours = [tuple(plane[height // 2, width // 3]) for plane in shown]
    assert colours[0] == colours[4] and colours[1] == colours[3] and len(set(colours)) == 3
    # Viridis is the brighter the more.
    assert sum(colours[0]) < sum(colours[2]) < sum(colours[1])


def test_long_cubes_are_thinned_evenly_and_say_so() -> None:
    assert asking.planes_shown(asking.MOST_PLANES) == list(range(asking.MOST_PLANES))
    shown = asking.planes_shown(1000)
    assert len(shown) == asking.MOST_PLANES and (shown[0], shown[-1]) == (0, 999)
    assert {later - earlier for earlier, later in pairwise(shown)} <= {15, 16}
    _, facts = asking.of_image("long", "long", "", ImageFiles("long.image"), [1e9 + n for n in range(1000)])
    planes = [fact for fact in facts if fact.kind == "plane"]
    assert [fact.channel for fact in planes] == shown
    assert all("64 of 1000 channels are shown" in fact.caption for fact in planes)


def test_an_image_without_residual_and_mask_is_drawn(here: Path, source: tuple[str, Any]) -> None:
    make_cube("alone.image", np.ones((1, SIDE, SIDE)) * np.arange(SIDE))
    files = ImageFiles("alone.image", mask="alone.mask", masks_sources=True)
    (fact,) = drawn(asking.of_image("alone", "alone", "peak", files, (), topic="calibration"))
    assert (fact.kind, fact.topic) == ("image", "calibration")


def test_moment_maps_that_have_pixels_and_that_have_none(here: Path) -> None:
    from casatools import image

    make_cube("velocity", 1400.0 + np.ones((1, SIDE, SIDE)) * np.arange(SIDE))
    with closing(image()) as tool:
        tool.open("velocity")
        tool.setbrightnessunit("km/s")
        tool.calcmask("velocity > 1410 && velocity < 1420")
    (fact,) = drawn(asking.of_moment("moment 1", "mean velocity", "velocity", 1))
    assert (fact.kind, fact.subject) == ("moment", "velocity")
    with closing(image()) as tool:
        tool.open("velocity")
        tool.calcmask("velocity > 9999")
    drawn(asking.of_moment("moment 1", "mean velocity", "velocity", 1))


def test_large_planes_shrink_by_means_of_their_valid_pixels(here: Path, source: tuple[str, Any]) -> None:
    plane = np.array([[1.0, 3.0, np.nan], [np.nan, 2.0, np.nan]])
    assert np.array_equal(shrunk(plane, 2), [[2.0, np.nan]], equal_nan=True)
    whole = read_plane("source.image", read_coordinates("source.image"), 2, SIDE)
    halved = read_plane("source.image", read_coordinates("source.image"), 2, SIDE // 2)
    assert whole.shape == (SIDE, SIDE) and halved.shape == (SIDE // 2, SIDE // 2)
    # The source is where it was put: by row and column.
    assert np.unravel_index(np.argmax(whole), whole.shape) == (22, 15)
    assert halved.sum() * 4 == pytest.approx(whole.sum(), rel=1e-5)


def test_pictures_of_an_older_store_still_open() -> None:
    from surgeline.context.records import from_stored

    body = '{"path": "pictures/a.png", "title": "a", "caption": "", "topic": "image"}'
    found = from_stored(Picture, 1, body)
    assert (found.path, found.kind, found.subject, found.one_of_many) == ("pictures/a.png", None, None, False)
