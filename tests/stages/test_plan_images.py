"""What is planned for observations of many fields and windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from surgeline.context.records import (
    Antenna,
    Dataset,
    Decision,
    Fact,
    Field,
    ImagePlan,
    Observation,
    Scan,
    SpectralWindow,
)
from surgeline.context.store import Context
from surgeline.errors import BadInput
from surgeline.stages import plan_images
from surgeline.stages.pointings import find_mosaics, pointings_of, primary_beam
from surgeline.stages.stage import Stage
from surgeline.work.procedure import drive

# Dishes of 25 m at 1.4 GHz have a primary beam of about 35 arcmin.
ARCMIN = 1 / 60


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Context]:
    with closing(Context(tmp_path / "context.db")) as store:
        yield store


def window(number: int, frequency: float = 1.4e9, bandwidth: float = 1.6e7, channels: int = 16) -> SpectralWindow:
    return SpectralWindow(
        id=number, name=f"spw{number}", channels=channels, reference_frequency=frequency,
        channel_width=bandwidth / channels, bandwidth=bandwidth,
    )  # fmt: skip


def field(number: int, name: str, east: float = 0.0, north: float = 0.0) -> Field:
    """A field on the equator, so many arcmin from 10h."""
    return Field(id=number, name=name, ra=150.0 + east * ARCMIN, dec=north * ARCMIN)


def observation(
    fields: Sequence[Field], windows: Sequence[SpectralWindow] = (), vis: str = "data/my.ms"
) -> Observation:
    dishes = tuple(
        Antenna(id=number, name=f"ea{number}", station="", east=500.0 * number, north=0.0, diameter=25.0)
        for number in range(3)
    )
    return Observation(
        vis=vis, origin=vis, telescope="VLA", observer="", project="", start=0.0, end=1.0, rows=1, size=1,
        fields=tuple(fields), spectral_windows=tuple(windows or [window(0)]), scans=(), antennas=dishes,
        longest_baseline=1000.0,
    )  # fmt: skip


def calibrated(seen: Observation) -> list[Dataset]:
    """An MS of each field, as continuum_subtract splits them off."""
    windows = tuple(found.id for found in seen.spectral_windows)
    return [
        Dataset(
            path=f"{seen.vis.removesuffix('.ms')}.{found.id}.ms", parent=seen.vis, kind="calibrated",
            fields=(found.id,), windows=windows,
        )
        for found in seen.fields
    ]  # fmt: skip


def plans(store: Context, facts: Sequence[Fact], **parameters: Any) -> dict[str, ImagePlan]:
    """What the stage plans, by name."""
    store.commit("before", list(facts))
    stage = Stage("plan_images", (), store.at(), workers=1)
    procedure = plan_images.run(stage, plan_images.Parameters(**parameters))
    found = drive(procedure, lambda jobs: [None for _ in jobs], no_jobs, no_jobs)
    made = [fact for fact in found if isinstance(fact, ImagePlan)]
    assert [fact.what for fact in found if isinstance(fact, Decision)] == [plan.name for plan in made]
    assert len({plan.name for plan in made}) == len(made)
    return {plan.name: plan for plan in made}


def no_jobs(jobs: Any) -> Any:
    raise AssertionError(jobs)


FAR_APART = (field(0, "east", 600), field(1, "west", -600))
ROW = (field(0, "M31_1", -15), field(1, "M31_2"), field(2, "M31_3", 15))
NARROW = (window(0), window(1, 1.416e9))


@pytest.mark.parametrize(
    ("fields", "windows", "parameters", "names"),
    [
        (FAR_APART, NARROW, {}, ["east.spw0", "east.spw1", "west.spw0", "west.spw1"]),
        (FAR_APART, NARROW, {"windows": "together"}, ["east.all_spws", "west.all_spws"]),
        (FAR_APART[:1], NARROW, {"windows": "both"}, ["east.spw0", "east.spw1", "east.all_spws"]),
        (FAR_APART[:1], NARROW[:1], {"windows": "both"}, ["east.spw0"]),
        (ROW, NARROW, {}, ["M31.mosaic.spw0", "M31.mosaic.spw1"]),
        (ROW, NARROW, {"windows": "together"}, ["M31.mosaic.all_spws"]),
        (ROW, NARROW[:1], {"mosaic": "linear"}, ["M31_1.spw0", "M31_2.spw0", "M31_3.spw0"]),
        ((*ROW, field(3, "M33", 900)), NARROW[:1], {}, ["M31.mosaic.spw0", "M33.spw0"]),
        # Fields of one name, as mosaics of some telescopes are; imaged each by itself, their numbers tell them apart.
        ((field(4, "M100"), field(7, "M100", 17)), NARROW[:1], {}, ["M100.mosaic.spw0"]),
        ((field(4, "M100"), field(7, "M100", 17)), NARROW[:1], {"mosaic": "linear"},
         ["M100.field4.spw0", "M100.field7.spw0"]),
        # Two mosaics in one survey.
        ((field(0, "GAL_1"), field(1, "GAL_2", 15), field(2, "GAL_3", 300), field(3, "GAL_4", 315)), NARROW[:1], {},
         ["GAL.mosaic.spw0", "GAL-2.mosaic.spw0"]),
        (FAR_APART, NARROW, {"continua": False}, []),
    ],
)  # fmt: skip
def test_continua_of_fields_and_windows(
    store: Context, fields: Any, windows: Any, parameters: dict[str, Any], names: list[str]
) -> None:
    seen = observation(fields, windows)
    found = plans(store, [seen, *calibrated(seen)], **parameters)
    assert list(found) == [f"{name}.continuum" for name in names]


@pytest.mark.parametrize(
    ("fields", "together"),
    [
        # Named alike: less than a primary beam apart.
        ([field(0, "M31_1"), field(1, "M31_2", 34)], [[0, 1]]),
        ([field(0, "M31_1"), field(1, "M31_2", 37)], []),
        # Named otherwise: less than half of one.
        ([field(0, "core"), field(1, "jet", 17)], [[0, 1]]),
        ([field(0, "core"), field(1, "jet", 19)], []),
        # By way of the one between them.
        ([field(0, "a_1"), field(1, "a_3", 60), field(2, "a_2", 30)], [[0, 1, 2]]),
        # Observed twice is no mosaic.
        ([field(0, "M31"), field(1, "M31", 0.1)], []),
        # Across 0 h.
        ([Field(id=0, name="x1", ra=359.9, dec=10.0), Field(id=1, name="x2", ra=0.1, dec=10.0)], [[0, 1]]),
    ],
)
def test_pointings_of_a_mosaic_are_known_by_names_and_places(fields: list[Field], together: list[list[int]]) -> None:
    seen = observation(fields)
    assert 35 < primary_beam(seen, seen.spectral_windows) / 60 < 36
    found = find_mosaics(pointings_of((dataset, seen) for dataset in calibrated(seen)))
    assert [[pointing.field.id for pointing in mosaic.pointings] for mosaic in found] == together


def test_how_many_visibilities_an_image_is_made_of_is_known_roughly(store: Context) -> None:
    windows = [w.model_copy(update={"correlations": ("RR", "LL")}) for w in (window(0), window(1, channels=64))]
    seconds = {0: 100.0, 1: 300.0, 2: 600.0}
    scans = tuple(
        Scan(number=number, fields=(number,), spectral_windows=(0, 1), start=0.0, end=taken)
        for number, taken in seconds.items()
    )
    seen = observation([field(0, "A"), field(1, "B", 600), field(2, "C", 1200)], windows)
    seen = seen.model_copy(update={"rows": 20000, "scans": scans})
    found = plans(store, [seen, *calibrated(seen)], windows="both")
    # A tenth of the rows are of A, half of them of each window.
    assert found["A.spw0.continuum"].visibilities == 1000 * 16 * 2
    assert found["C.spw1.continuum"].visibilities == 6000 * 64 * 2
    assert found["B.all_spws.continuum"].visibilities == 3000 * (16 + 64) * 2


def test_a_mosaic_is_imaged_around_its_middle_and_reaches_beyond_its_pointings(store: Context) -> None:
    seen = observation(ROW)
    (plan,) = plans(store, [seen, *calibrated(seen)], pbcor=True).values()
    arguments = plan.arguments
    assert arguments["vis"] == ["data/my.0.ms", "data/my.1.ms", "data/my.2.ms"]
    assert (arguments["spw"], arguments["gridder"], arguments["pbcor"]) == (["0"] * 3, "mosaic", True)
    assert arguments["phasecenter"] == "J2000 150.00000000deg 0.00000000deg"
    cell = float(arguments["cell"].removesuffix("arcsec"))
    wide, high = arguments["imsize"]
    high_enough = 1.52 * primary_beam(seen, seen.spectral_windows)
    assert high_enough <= high * cell < 1.2 * high_enough
    assert high_enough + 30 * 60 <= wide * cell < 1.2 * (high_enough + 30 * 60)
    assert (plan.field, plan.vis) == ("M31", "data/my.0.ms, data/my.1.ms, data/my.2.ms")
    assert "a mosaic of 3 pointings that overlap: M31_1, M31_2, M31_3" in plan.reasons


def test_pointings_of_a_linear_mosaic_have_the_same_cells_and_their_own_middles(store: Context) -> None:
    seen = observation(ROW)
    found = plans(store, [seen, *calibrated(seen)], mosaic="linear").values()
    assert len({(plan.arguments["cell"], plan.arguments["imsize"]) for plan in found}) == 1
    assert all(plan.arguments["gridder"] == "standard" and "phasecenter" not in plan.arguments for plan in found)
    assert [plan.arguments["vis"] for plan in found] == ["data/my.0.ms", "data/my.1.ms", "data/my.2.ms"]


def test_pointings_in_one_ms_are_selected_by_their_numbers_in_it(store: Context) -> None:
    seen = observation(ROW)
    together = Dataset(path="data/all.ms", parent=seen.vis, kind="calibrated", fields=(0, 1, 2), windows=(0,))
    (joint,) = plans(store, [seen, together]).values()
    assert (joint.arguments["vis"], joint.arguments["field"], joint.arguments["spw"]) == ("data/all.ms", "0,1,2", "0")
    linear = plans(store, [], mosaic="linear").values()
    assert [plan.arguments["field"] for plan in linear] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("windows", "together", "deconvolver"),
    [
        ([window(0, 1.4e9), window(1, 1.416e9)], "0,1", "hogbom"),
        # From 1.392 to 1.508 GHz: 8 %; to 1.608: 14 %.
        ([window(0, 1.4e9), window(1, 1.5e9)], "0,1", "hogbom"),
        ([window(0, 1.4e9), window(1, 1.6e9)], "0,1", "mtmfs"),
        ([window(0, 1.5e9, bandwidth=2e8)], "0", "mtmfs"),
    ],
)
def test_wide_bands_are_imaged_with_taylor_terms(
    store: Context, windows: list[SpectralWindow], together: str, deconvolver: str
) -> None:
    seen = observation(FAR_APART[:1], windows)
    (plan,) = plans(store, [seen, *calibrated(seen)], windows="together").values()
    assert (plan.arguments["spw"], plan.spectral_windows) == (together, together)
    assert plan.arguments["deconvolver"] == deconvolver
    assert plan.arguments.get("nterms") == (2 if deconvolver == "mtmfs" else None)
    (asked,) = plans(store, [], windows="together", continuum={"deconvolver": "clark"}).values()
    assert asked.arguments["deconvolver"] == "clark"
    assert "nterms" not in asked.arguments


def test_all_windows_together_have_the_cells_of_the_highest_and_the_field_of_the_lowest(store: Context) -> None:
    seen = observation(FAR_APART[:1], [window(0, 1.4e9), window(1, 2.8e9)])
    found = plans(store, [seen, *calibrated(seen)], windows="both")
    low, high, both = (found[f"east.{name}.continuum"].arguments for name in ("spw0", "spw1", "all_spws"))
    assert both["cell"] == high["cell"] != low["cell"]
    extents = {name: float(each["cell"].removesuffix("arcsec")) * each["imsize"]
               for name, each in (("low", low), ("high", high), ("both", both))}  # fmt: skip
    assert extents["both"] == pytest.approx(extents["low"], rel=0.1)
    assert extents["both"] > 1.8 * extents["high"]


def test_continua_leave_lines_out_where_they_are_known(store: Context) -> None:
    seen = observation(ROW, NARROW)
    decided = [
        Decision(stage="continuum_subtract", what=f"continuum channels of M31_{number}", value=value, reason="")
        for number, value in ((1, "0:0~4;9~15,1:3~15"), (2, "1:2~15"), (3, "all: no line"))
    ]
    found = plans(store, [seen, *calibrated(seen), *decided], windows="both")
    spw = {name.removeprefix("M31.mosaic.").removesuffix(".continuum"): plan.arguments["spw"]
           for name, plan in found.items()}  # fmt: skip
    assert spw == {
        "spw0": ["0:0~4;9~15", "0", "0"],
        "spw1": ["1:3~15", "1:2~15", "1"],
        "all_spws": ["0:0~4;9~15,1:3~15", "0,1:2~15", "0,1"],
    }
    assert all("without the channels in which lines were found" in plan.reasons for plan in found.values())
    own = plans(store, [], continuum={"spw": "1:5~9"})
    assert {plan.arguments["spw"] for plan in own.values()} == {"1:5~9"}


def test_cubes_are_of_the_windows_and_pointings_that_have_lines(store: Context) -> None:
    seen = observation(ROW, (window(0), window(1, 1.416e9), window(2, 1.432e9)))
    targets = calibrated(seen)
    lines = [
        Dataset(path=f"data/line.{number}.ms", parent=targets[number].path, kind="line", fields=(number,),
                windows=windows)
        for number, windows in ((0, (1,)), (1, (1, 2)))
    ]  # fmt: skip
    found = plans(store, [seen, *targets, *lines], continua=False, windows="both")
    assert list(found) == ["M31.mosaic.spw1.cube", "M31.mosaic.spw2.cube"]
    one, two = (plan.arguments for plan in found.values())
    # uvcontsub keeps the numbers of windows.
    assert (one["vis"], one["spw"]) == (["data/line.0.ms", "data/line.1.ms"], ["1", "1"])
    assert (two["vis"], two["spw"]) == ("data/line.1.ms", "2")
    assert (one["specmode"], one["start"], one["nchan"]) == ("cube", 1, 14)
    assert any("nothing of M31_1" in reason for reason in found["M31.mosaic.spw2.cube"].reasons)


def test_observations_are_imaged_each_by_itself(store: Context) -> None:
    one, other = observation(ROW[:2], vis="data/a.ms"), observation(ROW[1:], vis="data/b.ms")
    found = plans(store, [one, other, *calibrated(one), *calibrated(other)])
    assert list(found) == ["a.M31.mosaic.spw0.continuum", "b.M31.mosaic.spw0.continuum"]


def test_what_makes_no_sense_is_refused(store: Context) -> None:
    for wrong in ({"windows": "some"}, {"mosaic": "quilt"}, {"continuum": {"nitter": 3}}):
        with pytest.raises(ValidationError):
            plan_images.Parameters.model_validate(wrong)
    seen = observation(ROW)
    line = Dataset(path="data/line.ms", parent="data/my.0.ms", kind="line", fields=(0,), windows=(0,))
    with pytest.raises(BadInput, match="specmode"):
        plans(store, [seen, *calibrated(seen), line], cube={"specmode": "mfs"})
