from __future__ import annotations

from typing import Any

import pytest

from surgeline.errors import BadInput
from surgeline.imaging.automask import block_of
from surgeline.imaging.cube import cut_into_parts
from surgeline.imaging.cubearguments import check_arguments, start_of
from surgeline.imaging.cubecontrol import begun_of_one_cube
from surgeline.imaging.cubeplanes import Part

GUARDS = {"nearest": 1, "linear": 1, "cubic": 3}


def cube(channels: int, **other: Any) -> dict[str, Any]:
    return {"vis": "my.ms", "imagename": "images/my.cube", "nchan": channels, **other}


def planes(part: Part) -> range:
    """The channels of the cube that a part's images hold, its guards included."""
    first = part.first - part.guards[0]
    return range(first, first + part.gridded)


def own(part: Part) -> list[int]:
    return list(planes(part))[part.own]


@pytest.mark.parametrize("interpolation", GUARDS)
@pytest.mark.parametrize("workers", [1, 2, 3, 4, 7, 16, 64])
def test_parts_cover_every_channel_once_and_carry_what_they_need_of_their_neighbours(
    workers: int, interpolation: str
) -> None:
    guard = GUARDS[interpolation]
    for channels in [*range(1, 70), 255, 256, 1000, 1001]:
        parts = cut_into_parts(cube(channels, interpolation=interpolation), workers)
        assert 1 <= len(parts) <= workers
        assert [channel for part in parts for channel in own(part)] == list(range(channels))
        sizes = [len(own(part)) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        for position, part in enumerate(parts):
            before, after = part.guards
            assert before == (guard if position > 0 else 0)
            assert after == (guard if position < len(parts) - 1 else 0)
            # CASA's deconvolver is given one plane beyond its own, which is a guard.
            assert part.cleaned.stop - part.cleaned.start == len(own(part)) + (len(parts) > 1)
            assert list(planes(part)[part.cleaned][part.own_of_cleaned]) == own(part)
            assert part.spare is None or planes(part)[part.cleaned][part.spare] not in own(part)
            # A guard is a channel that the neighbour itself cleans, so that it can say what is in it.
            held = list(planes(part))
            if before:
                assert set(held[:before]) <= set(own(parts[position - 1]))
                assert part.neighbours[0] == parts[position - 1].imagename
            if after:
                assert set(held[-after:]) <= set(own(parts[position + 1]))
                assert part.neighbours[1] == parts[position + 1].imagename
            assert planes(part).start >= 0
            assert planes(part).stop <= channels


def test_there_are_as_many_parts_as_workers_where_there_are_channels_enough() -> None:
    assert len(cut_into_parts(cube(46), 2)) == 2
    assert len(cut_into_parts(cube(46), 64)) == 46
    assert len(cut_into_parts(cube(46, interpolation="cubic"), 64)) == 15
    assert len(cut_into_parts(cube(1), 8)) == 1


def test_a_single_part_is_the_whole_cube_with_its_own_arguments() -> None:
    (part,) = cut_into_parts(cube(46, start=5, niter=100), 1)
    assert part.guards == (0, 0)
    assert part.neighbours == ("", "")
    assert part.arguments == cube(46, start=5, niter=100)
    assert part.alone and part.own == slice(0, 46)


def test_parts_have_names_of_their_own_that_sort_as_their_channels_do() -> None:
    parts = cut_into_parts(cube(1000), 30)
    names = [part.imagename for part in parts]
    assert len(set(names)) == 30
    assert names == sorted(names)
    assert all(name.startswith("images/my.cube.parts/") for name in names)


@pytest.mark.parametrize(
    ("start", "width", "first", "second"),
    [
        (5, 1, 5, 9),
        ("5", "1", 5, 9),
        ("", "", 0, 4),
        (0, "", 0, 4),
        (5, 2, 5, 13),
        (40, -1, 40, 36),
        ("1440km/s", "5km/s", "1440km/s", "1460km/s"),
        ("1440 km/s", "-5.5 km/s", "1440km/s", "1418km/s"),
        ("1.42040575GHz", "0.000001GHz", "1.42040575GHz", "1.42040975GHz"),
        ("1412665073Hz", "24414.0625Hz", "1412665073Hz", "1412762729.25Hz"),
        ("1.4e9Hz", "1e3Hz", "1400000000Hz", "1400004000Hz"),
    ],
)
def test_a_part_begins_where_the_one_before_it_ends(start: Any, width: Any, first: Any, second: Any) -> None:
    arguments = cube(8, start=start, width=width)
    assert (start_of(arguments, 0), start_of(arguments, 4)) == (first, second)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "nchan"),
        ({"nchan": -1}, "nchan"),
        ({"nchan": 0}, "nchan"),
        ({"nchan": 8, "specmode": "mfs"}, "specmode"),
        ({"nchan": 8, "deconvolver": "mtmfs"}, "deconvolver"),
        ({"nchan": 8, "gridder": "awproject"}, "gridder"),
        ({"nchan": 8, "usemask": "auto-thresh"}, "usemask"),
        ({"nchan": 8, "usemask": "auto-multithresh", "minpercentchange": 1.0}, "minpercentchange"),
        ({"nchan": 8, "usemask": "auto-multithresh", "nsigma": 3.0, "fastnoise": False}, "nsigma"),
        ({"nchan": 8, "mask": "circle[[9pix,9pix],3pix], range=[2chan,5chan]"}, "counts channels"),
        ({"nchan": 8, "outlierfile": "outliers.txt"}, "outlierfile"),
        ({"nchan": 8, "startmodel": "before.model"}, "startmodel"),
        ({"nchan": 8, "savemodel": "modelcolumn"}, "savemodel"),
        ({"nchan": 8, "facets": 2}, "facets"),
        ({"nchan": 8, "calcpsf": False}, "calcpsf"),
        ({"nchan": 8, "start": "1440km/s", "width": 1}, "start"),
        ({"nchan": 8, "start": "1.42GHz", "width": "5km/s"}, "width"),
        ({"nchan": 8, "start": "the beginning"}, "start"),
        ({"nchan": 8, "start": "1.2.3"}, "start"),
        ({"nchan": 8, "specmode": "cubedata", "start": "1.42GHz", "width": "5kHz"}, "unit"),
        ({"nchan": 8, "specmode": "cubedata", "start": "1.42GHz"}, "width"),
    ],
)
def test_what_would_not_give_tcleans_own_pixels_is_refused_with_a_way_out(
    arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadInput) as caught:
        check_arguments({"vis": "my.ms", "imagename": "my", **arguments})
    assert named in str(caught.value)
    assert caught.value.way_out


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"start": "1440km/s", "width": "5km/s"},
        {"start": "", "width": ""},
        {"start": "1440km/s"},
        {"start": "", "width": "5km/s"},
        {"start": "1.42GHz", "width": "5kHz"},
        {"start": {"m0": {"value": 1440, "unit": "km/s"}, "type": "radialvelocity"}, "width": "5km/s"},
        {"specmode": "cubedata", "start": 5},
        {"restoringbeam": ["10arcsec"]},
        {"restoringbeam": "common"},
        {"usemask": "auto-multithresh"},
        {"nsigma": 3.0, "fastnoise": False},
        {"mask": "circle[[9pix,9pix],3pix], range=[1440km/s,1450km/s]"},
        {"usemask": "pb", "pbmask": 0.2},
        {"nsigma": 0.0},
    ],
)
def test_what_gives_tcleans_own_pixels_is_taken(arguments: dict[str, Any]) -> None:
    check_arguments(cube(8, **arguments))


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_no_part_lies_across_the_blocks_of_channels_that_casa_masks_together(workers: int) -> None:
    for channels in (9, 10, 11, 33, 256):
        arguments = cube(channels, usemask="auto-multithresh", imsize=[1000, 800])
        assert block_of(arguments) == 10
        parts = cut_into_parts(arguments, workers)
        assert [channel for part in parts for channel in own(part)] == list(range(channels))
        assert all(part.first // 10 == (part.first + part.channels - 1) // 10 for part in parts)


@pytest.mark.parametrize(
    "other",
    [
        {"gridder": "mosaic"},
        {"weighting": "briggsbwtaper"},
        {"specmode": "cubesource", "phasecenter": "TRACKFIELD"},
        {"start": "1440km/s", "width": "5km/s", "veltype": "optical"},
    ],
)
def test_what_depends_on_all_channels_is_made_in_one_part(other: dict[str, Any]) -> None:
    arguments = cube(46, **other)
    check_arguments(arguments)
    (part,) = cut_into_parts(arguments, 8)
    assert part.alone
    assert len(cut_into_parts(cube(46, start="1440km/s", veltype="radio"), 8)) == 8


def record(peak: float, mask: float) -> dict[str, float]:
    names = ("peakresidualnomask", "maxpsfsidelobe", "madrms", "nsigmathreshold")
    return {"peakresidual": peak, "masksum": mask, **dict.fromkeys(names, peak)}


def test_a_part_without_a_mask_does_not_say_how_far_the_others_are_to_be_cleaned() -> None:
    merged = begun_of_one_cube([record(3.0, 0.0), record(1.0, 20.0), record(2.0, 30.0)])
    assert (merged["peakresidual"], merged["masksum"], merged["peakresidualnomask"]) == (2.0, 50.0, 3.0)
    assert begun_of_one_cube([record(3.0, 0.0), record(1.0, 0.0)])["masksum"] == 0.0
    # Before there is a mask, CASA takes all pixels.
    assert begun_of_one_cube([record(3.0, -1.0), record(1.0, -1.0)])["peakresidual"] == 3.0
