"""Which data of an MS a selection in CASA's syntax is about, and the algebra of such selections."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from dataclasses import fields as axes_of
from fnmatch import fnmatchcase
from typing import Any

from surgeline.context.records import CalibrationApplication, Observation
from surgeline.errors import BadInput, nearest

# A selection's items: names between quotes, or whatever stands between commas.
_ITEM = re.compile(r'\s*("[^"]*"|[^,]+)\s*(?:,|$)')

_RANGE = re.compile(r"(\d+)\s*~\s*(\d+)$")


@dataclass(frozen=True)
class Selection:
    """Data of an MS: numbers of fields, spectral windows and antennas, and the intents that scans have together."""

    fields: frozenset[int]
    windows: frozenset[int]
    intents: frozenset[frozenset[str]]
    antennas: frozenset[int]

    def __bool__(self) -> bool:
        return all(self._axes())

    def __and__(self, other: Selection) -> Selection:
        return Selection(*(mine & its for mine, its in zip(self._axes(), other._axes(), strict=True)))

    def __le__(self, other: Selection) -> bool:
        return all(mine <= its for mine, its in zip(self._axes(), other._axes(), strict=True))

    def __sub__(self, other: Selection) -> list[Selection]:
        """What of these data are not the other's, in pieces that do not overlap."""
        pieces, rest = [], self
        for axis, its in zip(axes_of(self), other._axes(), strict=True):
            mine = getattr(rest, axis.name)
            pieces.append(replace(rest, **{axis.name: mine - its}))
            rest = replace(rest, **{axis.name: mine & its})
        return [piece for piece in pieces if piece]

    def joined(self, other: Selection) -> Selection | None:
        """Both together when they differ in one respect only, else None."""
        different = [axis.name for axis in axes_of(self) if getattr(self, axis.name) != getattr(other, axis.name)]
        if len(different) != 1:
            return None
        return replace(self, **{different[0]: getattr(self, different[0]) | getattr(other, different[0])})

    def _axes(self) -> list[frozenset[Any]]:
        return [getattr(self, axis.name) for axis in axes_of(self)]


# Data of an MS that the same tables are for, in order.
Part = tuple[Selection, tuple[CalibrationApplication, ...]]


class Layout:
    """What of an MS selections can tell apart: made once of what the MS holds, and asked often."""

    def __init__(self, observation: Observation) -> None:
        self.vis = observation.vis
        self._fields = {each.id: each.name for each in observation.fields}
        self._windows = {each.id: each.name for each in observation.spectral_windows}
        self._antennas = {each.id: each.name for each in observation.antennas}
        self._scans = [
            (each.number, set(each.fields), set(each.spectral_windows), frozenset(each.intents))
            for each in observation.scans
        ]
        self.whole = Selection(
            fields=frozenset(self._fields),
            windows=frozenset(self._windows),
            intents=frozenset(intents for *_, intents in self._scans),
            antennas=frozenset(self._antennas),
        )

    def select(self, field: str = "", spw: str = "", intent: str = "", antenna: str = "") -> Selection:
        """What a selection means, as `select` says."""
        windows = ",".join(item.partition(":")[0] for item in spw.split(","))
        return Selection(
            fields=_numbers(field, self._fields, f"field of {self.vis}"),
            windows=_numbers(windows, self._windows, f"spw of {self.vis}"),
            intents=frozenset(there for there in self.whole.intents if _has_intent(there, intent)),
            # The names of some arrays' antennas are numbers, and CASA goes by the name.
            antennas=_numbers(antenna, self._antennas, f"antenna of {self.vis}", names_first=True),
        )

    def data_of(self, application: CalibrationApplication) -> Selection:
        """The data that a calibration is for."""
        return self.select(application.field, application.spw, application.intent, application.antenna)

    def has(self, part: Selection) -> bool:
        """Whether any scan has data of a part."""
        return bool(part) and any(True for _ in self._scans_of(part))

    def scans_of(self, part: Selection) -> set[int]:
        """The numbers of the scans that have data of a part."""
        return set(self._scans_of(part))

    def said_of(self, part: Selection, intent: str = "") -> dict[str, str]:
        """A part in CASA's syntax: field, spw, intent (as said before where that will do) and antenna; empty: all.

        Raises:
            BadInput: scans have these intents together with others, so that no pattern tells them apart.
        """
        every = part.antennas == self.whole.antennas
        return {
            "field": numbers_text(part.fields, self.whole.fields),
            "spw": numbers_text(part.windows, self.whole.windows),
            "intent": self._intent_text(part, intent),
            "antenna": "" if every else ",".join(self._antennas[number] for number in sorted(part.antennas)),
        }

    def _scans_of(self, part: Selection) -> Iterator[int]:
        return (
            number
            for number, fields, windows, intents in self._scans
            if intents in part.intents and part.fields & fields and part.windows & windows
        )

    def _intent_text(self, part: Selection, before: str) -> str:
        if self.scans_of(part) == self.scans_of(replace(part, intents=self.whole.intents)):
            # Fields and windows say which data they are.
            return ""
        names = sorted(frozenset().union(*part.intents))
        others = frozenset().union(*(self.whole.intents - part.intents))
        # CASA compares all intents of a scan as one text, so that names need wildcards around them.
        for choice in (before.split(","), names, sorted(set(names) - others)):
            text = ",".join(item if "*" in item else f"*{item.strip()}*" for item in choice if item.strip())
            if text and {there for there in self.whole.intents if _has_intent(there, text)} == part.intents:
                return text
        raise BadInput(
            f"scans of {self.vis} with the intents {', '.join(names)} have others besides, so that they cannot be "
            "selected by intent alone",
            "select them by field",
        )


def select(
    observation: Observation, field: str = "", spw: str = "", intent: str = "", antenna: str = ""
) -> Selection:
    """What a selection in CASA's syntax means in an MS: names, numbers, ranges and wildcards; empty for all.

    Channels are not looked at. An intent selects scans that have it among theirs; none may have it.

    Raises:
        BadInput: a field, spectral window or antenna is not there, or the syntax is more than these.
    """
    return Layout(observation).select(field, spw, intent, antenna)


def numbers_text(numbers: Iterable[int], whole: Iterable[int] = ()) -> str:
    """Numbers in CASA's syntax, such as 0~2,5; empty for the whole."""
    ordered = sorted(numbers)
    if ordered == sorted(whole):
        return ""
    runs: list[list[int]] = []
    for number in ordered:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}~{run[-1]}" for run in runs)


def joined_parts(parts: Iterable[Part]) -> list[Part]:
    """Parts of which those that the same tables are for are put together where one selection can say both."""
    merged: list[Part] = []
    for part, tables in parts:
        whole = part
        joining = True
        while joining:
            joining = False
            for other, its in merged:
                both = whole.joined(other) if its == tables else None
                if both is not None:
                    merged.remove((other, its))
                    whole, joining = both, True
                    break
        merged.append((whole, tables))
    return merged


def _numbers(text: str, names: Mapping[int, str], what: str, names_first: bool = False) -> frozenset[int]:
    """The numbers that a selection means, among things that have numbers and names."""
    if text.strip() in ("", "*"):
        return frozenset(names)
    found: set[int] = set()
    place = 0
    while place < len(text):
        match = _ITEM.match(text, place)
        if match is None:
            raise BadInput(f"{text!r} cannot be read as {what}", "separate names and numbers by single commas")
        found |= _numbers_of_item(match[1].strip(), names, what, names_first)
        place = match.end()
    return frozenset(found)


def _numbers_of_item(item: str, names: Mapping[int, str], what: str, names_first: bool) -> set[int]:
    quoted = item.startswith('"')
    name = item.strip('"')
    found: set[int] = set()
    if spans := None if quoted else _RANGE.match(item):
        for number in range(int(spans[1]), int(spans[2]) + 1):
            found |= _called(str(number), names, names_first)
    else:
        found = _called(name, names, names_first or quoted)
        if not found and set(name) & set("*?"):
            found = {number for number, given in names.items() if fnmatchcase(given, name)}
    if not found:
        known = [str(number) for number in names] + list(names.values())
        raise BadInput(f"{item!r} is no {what}", nearest(name, known))
    return found


def _called(text: str, names: Mapping[int, str], names_first: bool) -> set[int]:
    """The numbers of what has a name, or the number that the text is; whichever comes first."""
    named = {number for number, given in names.items() if given == text}
    numbered = {int(text)} & set(names) if text.isdecimal() else set()
    return (named or numbered) if names_first else (numbered or named)


def _has_intent(there: frozenset[str], text: str) -> bool:
    wanted = [item.strip() for item in text.split(",") if item.strip()]
    return not wanted or any(fnmatchcase(intent, pattern) for intent in there for pattern in wanted)
