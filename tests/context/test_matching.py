from __future__ import annotations

import itertools
import math
import random
import time
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from surgeline.context.matching import (
    DataColumn,
    Disagreement,
    FieldGroup,
    Matched,
    MatchOverride,
    SkyPosition,
    WindowGroup,
    choose_data,
    frequency_range,
    match_fields,
    match_windows_by_overlap,
    match_windows_exactly,
    match_windows_in_range,
    real_numbers,
    separation,
    virtual_id,
)
from surgeline.context.records import Field, Observation, SpectralWindow
from surgeline.errors import BadInput, DataError

MHZ = 1e6
ARCSEC = 1.0 / 3600.0


def window(
    number: int = 0, low: float = 1000 * MHZ, channels: int = 64, width: float = MHZ, name: str = ""
) -> SpectralWindow:
    """A window from its lower edge; of a negative width the channels run downwards. Told as an import tells it."""
    centres = [low + (channel + 0.5) * abs(width) for channel in range(channels)]
    if width < 0:
        centres.reverse()
    return SpectralWindow(
        id=number,
        name=name or f"window at {low / MHZ:.0f}",
        channels=channels,
        reference_frequency=centres[channels // 2],
        channel_width=width,
        bandwidth=channels * abs(width),
    )


def source(number: int, name: str, ra: float, dec: float) -> Field:
    return Field(id=number, name=name, ra=ra, dec=dec)


def observation(
    vis: str, windows: Sequence[SpectralWindow] = (), fields: Sequence[Field] = (), start: float = 0.0
) -> Observation:
    return Observation(
        vis=vis,
        origin=vis,
        telescope="ALMA",
        observer="",
        project="",
        start=start,
        end=start + 3600.0,
        rows=1,
        size=1,
        fields=tuple(fields),
        spectral_windows=tuple(windows),
        scans=(),
        antennas=(),
        longest_baseline=1000.0,
    )


def override(
    vis: str, number: int, group: int | tuple[int, ...], belongs: bool = True, **other: Any
) -> MatchOverride:
    told: dict[str, Any] = {
        "vis": vis,
        "what": "spectral window",
        "number": number,
        "belongs": belongs,
        "groups": group if isinstance(group, tuple) else (group,),
        "reason": "seen in the logs",
    }
    return MatchOverride(**(told | other))


def members(matched: Matched[Any]) -> dict[int, list[tuple[str, int]]]:
    return {group.id: [(member.vis, member.number) for member in group.members] for group in matched.groups}


def reasons(matched: Matched[Any]) -> dict[tuple[str, int], str]:
    return {(member.vis, member.number): member.reason for group in matched.groups for member in group.members}


def ids(groups: Iterable[WindowGroup] | Iterable[FieldGroup]) -> dict[tuple[str, int], int]:
    return {(member.vis, member.number): group.id for group in groups for member in group.members}


# The edges of a window.


@pytest.mark.parametrize("channels", [1, 2, 3, 63, 64])
@pytest.mark.parametrize("width", [MHZ, -MHZ])
def test_edges_are_half_a_channel_beyond_the_outer_channels(channels: int, width: float) -> None:
    found = frequency_range(window(low=1000 * MHZ, channels=channels, width=width))
    assert found.low == pytest.approx(1000 * MHZ, abs=1e-3)
    assert found.high == pytest.approx((1000 + channels) * MHZ, abs=1e-3)
    assert found.channels == channels
    assert found.channel_width == pytest.approx(MHZ)


def test_ngc_5921_as_its_ms_tells_it() -> None:
    told = SpectralWindow(
        id=0,
        name="none",
        channels=63,
        reference_frequency=1413421909.706,
        channel_width=24414.0625,
        bandwidth=63 * 24414.0625,
    )
    # CHAN_FREQ runs from 1.41266507 to 1.41417875 GHz.
    assert frequency_range(told).low == pytest.approx(1.41266507e9 - 24414.0625 / 2, abs=5)
    assert frequency_range(told).high == pytest.approx(1.41417875e9 + 24414.0625 / 2, abs=5)
    assert match_windows_exactly([observation("n.ms", [told])]).groups[0].name == "1.41342 GHz"


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 0},
        {"bandwidth": 0.0},
        {"bandwidth": math.nan},
        {"reference_frequency": math.inf},
        {"channel_width": math.nan},
    ],
)
def test_a_window_without_frequencies_is_told(wrong: dict[str, Any]) -> None:
    broken = window(7).model_copy(update=wrong)
    with pytest.raises(DataError, match=r"spectral window 7 of a\.ms has no usable frequencies"):
        match_windows_exactly([observation("a.ms", [broken])])


# Windows that are the same exactly.


def test_windows_of_a_setup_that_is_the_same_are_the_same() -> None:
    setup = [window(17, 1000 * MHZ), window(19, 2000 * MHZ), window(21, 3000 * MHZ)]
    # The second MS has the same windows under other numbers, in another order.
    other = [window(0, 3000 * MHZ), window(1, 1000 * MHZ), window(2, 2000 * MHZ)]
    matched = match_windows_exactly([observation("a.ms", setup), observation("b.ms", other, start=10)])
    assert members(matched) == {
        17: [("a.ms", 17), ("b.ms", 1)],
        19: [("a.ms", 19), ("b.ms", 2)],
        21: [("a.ms", 21), ("b.ms", 0)],
    }
    assert matched.disagreements == ()
    assert reasons(matched)[("a.ms", 17)] == "first of its group"
    assert reasons(matched)[("b.ms", 1)] == "exactly, 64 channels shifted by 0"
    group = matched.groups[0]
    assert (group.name, group.kind, group.channels) == ("window at 1000", "same", 64)
    assert (group.low, group.high) == pytest.approx((1000 * MHZ, 1064 * MHZ))
    assert [member.rule for member in group.members] == ["first", "exactly"]
    assert [member.value for member in group.members] == [None, 0.0]


@pytest.mark.parametrize(
    ("shift", "same"), [(0.0, True), (0.3, True), (0.99, True), (-0.99, True), (1.0, False), (1.3, False)]
)
def test_windows_that_follow_a_source_through_epochs_agree_to_less_than_a_channel(shift: float, same: bool) -> None:
    width = 61035.15625
    first = window(0, 230e9, 1920, width)
    later = window(5, 230e9 + shift * width, 1920, width)
    matched = match_windows_exactly([observation("a.ms", [first]), observation("b.ms", [later], start=1)])
    assert (len(matched.groups) == 1) is same
    if same:
        assert matched.groups[0].members[1].value == pytest.approx(abs(shift), abs=1e-4)


def test_epochs_may_stretch_channels_a_little_too() -> None:
    # 30 km/s, the Earth's way round the Sun, over 1920 channels are 0.19 channels from edge to edge.
    stretch = 1 + 30.0 / 299792.458
    first = window(0, 230e9, 1920, 61e3)
    stretched = window(0, 230e9, 1920, 61e3 * stretch)
    matched = match_windows_exactly([observation("a.ms", [first]), observation("b.ms", [stretched])])
    assert members(matched) == {0: [("a.ms", 0), ("b.ms", 0)]}
    assert matched.groups[0].members[1].value == pytest.approx(0.192, abs=0.001)


@pytest.mark.parametrize("channels", [63, 64])
def test_the_order_of_channels_does_not_count(channels: int) -> None:
    upwards, downwards = window(0, channels=channels), window(0, channels=channels, width=-MHZ)
    matched = match_windows_exactly([observation("a.ms", [upwards]), observation("b.ms", [downwards])])
    assert members(matched) == {0: [("a.ms", 0), ("b.ms", 0)]}
    assert matched.groups[0].members[1].value == 0.0


def test_other_channels_over_the_same_range_are_not_the_same_exactly() -> None:
    fine, coarse = window(0, channels=128, width=MHZ / 2), window(0, channels=64)
    matched = match_windows_exactly([observation("a.ms", [fine]), observation("b.ms", [coarse])])
    assert members(matched) == {0: [("a.ms", 0)], 1: [("b.ms", 0)]}
    wider = window(0, width=1.1 * MHZ)
    assert len(match_windows_exactly([observation("a.ms", [coarse]), observation("b.ms", [wider])]).groups) == 2


def test_windows_of_few_channels_agree_to_a_tenth_of_their_bandwidth() -> None:
    def groups(shift: float) -> int:
        one, other = window(0, 230e9, 1, 2e9), window(0, 230e9 + shift * 2e9, 1, 2e9)
        return len(match_windows_exactly([observation("a.ms", [one]), observation("b.ms", [other])]).groups)

    assert groups(0.09) == 1
    assert groups(0.11) == 2


def test_the_tolerance_is_in_channels() -> None:
    pair = [observation("a.ms", [window(0)]), observation("b.ms", [window(0, 1000 * MHZ + 0.4 * MHZ)])]
    assert len(match_windows_exactly(pair, tolerance=0.5).groups) == 1
    assert len(match_windows_exactly(pair, tolerance=0.3).groups) == 2
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(BadInput, match="cannot agree"):
            match_windows_exactly(pair, tolerance=wrong)


def test_a_group_takes_one_window_of_each_ms_the_one_that_is_shifted_least() -> None:
    first = observation("a.ms", [window(0)])
    second = observation("b.ms", [window(3, 1000.5 * MHZ), window(4, 1000.1 * MHZ)], start=1)
    matched = match_windows_exactly([first, second])
    assert members(matched) == {0: [("a.ms", 0), ("b.ms", 4)], 3: [("b.ms", 3)]}
    (told,) = matched.disagreements
    assert (told.topic, told.subject, told.groups) == ("spectral window", "window 3 of b.ms", (3, 0))
    assert "window 3 of b.ms is like group 0, too, but is group 3" in told.text


def test_windows_at_one_frequency_are_told_apart_by_their_names_and_then_numbers() -> None:
    first = observation("a.ms", [window(0, name="BB_1"), window(1, name="BB_2")])
    swapped = observation(
        "b.ms", [window(0, 1000.2 * MHZ, name="BB_2"), window(1, 1000.2 * MHZ, name="BB_1")], start=1
    )
    unnamed = observation("c.ms", [window(5, name="none"), window(6, name="none")], start=2)
    matched = match_windows_exactly([first, swapped, unnamed])
    assert members(matched) == {
        0: [("a.ms", 0), ("b.ms", 1), ("c.ms", 5)],
        1: [("a.ms", 1), ("b.ms", 0), ("c.ms", 6)],
    }
    assert matched.disagreements == ()


def test_a_window_that_could_be_another_group_too_is_told() -> None:
    twins = observation("a.ms", [window(0, name="BB_1"), window(1, name="BB_2")])
    single = observation("b.ms", [window(0, name="BB_2")], start=1)
    matched = match_windows_exactly([twins, single])
    assert members(matched) == {0: [("a.ms", 0)], 1: [("a.ms", 1), ("b.ms", 0)]}
    assert [told.groups for told in matched.disagreements] == [(1, 0)]


def test_an_ms_is_given_once() -> None:
    with pytest.raises(BadInput, match=r"a\.ms is given 2 times"):
        match_windows_exactly([observation("a.ms"), observation("a.ms")])


def test_nothing_is_in_nothing() -> None:
    assert match_windows_exactly([]).groups == ()
    assert match_windows_by_overlap([observation("a.ms")]).groups == ()
    assert match_fields([]).groups == ()
    assert match_windows_in_range([], 1e9, 2e9).groups[0].members == ()


# Windows that overlap.


def overlap(first: SpectralWindow, second: SpectralWindow, threshold: float = 0.5) -> Matched[WindowGroup]:
    return match_windows_by_overlap(
        [observation("a.ms", [first]), observation("b.ms", [second], start=1)], threshold=threshold
    )


@pytest.mark.parametrize(("share", "same"), [(1.0, True), (0.93, True), (0.5, True), (0.49, False)])
def test_windows_overlap_by_the_fraction_that_they_share(share: float, same: bool) -> None:
    matched = overlap(window(0, channels=100), window(1, 1000 * MHZ + (1 - share) * 100 * MHZ, channels=100))
    assert (len(matched.groups) == 1) is same
    if same:
        assert matched.groups[0].members[1].reason == f"overlap {share:.2f}"
        assert matched.groups[0].members[1].value == pytest.approx(share)


def test_the_fraction_is_of_the_narrower_window_whichever_is_first() -> None:
    wide, narrow = window(0, 1000 * MHZ, 1000), window(0, 1990 * MHZ, 20, -MHZ)
    for first, second in ((wide, narrow), (narrow, wide)):
        matched = overlap(first, second)
        assert matched.groups[0].members[1].value == 0.5
        assert len(overlap(first, second, threshold=0.51).groups) == 2
    inside = window(0, 1500 * MHZ, 20)
    assert len(overlap(wide, inside, threshold=1.0).groups) == 1


@pytest.mark.parametrize("gap", [0.0, 1e-7, 0.1 * MHZ, 500 * MHZ])
def test_windows_that_touch_or_lie_apart_share_nothing(gap: float) -> None:
    matched = overlap(window(0, channels=64), window(1, 1064 * MHZ + gap), threshold=1e-9)
    assert members(matched) == {0: [("a.ms", 0)], 1: [("b.ms", 1)]}
    assert matched.disagreements == ()


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.1, math.nan])
def test_a_threshold_is_a_fraction(threshold: float) -> None:
    with pytest.raises(BadInput, match="cannot overlap"):
        overlap(window(0), window(0), threshold)


def test_of_windows_that_are_covered_alike_the_one_of_like_bandwidth_is_the_same() -> None:
    first = observation("a.ms", [window(0, 1000 * MHZ, 2000), window(1, 1500 * MHZ, 60)])
    second = observation("b.ms", [window(0, 1500 * MHZ, 50), window(1, 1000 * MHZ, 1900)], start=1)
    matched = match_windows_by_overlap([first, second])
    assert members(matched) == {0: [("a.ms", 0), ("b.ms", 1)], 1: [("a.ms", 1), ("b.ms", 0)]}
    assert matched.disagreements == ()


def test_one_wide_window_and_many_narrow_ones_are_told_in_either_order() -> None:
    wide = [window(0, 1000 * MHZ, 1024)]
    narrow = [window(number, (1000 + 64 * number) * MHZ) for number in range(16)]
    matched = match_windows_by_overlap([observation("wide.ms", wide), observation("narrow.ms", narrow, start=1)])
    assert members(matched)[0] == [("wide.ms", 0), ("narrow.ms", 0)]
    assert [told.groups for told in matched.disagreements] == [(number, 0) for number in range(1, 16)]
    matched = match_windows_by_overlap(
        [observation("wide.ms", wide, start=2), observation("narrow.ms", narrow, start=1)]
    )
    assert members(matched)[0] == [("narrow.ms", 0), ("wide.ms", 0)]
    (told,) = matched.disagreements
    assert told.groups == (0, *range(1, 16))


def test_groups_do_not_drift_along_overlapping_windows() -> None:
    # Each overlaps its neighbours by 0.6, but the third the first by only 0.2.
    chain = [observation(f"{step}.ms", [window(0, (1000 + 40 * step) * MHZ, 100)], start=step) for step in range(5)]
    matched = match_windows_by_overlap(chain)
    assert members(matched) == {0: [("0.ms", 0), ("1.ms", 0)], 1: [("2.ms", 0), ("3.ms", 0)], 2: [("4.ms", 0)]}


# Windows in a frequency range.


def in_range(low: float, high: float, how: Any) -> list[tuple[str, int]]:
    mss = [
        observation("a.ms", [window(0, 1000 * MHZ, 100), window(1, 1010 * MHZ, 20, -MHZ)]),
        observation("b.ms", [window(0, 1020 * MHZ, 10), window(1, 2000 * MHZ)], start=1),
    ]
    (group,) = match_windows_in_range(mss, low, high, how).groups
    return [(member.vis, member.number) for member in group.members]


def test_windows_that_cover_a_range_are_all_in_its_group() -> None:
    assert in_range(1020 * MHZ, 1025 * MHZ, "cover") == [("a.ms", 0), ("a.ms", 1), ("b.ms", 0)]
    assert in_range(1020 * MHZ, 1031 * MHZ, "cover") == [("a.ms", 0)]
    # A line.
    assert in_range(1420.40575e6, 1420.40575e6, "cover") == []
    assert in_range(1029.9 * MHZ, 1029.9 * MHZ, "cover") == [("a.ms", 0), ("a.ms", 1), ("b.ms", 0)]


def test_windows_that_lie_in_a_range_are_all_in_its_group() -> None:
    assert in_range(900 * MHZ, 1100 * MHZ, "within") == [("a.ms", 0), ("a.ms", 1), ("b.ms", 0)]
    assert in_range(1005 * MHZ, 1050 * MHZ, "within") == [("a.ms", 1), ("b.ms", 0)]
    assert in_range(3000 * MHZ, 4000 * MHZ, "within") == []


@pytest.mark.parametrize("how", ["cover", "within"])
def test_edges_are_part_of_a_range(how: str) -> None:
    assert ("a.ms", 1) in in_range(1010 * MHZ, 1030 * MHZ, how)
    assert ("b.ms", 0) in in_range(1020 * MHZ, 1030 * MHZ, how)


def test_a_range_says_how_much_of_it_there_is() -> None:
    mss = [observation("a.ms", [window(0, 1000 * MHZ, 100)])]
    (group,) = match_windows_in_range(mss, 1010 * MHZ, 1035 * MHZ).groups
    assert group.members[0].reason == "frequency range, which is 0.25 of it"
    assert (group.low, group.high, group.kind, group.channels) == (1010 * MHZ, 1035 * MHZ, "cover", 0)
    assert group.name == "1.01 to 1.035 GHz"
    (group,) = match_windows_in_range(mss, 900 * MHZ, 1100 * MHZ, "within").groups
    assert group.members[0].reason == "frequency range, of which it is 0.50"


@pytest.mark.parametrize(("low", "high"), [(2e9, 1e9), (math.nan, 1e9), (1e9, math.inf), (-1.0, 1e9)])
def test_a_range_begins_with_its_lower_limit(low: float, high: float) -> None:
    with pytest.raises(BadInput, match="no frequency range"):
        match_windows_in_range([], low, high)


def test_a_range_is_covered_or_holds() -> None:
    wrong: Any = "covers"
    with pytest.raises(BadInput, match="did you mean 'cover'"):
        match_windows_in_range([], 1e9, 2e9, wrong)


def test_a_range_keeps_its_id_and_is_no_windows_virtual_id() -> None:
    mss = [observation("a.ms", [window(0), window(1, 2000 * MHZ)])]
    same = match_windows_exactly(mss).groups
    (ranged,) = match_windows_in_range(mss, 1010 * MHZ, 1020 * MHZ, known=same).groups
    assert ranged.id == 2
    mss.append(observation("b.ms", [window(2), window(9, 5000 * MHZ)], start=1))
    (again,) = match_windows_in_range(mss, 1010 * MHZ, 1020 * MHZ, known=(*same, ranged)).groups
    assert again.id == 2
    assert [member.vis for member in again.members] == ["a.ms", "b.ms"]
    (other,) = match_windows_in_range(mss, 1010 * MHZ, 1020 * MHZ, "within", known=(*same, ranged)).groups
    assert other.id == 3
    # Groups of windows that are the same keep clear of the range's id, and do not count it as theirs.
    grown = match_windows_exactly(mss, known=(*same, ranged)).groups
    assert [group.id for group in grown] == [0, 1, 9]
    assert virtual_id((ranged, *grown), "b.ms", 2) == 0
    assert real_numbers((ranged, *grown), 2, "a.ms") == (0,)
    # An MS that is not given keeps its place.
    (kept,) = match_windows_in_range(mss[1:], 1010 * MHZ, 1020 * MHZ, known=(again,)).groups
    assert kept == again


# Virtual ids.


def epochs(number: int, windows: int, seed: int = 1) -> list[Observation]:
    """MSs of one setup, each with its own Doppler shift, numbering of windows and one window of its own."""
    chance = random.Random(seed)
    made = []
    for epoch in range(number):
        shift = chance.uniform(-0.45, 0.45) * MHZ
        numbers = chance.sample(range(windows), windows)
        setup = [
            window(
                numbers[position],
                (1000 + 200 * position) * MHZ + shift,
                128,
                chance.choice((MHZ, -MHZ)),
                name=f"window {position}",
            )
            for position in range(windows)
        ]
        chance.shuffle(setup)
        own = window(windows, (100_000 + 200 * epoch) * MHZ)
        made.append(observation(f"{epoch}.ms", [*setup, own], start=float(chance.randrange(3))))
    return made


@pytest.mark.parametrize("match", [match_windows_exactly, match_windows_by_overlap])
def test_the_order_in_which_mss_are_given_does_not_matter(match: Any) -> None:
    mss = epochs(4, 3)
    expected = match(mss)
    assert len(expected.groups) == 3 + 4
    for order in itertools.permutations(mss):
        assert match(order) == expected


@pytest.mark.parametrize("match", [match_windows_exactly, match_windows_by_overlap])
@pytest.mark.parametrize("seed", range(5))
def test_an_ms_that_is_added_changes_no_id_whenever_it_was_observed(match: Any, seed: int) -> None:
    mss = epochs(8, 5, seed)
    chance = random.Random(seed)
    chance.shuffle(mss)
    known: tuple[WindowGroup, ...] = ()
    for count in range(1, len(mss) + 1):
        given = mss[:count]
        chance.shuffle(given)
        grown = match(given, known=known).groups
        assert ids(known).items() <= ids(grown).items()
        definitions = {(group.id, group.name, group.low, group.high) for group in grown}
        assert {(group.id, group.name, group.low, group.high) for group in known} <= definitions
        known = grown
    assert len(ids(known)) == sum(len(each.spectral_windows) for each in mss)
    # The earlier groups suffice, and nothing new is nothing new.
    assert match(mss, known=known).groups == known
    assert match([], known=known).groups == known


@pytest.mark.parametrize("match", [match_windows_exactly, match_windows_by_overlap])
@pytest.mark.parametrize("seed", range(5))
def test_every_window_is_in_one_group_and_a_group_has_one_of_each_ms(match: Any, seed: int) -> None:
    chance = random.Random(seed)
    mss = [
        observation(
            f"{number}.ms",
            [
                window(
                    each, chance.uniform(1000, 1100) * MHZ, chance.choice((16, 64)), chance.choice((MHZ, -2 * MHZ))
                )
                for each in range(8)
            ],
            start=float(number),
        )
        for number in range(6)
    ]
    matched = match(mss)
    placed = [(member.vis, member.number) for group in matched.groups for member in group.members]
    assert sorted(placed) == sorted((each.vis, number) for each in mss for number in range(8))
    for group in matched.groups:
        visses = [member.vis for member in group.members]
        assert len(visses) == len(set(visses))
        for member in group.members:
            assert virtual_id(matched.groups, member.vis, member.number) == group.id
            assert real_numbers(matched.groups, group.id, member.vis) == (member.number,)
    assert len({group.id for group in matched.groups}) == len(matched.groups)


def test_groups_survive_being_stored() -> None:
    mss = epochs(4, 3)
    known = match_windows_exactly(mss).groups
    stored = tuple(WindowGroup.model_validate_json(group.model_dump_json()) for group in known)
    assert stored == known
    assert match_windows_exactly(mss, known=stored).groups == known


def test_ids_are_the_numbers_of_the_first_ms_and_then_the_next() -> None:
    first = observation("a.ms", [window(17, 1000 * MHZ), window(19, 2000 * MHZ)], start=1)
    second = observation("b.ms", [window(19, 3000 * MHZ), window(20, 4000 * MHZ), window(3, 5000 * MHZ)], start=2)
    matched = match_windows_exactly([second, first])
    assert ids(matched.groups) == {
        ("a.ms", 17): 17,
        ("a.ms", 19): 19,
        ("b.ms", 3): 3,
        ("b.ms", 19): 20,
        ("b.ms", 20): 21,
    }


def test_mss_that_begin_together_are_taken_by_name() -> None:
    mss = [observation(vis, [window(0, low * MHZ)]) for vis, low in (("b.ms", 2000), ("a.ms", 1000))]
    assert ids(match_windows_exactly(mss).groups) == {("a.ms", 0): 0, ("b.ms", 0): 1}


def test_an_ms_that_is_imported_anew_with_other_windows_is_matched_anew() -> None:
    mss = [observation("a.ms", [window(0), window(1, 2000 * MHZ)]), observation("b.ms", [window(0)], start=1)]
    known = match_windows_exactly(mss).groups
    anew = observation("a.ms", [window(0, 3000 * MHZ), window(2, 1000.2 * MHZ)])
    matched = match_windows_exactly([anew, mss[1]], known=known)
    assert members(matched) == {0: [("b.ms", 0), ("a.ms", 2)], 1: [], 2: [("a.ms", 0)]}


def test_virtual_and_real_numbers_of_what_is_not_there() -> None:
    groups = match_windows_exactly([observation("a.ms", [window(0)])]).groups
    assert virtual_id(groups, "a.ms", 5) is None
    assert virtual_id(groups, "b.ms", 0) is None
    assert real_numbers(groups, 0, "b.ms") == ()
    with pytest.raises(BadInput, match="no group 5"):
        real_numbers(groups, 5, "a.ms")


@pytest.mark.parametrize("match", [match_windows_exactly, match_windows_by_overlap])
def test_forty_mss_of_twenty_five_windows_are_matched_at_once(match: Any) -> None:
    mss = epochs(40, 24)
    begin = time.process_time()
    matched = match(mss)
    assert time.process_time() - begin < 0.5
    assert len(matched.groups) == 24 + 40
    begin = time.process_time()
    assert match(mss, known=matched.groups).groups == matched.groups
    assert time.process_time() - begin < 0.5


# A user's word on windows.


def test_a_user_says_which_group_a_window_is() -> None:
    mss = [observation("a.ms", [window(0)]), observation("b.ms", [window(4, 2000 * MHZ)], start=1)]
    said = override("b.ms", 4, 0, reason=" mislabelled by the correlator ")
    matched = match_windows_exactly(mss, overrides=[said])
    assert members(matched) == {0: [("a.ms", 0), ("b.ms", 4)]}
    member = matched.groups[0].members[1]
    assert (member.rule, member.overridden) == ("override", True)
    assert member.reason == "override: group 0, mislabelled by the correlator"
    assert matched.overrides == (said,)


def test_a_user_says_which_group_a_window_is_not() -> None:
    mss = [observation("a.ms", [window(0)]), observation("b.ms", [window(0)], start=1)]
    matched = match_windows_exactly(mss, overrides=[override("b.ms", 0, 0, belongs=False)])
    assert members(matched) == {0: [("a.ms", 0)], 1: [("b.ms", 0)]}
    assert reasons(matched)[("b.ms", 0)] == "first of its group; override: not group 0, seen in the logs"
    assert matched.disagreements == ()


def test_a_window_that_is_not_its_group_goes_to_the_next_like_it() -> None:
    mss = [
        observation("a.ms", [window(0), window(1, 1000.3 * MHZ)]),
        observation("b.ms", [window(0, 1000.1 * MHZ)], start=1),
    ]
    matched = match_windows_exactly(mss, overrides=[override("b.ms", 0, 0, belongs=False)])
    assert members(matched) == {0: [("a.ms", 0)], 1: [("a.ms", 1), ("b.ms", 0)]}
    assert reasons(matched)[("b.ms", 0)].startswith("exactly, 64 channels shifted by 0.2; override: not group 0")
    neither = match_windows_exactly(mss, overrides=[override("b.ms", 0, (0, 1), belongs=False)])
    assert members(neither) == {0: [("a.ms", 0)], 1: [("a.ms", 1)], 2: [("b.ms", 0)]}


def test_a_word_that_changes_nothing_is_recorded_all_the_same() -> None:
    mss = [observation("a.ms", [window(0), window(1, 2000 * MHZ)])]
    said = [override("a.ms", 0, 1, belongs=False), override("a.ms", 1, 1)]
    matched = match_windows_exactly(mss, overrides=said)
    assert members(matched) == {0: [("a.ms", 0)], 1: [("a.ms", 1)]}
    assert reasons(matched) == {
        ("a.ms", 0): "first of its group; override: not group 1, seen in the logs",
        ("a.ms", 1): "override: group 1, seen in the logs",
    }
    assert set(matched.overrides) == set(said)


def test_a_user_may_swap_windows_or_give_a_group_two_of_an_ms() -> None:
    mss = [
        observation("a.ms", [window(0), window(1, 2000 * MHZ)]),
        observation("b.ms", [window(0), window(1, 2000 * MHZ)], start=1),
    ]
    swapped = match_windows_exactly(mss, overrides=[override("b.ms", 0, 1), override("b.ms", 1, 0)])
    assert ids(swapped.groups) == {("a.ms", 0): 0, ("a.ms", 1): 1, ("b.ms", 0): 1, ("b.ms", 1): 0}
    # What is said to be a group makes room for what is said not to be another.
    half = match_windows_exactly(mss, overrides=[override("b.ms", 0, 0, belongs=False), override("b.ms", 1, 0)])
    assert ids(half.groups)[("b.ms", 1)] == 0
    both = match_windows_exactly(mss, overrides=[override("b.ms", 1, 0)])
    assert real_numbers(both.groups, 0, "b.ms") == (0, 1)


def test_ids_do_not_depend_on_overrides() -> None:
    mss = epochs(5, 4)
    plain = match_windows_exactly(mss).groups
    moved = match_windows_exactly(mss, overrides=[override("0.ms", 4, plain[0].id)])
    assert ids(moved.groups) == ids(plain) | {("0.ms", 4): plain[0].id}
    again = match_windows_exactly(mss, known=plain, overrides=[override("0.ms", 4, plain[0].id)])
    assert ids(again.groups) == ids(moved.groups)
    # A group that was known stays when it is empty, so that its id is never another's.
    assert {group.id for group in again.groups} == {group.id for group in plain}


@pytest.mark.parametrize("belongs", [True, False])
def test_overrides_hold_with_known_groups_until_they_are_withdrawn(belongs: bool) -> None:
    mss = [observation("a.ms", [window(0), window(1, 2000 * MHZ)]), observation("b.ms", [window(0)], start=1)]
    plain = match_windows_exactly(mss)
    said = [override("b.ms", 0, 1 if belongs else 0, belongs)]
    first = match_windows_exactly(mss, known=plain.groups, overrides=said)
    assert ids(first.groups)[("b.ms", 0)] != 0
    assert match_windows_exactly(mss, known=first.groups, overrides=said).groups == first.groups
    withdrawn = match_windows_exactly(mss, known=first.groups)
    assert ids(withdrawn.groups) == ids(plain.groups)
    assert not any(member.overridden for group in withdrawn.groups for member in group.members)


def test_a_user_has_a_word_on_ranges_too() -> None:
    mss = [observation("a.ms", [window(0), window(1)]), observation("b.ms", [window(0, 5000 * MHZ)], start=1)]
    said = [override("a.ms", 1, 0, belongs=False), override("b.ms", 0, 0)]
    matched = match_windows_in_range(mss, 1010 * MHZ, 1020 * MHZ, overrides=said)
    assert members(matched) == {0: [("a.ms", 0), ("b.ms", 0)]}
    assert reasons(matched)[("b.ms", 0)] == "override: group 0, seen in the logs"
    assert set(matched.overrides) == set(said)
    # A word on a range is none on the windows that are the same, and the other way round.
    same = match_windows_exactly(mss, known=matched.groups, overrides=said)
    assert same.overrides == ()
    assert match_windows_in_range(
        mss, 1010 * MHZ, 1020 * MHZ, known=(*matched.groups, *same.groups), overrides=[override("a.ms", 0, 2)]
    ).overrides == ()  # fmt: skip


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ([override("aa.ms", 0, 0)], r"window 0 of aa\.ms, an MS that is not given\n.*did you mean 'a\.ms'"),
        ([override("a.ms", 7, 0)], r"window 7 of a\.ms, which is not there\n.*has 0, 1"),
        ([override("a.ms", 0, 9)], "group 9, which is not there"),
        ([override("a.ms", 0, (0, 9), belongs=False)], "group 9, which is not there"),
        ([override("a.ms", 0, 0), override("a.ms", 0, 1)], r"two overrides speak of spectral window 0 of a\.ms"),
    ],
)
def test_an_override_speaks_of_what_is_there(said: list[MatchOverride], complaint: str) -> None:
    mss = [observation("a.ms", [window(0), window(1, 2000 * MHZ)])]
    with pytest.raises(BadInput, match=complaint):
        match_windows_exactly(mss, overrides=said)


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"reason": "  "}, "needs a reason"),
        ({"groups": ()}, "needs groups"),
        ({"groups": (1, 2)}, "belongs to one group"),
        ({"what": "antenna"}, "spectral window"),
    ],
)
def test_an_override_says_of_what_and_why(wrong: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        override("a.ms", 0, 0, **wrong)
    assert MatchOverride.identity == ("vis", "what", "number")


# The sky.


@pytest.mark.parametrize(
    ("one", "other", "degrees"),
    [
        ((0.0, 0.0), (0.0, 0.0), 0.0),
        ((359.9, 0.0), (0.1, 0.0), 0.2),
        ((10.0, 89.9), (190.0, 89.9), 0.2),
        ((0.0, 90.0), (123.0, 90.0), 0.0),
        ((0.0, -90.0), (0.0, 90.0), 180.0),
        ((0.0, 0.0), (180.0, 0.0), 180.0),
        ((0.0, 60.0), (1.0, 60.0), 0.49999),
    ],
)
def test_separations_on_the_sphere(one: tuple[float, float], other: tuple[float, float], degrees: float) -> None:
    assert separation(SkyPosition(*one), SkyPosition(*other)) == pytest.approx(degrees * 3600, abs=0.03)
    assert separation(SkyPosition(*one), SkyPosition(*other)) == separation(SkyPosition(*other), SkyPosition(*one))


# Fields.


def sky(*fields: tuple[str, float, float], vis: str = "", start: float = 0.0) -> Observation:
    return observation(
        vis or f"{start:.0f}.ms",
        fields=[source(number, name, ra, dec) for number, (name, ra, dec) in enumerate(fields)],
        start=start,
    )


def test_fields_of_one_name_and_place_are_one_source() -> None:
    mss = [
        sky(("3C286", 202.7845, 30.5092), ("N5921", 230.485, 5.07)),
        sky(("n5921 ", 230.485, 5.07 + 0.3 * ARCSEC), ("3c286", 202.7845, 30.5092), start=1),
    ]
    matched = match_fields(mss)
    assert members(matched) == {0: [("0.ms", 0), ("1.ms", 1)], 1: [("0.ms", 1), ("1.ms", 0)]}
    assert matched.disagreements == ()
    assert [(group.name, group.names) for group in matched.groups] == [("3C286", ("3C286",)), ("N5921", ("N5921",))]
    assert reasons(matched)[("1.ms", 0)] == "name and position, 0.3 arcsec apart"
    assert matched.groups[1].members[1].value == pytest.approx(0.3, abs=1e-4)


def test_a_place_of_many_names_is_one_source_of_all_names() -> None:
    place = (202.7845, 30.5092)
    mss = [
        sky((name, *place), start=start) for start, name in enumerate(("3C286", "J1331+3030", "3c286", "1331+305"))
    ]
    matched = match_fields(mss)
    assert [group.names for group in matched.groups] == [("3C286", "J1331+3030", "1331+305")]
    assert [member.rule for member in matched.groups[0].members] == [
        "first", "position", "name and position", "position",
    ]  # fmt: skip
    assert reasons(matched)[("1.ms", 0)] == "position, 0 arcsec from 3C286, under another name"
    assert matched.disagreements == ()


def test_one_name_at_two_places_is_two_sources_and_is_told() -> None:
    mss = [sky(("SRC", 10.0, 20.0)), sky(("src  ", 10.0, 20.0 + 5 * ARCSEC), start=1)]
    matched = match_fields(mss)
    assert members(matched) == {0: [("0.ms", 0)], 1: [("1.ms", 0)]}
    (told,) = matched.disagreements
    assert (told.topic, told.subject, told.groups) == ("field", "src", (0, 1))
    assert told.value == pytest.approx(5.0, abs=1e-3)
    assert told.text == "src is group 0 in 0.ms, and 5 arcsec from there, as group 1, in 1.ms"
    assert matched.facts() == [*matched.groups, told]
    assert isinstance(told, Disagreement)


@pytest.mark.parametrize(("apart", "same"), [(0.0, True), (0.99, True), (1.01, False)])
@pytest.mark.parametrize(
    ("ra", "dec", "direction"),
    [
        (120.0, 45.0, "north"),
        (120.0, 45.0, "east"),
        (0.0, 0.0, "east"),
        (0.0, 70.0, "east"),
        (0.0, 0.0, "north"),
        (77.0, 90.0, "over the pole"),
        (77.0, -90.0, "over the pole"),
        (77.0, 89.99995, "over the pole"),
    ],
)
def test_the_tolerance_is_an_angle_everywhere_on_the_sphere(
    ra: float, dec: float, direction: str, apart: float, same: bool
) -> None:
    if direction == "east":
        half = apart * ARCSEC / math.cos(math.radians(dec)) / 2
        one, other = ((ra - half) % 360.0, dec), (ra + half, dec)
    elif direction == "north":
        one, other = (ra, dec), (ra, dec + apart * ARCSEC)
    else:
        # From where it is towards the pole and, beyond it, down again on the other side.
        left = apart * ARCSEC - (90.0 - abs(dec))
        one = (ra, dec)
        other = ((ra + 180.0) % 360.0, math.copysign(90.0 - left, dec)) if left > 0 else (ra, dec + apart * ARCSEC)
    assert separation(SkyPosition(*one), SkyPosition(*other)) == pytest.approx(apart, abs=1e-3)
    matched = match_fields([sky(("A", *one)), sky(("B", *other), start=1)])
    assert (len(matched.groups) == 1) is same


def test_right_ascensions_mean_nothing_at_the_pole() -> None:
    mss = [sky((f"P{number}", 90.0 * number, 90.0), start=number) for number in range(4)]
    assert len(match_fields(mss).groups) == 1


def test_a_name_decides_between_places_that_are_near() -> None:
    first = sky(("A", 10.0, 0.0), ("B", 10.0 + 12 * ARCSEC, 0.0))
    second = sky(("b", 10.0 + 4 * ARCSEC, 0.0), ("C", 10.0 + 4 * ARCSEC, 0.0), start=1)
    matched = match_fields([first, second], tolerance=10.0)
    assert members(matched) == {0: [("0.ms", 0), ("1.ms", 1)], 1: [("0.ms", 1), ("1.ms", 0)]}


def test_a_source_may_be_several_fields_of_an_ms() -> None:
    matched = match_fields([sky(("3C84", 49.95, 41.5), ("T", 50.0, 40.0), ("3C84", 49.95, 41.5))])
    assert members(matched) == {0: [("0.ms", 0), ("0.ms", 2)], 1: [("0.ms", 1)]}
    assert real_numbers(matched.groups, 0, "0.ms") == (0, 2)
    assert virtual_id(matched.groups, "0.ms", 2) == 0


def test_the_pointings_of_a_mosaic_differ_without_disagreeing() -> None:
    pointings = [("M51", 202.47 + 10 * step * ARCSEC, 47.2) for step in range(20)]
    matched = match_fields([sky(*pointings), sky(*reversed(pointings), start=1)])
    assert [len(group.members) for group in matched.groups] == [2] * 20
    assert matched.disagreements == ()
    # Of another mosaic of that name each pointing is told once, with the nearest.
    moved = [("M51", ra, dec + 4 * ARCSEC) for _, ra, dec in pointings]
    matched = match_fields([sky(*pointings), sky(*moved, start=1)])
    assert len(matched.groups) == 40
    assert [told.groups for told in matched.disagreements] == [(number, number + 20) for number in range(20)]


def test_a_field_without_a_place_is_told() -> None:
    for ra, dec in ((math.nan, 0.0), (0.0, math.nan), (0.0, 90.1)):
        with pytest.raises(DataError, match=r"field 0 \(A\) of 0\.ms has no usable position"):
            match_fields([sky(("A", ra, dec))])
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(BadInput, match="cannot agree"):
            match_fields([], tolerance=wrong)


def skies(number: int, seed: int) -> list[Observation]:
    chance = random.Random(seed)
    places = [("A", 0.0, 0.0), ("B", 0.0, 90.0), ("C", 120.0, -45.0), ("A", 5.0, 5.0)]
    made = []
    for step in range(number):
        fields = [
            (
                name if chance.random() < 0.7 else f"{name} {step}",
                ra % 360.0,
                dec - abs(chance.uniform(0, 0.4)) * ARCSEC,
            )
            for name, ra, dec in chance.sample(places, 3)
        ]
        made.append(sky(*fields, vis=f"{step}.ms", start=float(chance.randrange(3))))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_fields_do_not_depend_on_the_order_in_which_mss_are_given(seed: int) -> None:
    mss = skies(5, seed)
    expected = match_fields(mss)
    assert len(expected.groups) == 4
    for order in itertools.permutations(mss):
        assert match_fields(order) == expected


@pytest.mark.parametrize("seed", range(5))
def test_an_ms_that_is_added_changes_no_field_s_id(seed: int) -> None:
    mss = skies(8, seed)
    known: tuple[FieldGroup, ...] = ()
    for count in range(1, len(mss) + 1):
        grown = match_fields(mss[:count], known=known).groups
        assert ids(known).items() <= ids(grown).items()
        known = grown
    stored = tuple(FieldGroup.model_validate_json(group.model_dump_json()) for group in known)
    assert match_fields(mss, known=stored).groups == known


def test_a_field_that_was_corrected_is_matched_anew() -> None:
    known = match_fields([sky(("A", 10.0, 0.0)), sky(("A", 11.0, 0.0), start=1)])
    corrected = match_fields([sky(("A", 10.0, 0.0)), sky(("A", 10.0, 0.0), start=1)], known=known.groups)
    assert members(corrected) == {0: [("0.ms", 0), ("1.ms", 0)], 1: []}
    assert corrected.disagreements == ()


def test_a_user_says_which_field_is_which() -> None:
    mss = [sky(("Jupiter", 10.0, 0.0)), sky(("Jupiter", 11.0, 0.0), start=1)]
    assert len(match_fields(mss).disagreements) == 1
    said = override("1.ms", 0, 0, what="field", reason="planets move")
    matched = match_fields(mss, overrides=[said, override("9.ms", 0, 5)])
    assert members(matched) == {0: [("0.ms", 0), ("1.ms", 0)]}
    assert reasons(matched)[("1.ms", 0)] == "override: group 0, planets move"
    assert matched.disagreements == ()
    assert matched.overrides == (said,)
    # Or that they are different indeed, which is not told again.
    different = match_fields(mss, overrides=[override("1.ms", 0, 0, belongs=False, what="field")])
    assert members(different) == {0: [("0.ms", 0)], 1: [("1.ms", 0)]}
    assert different.disagreements == ()


def test_a_user_says_that_fields_at_one_place_differ() -> None:
    mss = [sky(("A", 10.0, 0.0), ("off", 12.0, 0.0)), sky(("B", 10.0, 0.0), start=1)]
    said = [override("1.ms", 0, 0, belongs=False, what="field")]
    first = match_fields(mss, overrides=said)
    assert members(first) == {0: [("0.ms", 0)], 1: [("0.ms", 1)], 2: [("1.ms", 0)]}
    assert first.groups[0].names == ("A",)
    assert match_fields(mss, known=first.groups, overrides=said).groups == first.groups


def test_many_fields_are_matched_at_once() -> None:
    chance = random.Random(2)
    places = [(f"T{number}", chance.uniform(0, 360), chance.uniform(-90, 90)) for number in range(2000)]
    mss = [sky(*places, vis=f"{step}.ms", start=step) for step in range(3)]
    begin = time.process_time()
    assert len(match_fields(mss).groups) == 2000
    assert time.process_time() - begin < 2.0


# Data columns.

COLUMNS = {
    "a.ms": {"RAW": "DATA", "REGCAL_CONTLINE_ALL": "CORRECTED_DATA"},
    "b.ms": {"RAW": "DATA"},
    "c.ms": {"REGCAL_CONTLINE_SCIENCE": "DATA", "REGCAL_CONTLINE_ALL": "CORRECTED_DATA"},
}


def columns(chosen: tuple[DataColumn, ...]) -> dict[str, tuple[str, str]]:
    return {each.vis: (each.data_type, each.column) for each in chosen}


def test_the_first_type_that_all_mss_hold_is_chosen() -> None:
    two = {vis: COLUMNS[vis] for vis in ("a.ms", "b.ms")}
    choice = choose_data(two, ["REGCAL_CONTLINE_ALL", "RAW"])
    assert choice.data_type == "RAW"
    assert columns(choice.columns) == {"a.ms": ("RAW", "DATA"), "b.ms": ("RAW", "DATA")}
    assert columns(choice.best) == {"a.ms": ("REGCAL_CONTLINE_ALL", "CORRECTED_DATA"), "b.ms": ("RAW", "DATA")}
    assert choice.told == ("a.ms has REGCAL_CONTLINE_ALL, too, which is preferred but is not in all MSs",)
    assert choice.lacking == ()


def test_mss_that_agree_have_nothing_to_tell() -> None:
    two = {vis: COLUMNS[vis] for vis in ("a.ms", "c.ms")}
    choice = choose_data(two, ["REGCAL_CONTLINE_ALL", "RAW"])
    assert (choice.data_type, choice.told, choice.best) == ("REGCAL_CONTLINE_ALL", (), choice.columns)


def test_without_a_type_that_all_hold_each_ms_gives_its_best() -> None:
    choice = choose_data(COLUMNS, ["REGCAL_CONTLINE_SCIENCE", "REGCAL_CONTLINE_ALL", "RAW"])
    assert choice.data_type == ""
    assert choice.columns == choice.best
    assert columns(choice.best) == {
        "a.ms": ("REGCAL_CONTLINE_ALL", "CORRECTED_DATA"),
        "b.ms": ("RAW", "DATA"),
        "c.ms": ("REGCAL_CONTLINE_SCIENCE", "DATA"),
    }
    assert choice.told == (
        "no data type is in all MSs, so that each gives its best: a.ms REGCAL_CONTLINE_ALL, b.ms RAW, "
        "c.ms REGCAL_CONTLINE_SCIENCE",
    )


def test_an_ms_that_has_none_of_the_types_is_told() -> None:
    choice = choose_data(COLUMNS, ["REGCAL_CONTLINE_ALL"])
    assert (choice.data_type, choice.lacking) == ("", ("b.ms",))
    assert list(columns(choice.columns)) == ["a.ms", "c.ms"]
    assert choice.told[1] == "b.ms has none of the data types"


def test_the_mss_of_a_field_and_a_window_are_asked() -> None:
    mss = [
        observation("a.ms", [window(0)], [source(0, "T", 1.0, 1.0)]),
        observation("b.ms", [window(0, 9000 * MHZ)], [source(0, "T", 1.0, 1.0)], start=1),
        observation("c.ms", [window(0)], [source(0, "T", 1.0, 1.0)], start=2),
        observation("d.ms", [window(0)], [source(0, "other", 5.0, 1.0)], start=3),
    ]
    same, sources = match_windows_exactly(mss).groups, match_fields(mss).groups
    choice = choose_data(COLUMNS, ["REGCAL_CONTLINE_ALL", "RAW"], [same[0], sources[0]])
    assert choice.data_type == "REGCAL_CONTLINE_ALL"
    assert list(columns(choice.columns)) == ["a.ms", "c.ms"]
    assert choice.about == ("window group 0", "field group 0")
    # An MS of the group of which no column is known has none.
    assert choose_data(COLUMNS, ["REGCAL_CONTLINE_ALL"], [same[0]]).lacking == ("d.ms",)
    with pytest.raises(DataError, match="no MS is in window group 1 and field group 1"):
        choose_data(COLUMNS, ["RAW"], [same[1], sources[1]])


def test_asking_for_nothing_or_for_what_nobody_has_is_told() -> None:
    with pytest.raises(BadInput, match="no data type is preferred"):
        choose_data(COLUMNS, [])
    with pytest.raises(DataError, match=r"none of b\.ms holds data of type RAWS\n.*did you mean 'RAW'"):
        choose_data({"b.ms": COLUMNS["b.ms"]}, ["RAWS"])
    with pytest.raises(DataError, match="register which"):
        choose_data({"b.ms": {}}, ["RAW"])
    with pytest.raises(DataError, match="no MS is in the context"):
        choose_data({}, ["RAW"])
