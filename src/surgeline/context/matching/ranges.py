"""All spectral windows that cover a frequency range, or lie in it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, get_args

from surgeline.context.matching.facts import WindowGroup, WindowMember
from surgeline.context.matching.frequencies import FrequencyRange
from surgeline.context.matching.groups import DIGITS, Fit, Matched, Membership, by_word
from surgeline.context.matching.overrides import MatchOverride, overrides_about
from surgeline.context.matching.windows import windows_in_order
from surgeline.context.records import Observation
from surgeline.errors import BadInput, nearest

How = Literal["cover", "within"]


def match_windows_in_range(
    observations: Iterable[Observation],
    low: float,
    high: float,
    how: How = "cover",
    known: Iterable[WindowGroup] = (),
    overrides: Iterable[MatchOverride] = (),
) -> Matched[WindowGroup]:
    """Gather in one group all spectral windows that cover `low` to `high` in Hz, or lie within, edges included.

    `low` may equal `high`, to find what covers a line. A member's value is the fraction of the wider of window and
    range that the narrower fills. Windows in this group are in groups of the kind `same` besides. The group keeps the
    id of a known one with the same limits; otherwise its id comes after the highest one known.

    Raises:
        BadInput: the limits cannot be, two MSs have the same name, or an override speaks of what is not there.
        DataError: a window has no usable frequencies.
    """
    if not (math.isfinite(low) and math.isfinite(high) and 0 < low <= high):
        raise BadInput(f"{low} to {high} Hz is no frequency range", "give the lower limit first, both in Hz")
    if how not in get_args(How):
        raise BadInput(f"windows cannot be found that {how!r} a range", nearest(how, get_args(How)))
    known = tuple(known)
    items = {item.key: item for item in windows_in_order(observations)}
    earlier = next((group for group in known if (group.kind, group.low, group.high) == (how, low, high)), None)
    identifier = earlier.id if earlier else max((group.id for group in known), default=-1) + 1
    stated = overrides_about("spectral window", overrides, items, {identifier} | {group.id for group in known})
    applied = {word.key: word for word in stated if identifier in word.groups}
    given = {vis for vis, _ in items}
    members = [member for member in earlier.members if member.vis not in given] if earlier else []
    for key, item in items.items():
        word = applied.get(key)
        fit = by_word(word) if word else _fit(item.place, low, high, how)
        if fit and (word is None or word.belongs):
            members.append(Membership(item, fit, overridden=word is not None).told_as(WindowMember))
    group = WindowGroup(
        id=identifier,
        name=f"{low / 1e9:.9g} to {high / 1e9:.9g} GHz",
        kind=how,
        low=low,
        high=high,
        channels=0,
        members=tuple(members),
    )
    return Matched((group,), overrides=tuple(applied.values()))


def _fit(window: FrequencyRange, low: float, high: float, how: How) -> Fit | None:
    # Edges are sums, so that what touches a limit may miss it by their rounding.
    slack = window.channel_width * 10.0**-DIGITS
    if how == "cover" and window.low - slack <= low and high <= window.high + slack:
        share = round((high - low) / window.bandwidth, DIGITS)
        return Fit((), "frequency range", share, f"frequency range, which is {share:.2f} of it")
    if how == "within" and low <= window.low + slack and window.high - slack <= high:
        share = round(window.bandwidth / (high - low), DIGITS)
        return Fit((), "frequency range", share, f"frequency range, of which it is {share:.2f}")
    return None
