"""Spectral windows that are the same: exactly, or by their overlap."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from surgeline.context.matching.facts import Disagreement, WindowGroup, WindowMember
from surgeline.context.matching.frequencies import FrequencyRange, frequency_range
from surgeline.context.matching.groups import DIGITS, Draft, Fit, Item, Matched, Matching, in_order
from surgeline.context.matching.overrides import MatchOverride, listed
from surgeline.context.records import Observation, SpectralWindow
from surgeline.errors import BadInput, DataError

# Windows of few channels are the same only when they are shifted by no more than this fraction of their bandwidth.
_LARGEST_SHIFT = 0.1


def match_windows_exactly(
    observations: Iterable[Observation],
    tolerance: float = 1.0,
    known: Iterable[WindowGroup] = (),
    overrides: Iterable[MatchOverride] = (),
) -> Matched[WindowGroup]:
    """Group spectral windows that have as many channels, at the same frequencies.

    Both edges have to agree to less than `tolerance` channels, and than a tenth of the bandwidth, which matters for
    windows of few channels. That bounds the difference of reference frequencies, and of channel widths as it adds up
    over the window, in one number; and no channel is shifted by more. With the default of one channel, channel k of
    each window still overlaps channel k of the others, as it does for observatory-frame windows that follow a source
    through nearby epochs. The order of channels does not count.

    A group takes one window of each MS, the one that is shifted least (then of the same name, then of the lower
    number), unless an override adds others. Frequencies are compared as they are in the MSs, whatever their frame.

    Raises:
        BadInput: an argument cannot be, two MSs have the same name, or an override speaks of what is not there.
        DataError: a window has no usable frequencies.
    """
    if not tolerance > 0:
        raise BadInput(f"windows cannot agree to {tolerance} channels", "give a tolerance above 0, such as 1.0")
    return _match(observations, partial(_fit_exactly, tolerance=tolerance), known, overrides)


def match_windows_by_overlap(
    observations: Iterable[Observation],
    threshold: float = 0.5,
    known: Iterable[WindowGroup] = (),
    overrides: Iterable[MatchOverride] = (),
) -> Matched[WindowGroup]:
    """Group spectral windows that share at least a fraction `threshold` of the narrower one's bandwidth.

    The default of a half is where a window cannot belong to more than one of several wider ones side by side.

    A group takes one window of each MS, the one of the largest fraction (then of the bandwidth that is most alike,
    then of the same name, then of the lower number), unless an override adds others. A window that is like several
    groups is in one, and the others are told as disagreements; `match_windows_in_range` gathers them all.

    Raises:
        BadInput: an argument cannot be, two MSs have the same name, or an override speaks of what is not there.
        DataError: a window has no usable frequencies.
    """
    if not 0 < threshold <= 1:
        raise BadInput(f"windows cannot overlap by {threshold}", "give a threshold above 0 and up to 1, such as 0.5")
    return _match(observations, partial(_fit_by_overlap, threshold=threshold), known, overrides)


def windows_in_order(observations: Iterable[Observation]) -> list[Item[FrequencyRange]]:
    """All spectral windows, MS by MS.

    Raises:
        BadInput: two MSs have the same name.
        DataError: a window has no usable frequencies.
    """
    return [
        _window_item(observation.vis, window)
        for observation in in_order(observations)
        for window in sorted(observation.spectral_windows, key=lambda window: window.id)
    ]


def _window_item(vis: str, window: SpectralWindow) -> Item[FrequencyRange]:
    numbers = (window.reference_frequency, window.channel_width, window.bandwidth)
    if window.channels < 1 or not all(math.isfinite(number) for number in numbers) or window.bandwidth == 0:
        raise DataError(
            f"spectral window {window.id} of {vis} has no usable frequencies: {window.channels} channels, "
            f"{window.bandwidth} Hz wide, at {window.reference_frequency} Hz",
            "leave the window out, or mend the SPECTRAL_WINDOW table of the MS",
        )
    place = frequency_range(window)
    # Older VLA data have windows that are called none.
    named = window.name.strip().lower() not in ("", "none")
    return Item(vis, window.id, window.name.strip() if named else f"{(place.low + place.high) / 2e9:.6g} GHz", place)


def _match(
    observations: Iterable[Observation],
    fit: Callable[[Draft[FrequencyRange], Item[FrequencyRange]], Fit | None],
    known: Iterable[WindowGroup],
    overrides: Iterable[MatchOverride],
) -> Matched[WindowGroup]:
    # Windows are few, so that all groups are one cell.
    matching = Matching(windows_in_order(observations), fit, cell=lambda _: 0, one_each=True)
    matching.take_over(known)
    matching.match()
    applied = matching.override("spectral window", overrides)
    settled = {word.key for word in applied}
    told = _other_groups(matching, (item for key, item in matching.items.items() if key not in settled))
    return Matched(tuple(_group(draft) for draft in matching.result()), tuple(told), applied)


def _fit_exactly(group: Draft[FrequencyRange], window: Item[FrequencyRange], tolerance: float) -> Fit | None:
    one, other = group.place, window.place
    if one.channels != other.channels:
        return None
    width = min(one.channel_width, other.channel_width)
    shift = round(max(abs(one.low - other.low), abs(one.high - other.high)) / width, DIGITS)
    if not shift < min(tolerance, _LARGEST_SHIFT * one.channels):
        return None
    reason = f"exactly, {one.channels} channels shifted by {shift:.2g}"
    return Fit((shift, group.name != window.name), "exactly", shift, reason)


def _fit_by_overlap(group: Draft[FrequencyRange], window: Item[FrequencyRange], threshold: float) -> Fit | None:
    one, other = group.place, window.place
    shared = min(one.high, other.high) - max(one.low, other.low)
    narrower, wider = sorted((one.bandwidth, other.bandwidth))
    fraction = round(shared / narrower, DIGITS)
    if fraction < threshold:
        return None
    rank = (-fraction, -round(shared / wider, DIGITS), group.name != window.name)
    return Fit(rank, "overlap", fraction, f"overlap {fraction:.2f}")


def _other_groups(
    matching: Matching[FrequencyRange], items: Iterable[Item[FrequencyRange]]
) -> Iterator[Disagreement]:
    """Tell of windows that are like a group without being in it, or in any other that they are like."""
    for item in items:
        home, alike = matching.home(item).id, matching.alike.get(item.key, ())
        others = [identifier for identifier in alike if identifier != home]
        if home in alike:
            # Groups that have another window of this MS lack nothing.
            others = [identifier for identifier in others if not matching.group(identifier).has(item.vis)]
        if others:
            subject = f"window {item.number} of {item.vis}"
            yield Disagreement(
                topic="spectral window",
                subject=subject,
                groups=(home, *others),
                text=f"{subject} is like group {listed(others)}, too, but is group {home}: "
                "a window is in one group, and a group takes one window of each MS, whichever is most alike",
            )


def _group(draft: Draft[FrequencyRange]) -> WindowGroup:
    members = tuple(membership.told_as(WindowMember) for membership in draft.memberships())
    return WindowGroup(id=draft.id, name=draft.name, kind="same", members=members, **vars(draft.place))
