from __future__ import annotations

from typing import Any

import pytest

from surgeline.errors import BadInput
from surgeline.imaging.cube import check_arguments, cut_into_parts
from surgeline.imaging.cubeparts import Part

GUARDS = {"nearest": 0, "linear": 1, "cubic": 2}


def cube(channels: int, **other: Any) -> dict[str, Any]:
    return {"vis": "my.ms", "imagename": "images/my.cube", "nchan": channels, **other}


def planes(part: Part) -> range:
    """The channels of the cube that a part's images hold, its guards included."""
    first = int(part.arguments["start"])
    return range(first, first + int(part.arguments["nchan"]))


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
    assert len(cut_into_parts(cube(46, interpolation="cubic"), 64)) == 23
    assert len(cut_into_parts(cube(1), 8)) == 1


def test_a_single_part_is_the_whole_cube_with_its_own_arguments() -> None:
    (part,) = cut_into_parts(cube(46, start=5, niter=100), 1)
    assert part.guards == (0, 0)
    assert part.neighbours == ("", "")
    assert {**part.arguments, "imagename": "images/my.cube"} == cube(46, start=5, niter=100)


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
    one, other = cut_into_parts(cube(8, start=start, width=width, interpolation="nearest"), 2)
    assert (one.arguments["start"], other.arguments["start"]) == (first, second)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "nchan"),
        ({"nchan": -1}, "nchan"),
        ({"nchan": 0}, "nchan"),
        ({"nchan": 8, "restoringbeam": "common"}, "restoringbeam"),
        ({"nchan": 8, "usemask": "auto-multithresh"}, "usemask"),
        ({"nchan": 8, "nsigma": 3.0}, "nsigma"),
        ({"nchan": 8, "start": "1440km/s", "width": 1}, "start"),
        ({"nchan": 8, "start": "1440km/s"}, "width"),
        ({"nchan": 8, "start": "", "width": "5km/s"}, "width"),
        ({"nchan": 8, "start": "1.42GHz", "width": "5kHz"}, "unit"),
        ({"nchan": 8, "start": "the beginning"}, "start"),
        ({"nchan": 8, "start": "1.2.3"}, "start"),
        ({"nchan": 8, "start": {"m0": {"value": 1440, "unit": "km/s"}}}, "start"),
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
        {"restoringbeam": ["10arcsec"]},
        {"usemask": "pb", "pbmask": 0.2},
        {"nsigma": 0.0},
    ],
)
def test_what_gives_tcleans_own_pixels_is_taken(arguments: dict[str, Any]) -> None:
    check_arguments(cube(8, **arguments))
