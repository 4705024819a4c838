"""Which spectral windows, fields and data columns of several, unlike MeasurementSets are the same.

MSs are taken in the order of their start, those that start together in the order of their names, and what is in an
MS in the order of its numbers; so nothing depends on the order in which MSs are given. What is like no earlier group
founds one, and a group is ever after compared by what founded it: groups neither drift nor merge as MSs are added.
Give the groups found earlier as `known`: they keep their ids, and their members as long as an MS has what it had.

A new group's id is the number of what founded it where no group has that id yet, so that the ids are those of the
first MS where all are alike; otherwise it comes after the highest id.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from surgeline.context.records import Fact, Field, Observation, SpectralWindow
from surgeline.errors import BadInput, DataError, nearest

Topic = Literal["spectral window", "field"]
Rule = Literal["first", "exactly", "overlap", "frequency range", "name and position", "position", "override"]
How = Literal["cover", "within"]

# Digits that are compared: double precision tells frequencies apart to a millionth of a channel, hardly further.
_DIGITS = 6
# Windows of few channels are the same only when they are shifted by no more than this fraction of their bandwidth.
_LARGEST_SHIFT = 0.1
_ARCSEC = 3600.0

Place = TypeVar("Place", bound="FrequencyRange | SkyPosition")


class Member(BaseModel):
    """A spectral window or field of an MS as the member of a group, and why it is one.

    Attributes:
        number: its number in the MS.
        name: its name in the MS; of a window that has none, its frequency.
        rule: what made it a member; `first` founded the group.
        value: the rule's number: channels of shift (exactly), fraction (overlap, frequency range), arcsec (position).
        reason: rule and number in words, and what a user said.
        overridden: a user's word has a part in this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vis: str
    number: int
    name: str
    rule: Rule
    value: float | None
    reason: str
    overridden: bool = False


class WindowMember(Member):
    """A spectral window of a group: edges in Hz."""

    low: float
    high: float
    channels: int


class FieldMember(Member):
    """A field of a group: position in degrees."""

    ra: float
    dec: float


class WindowGroup(Fact):
    """Spectral windows of several MSs under one virtual id.

    Attributes:
        id: the virtual id.
        kind: `same` for windows that are the same, of which each window is in one group; `cover` and `within` for all
            that cover a frequency range, or lie in it.
        low, high: the range in Hz that members are compared with, which never changes: of the window that founded the
            group, or as it was asked for.
        channels: of the window that founded the group; 0 where a range was asked for.
    """

    identity: ClassVar[tuple[str, ...]] = ("id",)

    id: int
    name: str
    kind: Literal["same", "cover", "within"]
    low: float
    high: float
    channels: int
    members: tuple[WindowMember, ...]


class FieldGroup(Fact):
    """Fields of several MSs that are the same source, under one virtual id.

    Attributes:
        id: the virtual id.
        names: the names that it has in the MSs, those that differ only in case or trailing spaces once.
        ra, dec: the position in degrees that members are compared with, which never changes: of the first field.
    """

    identity: ClassVar[tuple[str, ...]] = ("id",)

    id: int
    name: str
    names: tuple[str, ...]
    ra: float
    dec: float
    members: tuple[FieldMember, ...]


class Disagreement(Fact):
    """Something in which MSs disagree, or that could be matched in more than one way.

    Attributes:
        subject: the window or the name of the field that it is about.
        groups: the ids of the groups concerned.
        value: arcsec between fields of the same name.
    """

    identity: ClassVar[tuple[str, ...]] = ("topic", "subject", "groups")

    topic: Topic
    subject: str
    groups: tuple[int, ...]
    value: float | None = None
    text: str


class MatchOverride(Fact):
    """A user's word that a window or field of an MS is a group (`belongs`), or that it is none of some groups."""

    identity: ClassVar[tuple[str, ...]] = ("vis", "what", "number")

    vis: str
    what: Topic
    number: int
    belongs: bool
    groups: tuple[int, ...]
    reason: str

    @field_validator("reason")
    @classmethod
    def _says_why(cls, reason: str) -> str:
        if not reason.strip():
            raise ValueError("an override needs a reason: say why the rules are wrong here")
        return reason.strip()

    @model_validator(mode="after")
    def _names_groups(self) -> MatchOverride:
        if not self.groups:
            raise ValueError("an override needs groups: give the id of the group that it speaks of")
        if self.belongs and len(self.groups) > 1:
            raise ValueError("a window or field belongs to one group: give one id")
        return self


class DataColumn(BaseModel):
    """The column of an MS that holds data of a type."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vis: str
    data_type: str
    column: str


class DataChoice(Fact):
    """Which data to use of each MS.

    Attributes:
        preference: the data types that were asked for, best first.
        about: the groups whose MSs were asked, none for all MSs.
        data_type: the first type that all MSs have, or empty when there is none.
        columns: of each MS the column of that type, or its best where there is none.
        best: of each MS the column that comes first in the preference.
        lacking: MSs that hold none of the types.
        told: where the MSs differ, in words.
    """

    identity: ClassVar[tuple[str, ...]] = ("preference", "about")

    preference: tuple[str, ...]
    about: tuple[str, ...]
    data_type: str
    columns: tuple[DataColumn, ...]
    best: tuple[DataColumn, ...]
    lacking: tuple[str, ...]
    told: tuple[str, ...]


Group = TypeVar("Group", WindowGroup, FieldGroup)


@dataclass(frozen=True)
class Matched(Generic[Group]):
    """What a matching found: the groups in the order of their ids, and the overrides that had a part in it."""

    groups: tuple[Group, ...]
    disagreements: tuple[Disagreement, ...] = ()
    overrides: tuple[MatchOverride, ...] = ()

    def facts(self) -> list[Fact]:
        """What to commit: groups and disagreements."""
        return [*self.groups, *self.disagreements]


@dataclass(frozen=True)
class FrequencyRange:
    """The edges of a spectral window in Hz, and how many channels lie between them."""

    low: float
    high: float
    channels: int

    @property
    def bandwidth(self) -> float:
        return self.high - self.low

    @property
    def channel_width(self) -> float:
        return self.bandwidth / self.channels


@dataclass(frozen=True)
class SkyPosition:
    """A position in degrees."""

    ra: float
    dec: float


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

    def fit(group: _Draft[FrequencyRange], window: _Item[FrequencyRange]) -> _Fit | None:
        return _fit_exactly(group, window, tolerance)

    return _match_windows(observations, fit, known, overrides)


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

    def fit(group: _Draft[FrequencyRange], window: _Item[FrequencyRange]) -> _Fit | None:
        return _fit_by_overlap(group, window, threshold)

    return _match_windows(observations, fit, known, overrides)


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
    items = _windows_in_order(observations)
    earlier = next((group for group in known if (group.kind, group.low, group.high) == (how, low, high)), None)
    identifier = earlier.id if earlier else max((group.id for group in known), default=-1) + 1
    stated = _overrides_of("spectral window", overrides, items, {identifier} | {group.id for group in known})
    applied = {(word.vis, word.number): word for word in stated if identifier in word.groups}
    given = {vis for vis, _ in items}
    members = [member for member in earlier.members if member.vis not in given] if earlier else []
    for key, item in items.items():
        word = applied.get(key)
        fit = _by_word(word) if word else _fit_in_range(item.place, low, high, how)
        if fit and (word is None or word.belongs):
            members.append(_window_member(_Membership(item, fit, overridden=word is not None)))
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


def match_fields(
    observations: Iterable[Observation],
    tolerance: float = 1.0,
    known: Iterable[FieldGroup] = (),
    overrides: Iterable[MatchOverride] = (),
) -> Matched[FieldGroup]:
    """Group fields that are the same source: less than `tolerance` arcsec apart, whatever they are called.

    The default of 1 arcsec is above what catalogues of calibrators differ by, and below the spacing of mosaics at the
    highest frequencies. Where several groups are that near, one that has the field's name comes first (case and
    trailing spaces do not count), then the nearest. Several fields of an MS may be one source.

    Fields of the same name further apart are in different groups, told as a `Disagreement` when no MS has both: an MS
    that has both, as of a mosaic, means them to be different. Planets and comets move, so their epochs are told, too.

    Raises:
        BadInput: an argument cannot be, two MSs have the same name, or an override speaks of what is not there.
        DataError: a field has no usable position.
    """
    if not tolerance > 0:
        raise BadInput(f"fields cannot agree to {tolerance} arcsec", "give a tolerance above 0, such as 1.0")

    def fit(group: _Draft[SkyPosition], item: _Item[SkyPosition]) -> _Fit | None:
        return _fit_field(group, item, tolerance)

    def cell(position: SkyPosition) -> int:
        # What is within the tolerance differs no more than that in declination: at the poles and across 0 h, too.
        return math.floor(position.dec * _ARCSEC / tolerance)

    items = _fields_in_order(observations)
    matching = _Matching(items, fit, cell, one_each=False)
    matching.take_over(_draft_of_fields(group) for group in known)
    for item in matching.unplaced():
        matching.assign([item])
    applied = matching.override(_overrides_of("field", overrides, items, matching.ids()))
    drafts = matching.result()
    return Matched(tuple(_field_group(draft) for draft in drafts), tuple(_same_name_elsewhere(drafts)), applied)


def choose_data(
    columns: Mapping[str, Mapping[str, str]],
    preference: Sequence[str],
    groups: Sequence[WindowGroup | FieldGroup] = (),
) -> DataChoice:
    """Choose the first data type of `preference` that all MSs hold; where there is none, of each MS its best.

    `columns` says of each MS which column holds data of which type. With `groups`, only MSs that have a member in
    each of them are asked.

    Raises:
        BadInput: the preference is empty.
        DataError: no MS is asked, or none holds data of these types.
    """
    if not preference:
        raise BadInput("no data type is preferred", "give at least one, such as RAW")
    about = tuple(f"{'field' if isinstance(group, FieldGroup) else 'window'} group {group.id}" for group in groups)
    asked = _in_all(groups) if groups else sorted(columns)
    if not asked:
        raise DataError(f"no MS is in {' and '.join(about) or 'the context'}", "ask for a field and window of an MS")
    best = tuple(
        DataColumn(vis=vis, data_type=data_type, column=columns[vis][data_type])
        for vis in asked
        if (data_type := _first(preference, columns.get(vis, {})))
    )
    if not best:
        held = {data_type for vis in asked for data_type in columns.get(vis, {})}
        raise DataError(
            f"none of {', '.join(asked)} holds data of type {', '.join(preference)}",
            nearest(preference[0], held) if held else "register which of their columns hold which data",
        )
    common = next((each for each in preference if all(each in columns.get(vis, {}) for vis in asked)), "")
    lacking = tuple(vis for vis in asked if vis not in {chosen.vis for chosen in best})
    return DataChoice(
        preference=tuple(preference),
        about=about,
        data_type=common,
        columns=tuple(DataColumn(vis=vis, data_type=common, column=columns[vis][common]) for vis in asked)
        if common
        else best,
        best=best,
        lacking=lacking,
        told=tuple(_differences(common, best, lacking)),
    )


def real_numbers(groups: Iterable[WindowGroup | FieldGroup], identifier: int, vis: str) -> tuple[int, ...]:
    """The numbers that a virtual id stands for in an MS: one where a group takes one of each MS, none if it has none.

    Raises:
        BadInput: no group has that id.
    """
    group = next((group for group in groups if group.id == identifier), None)
    if group is None:
        raise BadInput(f"there is no group {identifier}", "give the id of one of the groups that were found")
    return tuple(member.number for member in group.members if member.vis == vis)


def virtual_id(groups: Iterable[WindowGroup | FieldGroup], vis: str, number: int) -> int | None:
    """The virtual id of a window or field of an MS, or None. Groups of a frequency range do not count."""
    for group in groups:
        if isinstance(group, WindowGroup) and group.kind != "same":
            continue
        if any((member.vis, member.number) == (vis, number) for member in group.members):
            return group.id
    return None


def frequency_range(window: SpectralWindow) -> FrequencyRange:
    """The edges of a spectral window, lower first.

    The reference frequency of an `Observation` is the centre of channel n/2 of n, rounded down and counted from 0. Of
    an odd number of channels that is the middle of the window; of an even number it lies half a channel beyond, in
    the direction of channels, that is below where the channel width is negative.
    """
    beyond = window.channel_width / 2.0 if window.channels % 2 == 0 else 0.0
    middle = window.reference_frequency - beyond
    half = abs(window.bandwidth) / 2.0
    return FrequencyRange(middle - half, middle + half, window.channels)


def separation(one: SkyPosition, other: SkyPosition) -> float:
    """The angle between two positions on the sphere in arcsec (haversine formula)."""
    ra1, dec1, ra2, dec2 = (math.radians(angle) for angle in (one.ra, one.dec, other.ra, other.dec))
    haversine = math.sin((dec2 - dec1) / 2) ** 2 + math.cos(dec1) * math.cos(dec2) * math.sin((ra2 - ra1) / 2) ** 2
    # Rounding may lift opposite positions above 1.
    return math.degrees(2.0 * math.asin(math.sqrt(min(1.0, haversine)))) * _ARCSEC


# Matching, alike for windows and fields.


@dataclass(frozen=True)
class _Item(Generic[Place]):
    """A window or a field of an MS."""

    vis: str
    number: int
    name: str
    place: Place

    @property
    def key(self) -> tuple[str, int]:
        return (self.vis, self.number)


@dataclass(frozen=True)
class _Fit:
    """How an item is like a group; the lowest rank is the best."""

    rank: tuple[float, ...]
    rule: Rule
    value: float | None
    reason: str


@dataclass(frozen=True)
class _Membership(Generic[Place]):
    item: _Item[Place]
    fit: _Fit
    overridden: bool = False


@dataclass
class _Draft(Generic[Place]):
    """A group in the making: members by MS and number."""

    id: int
    name: str
    place: Place
    known: bool = False
    members: dict[str, dict[int, _Membership[Place]]] = field(default_factory=dict)

    def has(self, vis: str) -> bool:
        return bool(self.members.get(vis))

    def add(self, membership: _Membership[Place]) -> None:
        self.members.setdefault(membership.item.vis, {})[membership.item.number] = membership

    def memberships(self) -> Iterator[_Membership[Place]]:
        for of_ms in self.members.values():
            yield from of_ms.values()


_FIRST = _Fit((), "first", None, "first of its group")


class _Matching(Generic[Place]):
    """Puts items into groups, one MS after another."""

    def __init__(
        self,
        items: Mapping[tuple[str, int], _Item[Place]],
        fit: Callable[[_Draft[Place], _Item[Place]], _Fit | None],
        cell: Callable[[Place], int],
        one_each: bool,
    ) -> None:
        """Prepare.

        Args:
            items: what to match, in order.
            fit: how an item is like a group, None for not.
            cell: what fits a group lies in the group's cell or a neighbouring one.
            one_each: a group takes one item of each MS.
        """
        self._items = items
        self._fit = fit
        self._cell = cell
        self._one_each = one_each
        self._drafts: dict[int, _Draft[Place]] = {}
        self._cells: dict[int, list[_Draft[Place]]] = {}
        self._reserved: set[int] = set()
        self._home: dict[tuple[str, int], _Draft[Place]] = {}
        # Which groups an item that was matched now is like, for telling those that it is not in.
        self.alike: dict[tuple[str, int], tuple[int, ...]] = {}

    def take_over(self, known: Iterable[_Draft[Place]], reserved: Iterable[int] = ()) -> None:
        """Begin with groups that were found earlier; `reserved` are ids that others have."""
        self._reserved = set(reserved)
        given = {vis for vis, _ in self._items}
        for draft in known:
            earlier = list(draft.memberships())
            draft.members.clear()
            self._add(draft)
            for membership in earlier:
                item = membership.item
                # An override may have been withdrawn, and an MS may have been imported anew.
                holds = self._items.get(item.key) == item and not membership.overridden
                if holds or item.vis not in given:
                    self._join(draft, membership)

    def unplaced(self) -> list[_Item[Place]]:
        """The items that are in no group yet, in order."""
        return [item for key, item in self._items.items() if key not in self._home]

    def assign(self, batch: Collection[_Item[Place]], never: Collection[int] = ()) -> None:
        """Put items where each is most alike, best first, or else into new groups."""
        pairs = [
            (fit, draft, item)
            for item in batch
            for draft in self._near(item.place)
            if draft.id not in never and (fit := self._fit(draft, item))
        ]
        pairs.sort(key=lambda pair: (pair[0].rank, pair[1].id, pair[2].number))
        for _, draft, item in pairs:
            self.alike[item.key] = (*self.alike.get(item.key, ()), draft.id)
        for fit, draft, item in pairs:
            if item.key not in self._home and not (self._one_each and draft.has(item.vis)):
                # A known group that is empty is founded again by what founded it.
                again = draft.place == item.place and not any(draft.memberships())
                self._join(draft, _Membership(item, _FIRST if again else fit))
        for item in batch:
            if item.key not in self._home:
                draft = _Draft(self._new_id(item.number), item.name, item.place)
                self._add(draft)
                self._join(draft, _Membership(item, _FIRST))

    def override(self, overrides: Iterable[MatchOverride]) -> tuple[MatchOverride, ...]:
        """Do as users say, after the rules have had theirs so that ids do not depend on it; returns what was done."""
        # What is said to be a group goes first, and makes room for what is said to be none of another.
        applied = tuple(
            sorted(
                (word for word in overrides if not self._reserved.issuperset(word.groups)),
                key=lambda word: (not word.belongs, word.vis, word.number),
            )
        )
        for word in applied:
            item = self._items[(word.vis, word.number)]
            if word.belongs:
                self._leave(item)
                self._join(self._drafts[word.groups[0]], _Membership(item, _by_word(word), overridden=True))
                continue
            if self._home[item.key].id in word.groups:
                self._leave(item)
                self.assign([item], never=word.groups)
            home = self._home[item.key]
            fit = home.members[item.vis][item.number].fit
            noted = _Fit(fit.rank, fit.rule, fit.value, f"{fit.reason}; {_by_word(word).reason}")
            self._join(home, _Membership(item, noted, overridden=True))
        return applied

    def ids(self) -> set[int]:
        """All ids that are taken."""
        return self._reserved | set(self._drafts)

    def home(self, item: _Item[Place]) -> _Draft[Place]:
        """The group that an item is in."""
        return self._home[item.key]

    def group(self, identifier: int) -> _Draft[Place]:
        """A group by its id."""
        return self._drafts[identifier]

    def result(self) -> list[_Draft[Place]]:
        """The groups in the order of their ids; known ones stay when they are empty, to keep their ids taken."""
        drafts = (self._drafts[identifier] for identifier in sorted(self._drafts))
        return [draft for draft in drafts if draft.known or any(draft.memberships())]

    def _new_id(self, number: int) -> int:
        taken = self.ids()
        return number if number not in taken else max(taken) + 1

    def _near(self, place: Place) -> Iterator[_Draft[Place]]:
        cell = self._cell(place)
        for neighbour in (cell - 1, cell, cell + 1):
            yield from self._cells.get(neighbour, ())

    def _add(self, draft: _Draft[Place]) -> None:
        self._drafts[draft.id] = draft
        self._cells.setdefault(self._cell(draft.place), []).append(draft)

    def _join(self, draft: _Draft[Place], membership: _Membership[Place]) -> None:
        draft.add(membership)
        self._home[membership.item.key] = draft

    def _leave(self, item: _Item[Place]) -> None:
        del self._home.pop(item.key).members[item.vis][item.number]


def _told(membership: _Membership[Any]) -> dict[str, Any]:
    """What a `Member` says, but its place."""
    item, fit = membership.item, membership.fit
    return {
        "vis": item.vis,
        "number": item.number,
        "name": item.name,
        "rule": fit.rule,
        "value": fit.value,
        "reason": fit.reason,
        "overridden": membership.overridden,
    }


def _as_membership(member: Member, place: Place) -> _Membership[Place]:
    fit = _Fit((), member.rule, member.value, member.reason)
    return _Membership(_Item(member.vis, member.number, member.name, place), fit, member.overridden)


def _in_order(observations: Iterable[Observation]) -> list[Observation]:
    ordered = sorted(observations, key=lambda observation: (observation.start, observation.vis))
    names = [observation.vis for observation in ordered]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"{name} is given {names.count(name)} times", "give each MS once")
    return ordered


def _overrides_of(
    what: Topic,
    overrides: Iterable[MatchOverride],
    items: Collection[tuple[str, int]],
    identifiers: Collection[int],
) -> list[MatchOverride]:
    """The overrides that are about windows, or about fields; each is about something that is there."""
    stated: dict[tuple[str, int], MatchOverride] = {}
    visses = {vis for vis, _ in items}
    for word in overrides:
        if word.what != what:
            continue
        thing = f"{what} {word.number} of {word.vis}"
        if word.vis not in visses:
            alike = f"; {nearest(word.vis, visses)}" if visses else ""
            raise BadInput(f"an override speaks of {thing}, an MS that is not given", f"give all MSs{alike}")
        if (word.vis, word.number) not in items:
            there = ", ".join(str(number) for vis, number in items if vis == word.vis)
            raise BadInput(f"an override speaks of {thing}, which is not there", f"the MS has {there}")
        if (word.vis, word.number) in stated:
            raise BadInput(f"two overrides speak of {thing}", "give one, with all groups that it is none of")
        unknown = sorted(set(word.groups) - set(identifiers))
        if unknown:
            raise BadInput(
                f"an override says of {thing} what it is to group {unknown[0]}, which is not there",
                "give the id of a group that was found, and the earlier groups as known",
            )
        stated[(word.vis, word.number)] = word
    return list(stated.values())


def _by_word(word: MatchOverride) -> _Fit:
    said = f"override: {'' if word.belongs else 'not '}group {_listed(word.groups)}, {word.reason}"
    return _Fit((), "override", None, said)


def _listed(identifiers: Iterable[int]) -> str:
    return ", ".join(str(identifier) for identifier in identifiers)


# Spectral windows.


def _windows_in_order(observations: Iterable[Observation]) -> dict[tuple[str, int], _Item[FrequencyRange]]:
    items = [
        _window_item(observation.vis, window)
        for observation in _in_order(observations)
        for window in sorted(observation.spectral_windows, key=lambda window: window.id)
    ]
    return {item.key: item for item in items}


def _window_item(vis: str, window: SpectralWindow) -> _Item[FrequencyRange]:
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
    return _Item(vis, window.id, window.name.strip() if named else f"{(place.low + place.high) / 2e9:.6g} GHz", place)


def _match_windows(
    observations: Iterable[Observation],
    fit: Callable[[_Draft[FrequencyRange], _Item[FrequencyRange]], _Fit | None],
    known: Iterable[WindowGroup],
    overrides: Iterable[MatchOverride],
) -> Matched[WindowGroup]:
    items = _windows_in_order(observations)
    known = tuple(known)
    # Windows are few, so that all groups are one cell.
    matching = _Matching(items, fit, cell=lambda _: 0, one_each=True)
    matching.take_over(
        (_draft_of_windows(group) for group in known if group.kind == "same"),
        reserved=(group.id for group in known if group.kind != "same"),
    )
    by_ms: dict[str, list[_Item[FrequencyRange]]] = {}
    for item in matching.unplaced():
        by_ms.setdefault(item.vis, []).append(item)
    for batch in by_ms.values():
        matching.assign(batch)
    applied = matching.override(_overrides_of("spectral window", overrides, items, matching.ids()))
    settled = {(word.vis, word.number) for word in applied}
    told = _other_groups(matching, (item for key, item in items.items() if key not in settled))
    return Matched(tuple(_window_group(draft) for draft in matching.result()), tuple(told), applied)


def _fit_exactly(group: _Draft[FrequencyRange], window: _Item[FrequencyRange], tolerance: float) -> _Fit | None:
    one, other = group.place, window.place
    if one.channels != other.channels:
        return None
    width = min(one.channel_width, other.channel_width)
    shift = round(max(abs(one.low - other.low), abs(one.high - other.high)) / width, _DIGITS)
    if not shift < min(tolerance, _LARGEST_SHIFT * one.channels):
        return None
    reason = f"exactly, {one.channels} channels shifted by {shift:.2g}"
    return _Fit((shift, group.name != window.name), "exactly", shift, reason)


def _fit_by_overlap(group: _Draft[FrequencyRange], window: _Item[FrequencyRange], threshold: float) -> _Fit | None:
    one, other = group.place, window.place
    shared = min(one.high, other.high) - max(one.low, other.low)
    narrower, wider = sorted((one.bandwidth, other.bandwidth))
    fraction = round(shared / narrower, _DIGITS)
    if fraction < threshold:
        return None
    rank = (-fraction, -round(shared / wider, _DIGITS), group.name != window.name)
    return _Fit(rank, "overlap", fraction, f"overlap {fraction:.2f}")


def _fit_in_range(window: FrequencyRange, low: float, high: float, how: How) -> _Fit | None:
    # Edges are sums, so that what touches a limit may miss it by their rounding.
    slack = window.channel_width * 10.0**-_DIGITS
    if how == "cover" and window.low - slack <= low and high <= window.high + slack:
        share = round((high - low) / window.bandwidth, _DIGITS)
        return _Fit((), "frequency range", share, f"frequency range, which is {share:.2f} of it")
    if how == "within" and low <= window.low + slack and window.high - slack <= high:
        share = round(window.bandwidth / (high - low), _DIGITS)
        return _Fit((), "frequency range", share, f"frequency range, of which it is {share:.2f}")
    return None


def _other_groups(
    matching: _Matching[FrequencyRange], items: Iterable[_Item[FrequencyRange]]
) -> Iterator[Disagreement]:
    """Tell of windows that are like a group without being in it, or in any other that they are like."""
    for item in items:
        home = matching.home(item).id
        others = [identifier for identifier in matching.alike.get(item.key, ()) if identifier != home]
        if home in matching.alike.get(item.key, ()):
            # Groups that have another window of this MS lack nothing.
            others = [identifier for identifier in others if not matching.group(identifier).has(item.vis)]
        if others:
            subject = f"window {item.number} of {item.vis}"
            yield Disagreement(
                topic="spectral window",
                subject=subject,
                groups=(home, *others),
                text=f"{subject} is like group {_listed(others)}, too, but is group {home}: "
                "a window is in one group, and a group takes one window of each MS, whichever is most alike",
            )


def _window_group(draft: _Draft[FrequencyRange]) -> WindowGroup:
    place = draft.place
    return WindowGroup(
        id=draft.id,
        name=draft.name,
        kind="same",
        low=place.low,
        high=place.high,
        channels=place.channels,
        members=tuple(_window_member(membership) for membership in draft.memberships()),
    )


def _window_member(membership: _Membership[FrequencyRange]) -> WindowMember:
    place = membership.item.place
    return WindowMember(low=place.low, high=place.high, channels=place.channels, **_told(membership))


def _draft_of_windows(group: WindowGroup) -> _Draft[FrequencyRange]:
    draft = _Draft(group.id, group.name, FrequencyRange(group.low, group.high, group.channels), known=True)
    for member in group.members:
        draft.add(_as_membership(member, FrequencyRange(member.low, member.high, member.channels)))
    return draft


# Fields.


def _fields_in_order(observations: Iterable[Observation]) -> dict[tuple[str, int], _Item[SkyPosition]]:
    items = [
        _Item(observation.vis, field.id, field.name.rstrip(), _usable_position(observation.vis, field))
        for observation in _in_order(observations)
        for field in sorted(observation.fields, key=lambda field: field.id)
    ]
    return {item.key: item for item in items}


def _usable_position(vis: str, field: Field) -> SkyPosition:
    if not (math.isfinite(field.ra) and -90.0 <= field.dec <= 90.0):
        raise DataError(
            f"field {field.id} ({field.name}) of {vis} has no usable position: {field.ra}, {field.dec} degrees",
            "leave the field out, or mend the FIELD table of the MS",
        )
    return SkyPosition(field.ra, field.dec)


def _plain(name: str) -> str:
    return name.rstrip().casefold()


def _fit_field(group: _Draft[SkyPosition], item: _Item[SkyPosition], tolerance: float) -> _Fit | None:
    apart = round(separation(group.place, item.place), _DIGITS)
    if not apart < tolerance:
        return None
    if _plain(item.name) in {_plain(name) for name in _names(group)}:
        return _Fit((0, apart), "name and position", apart, f"name and position, {apart:.2g} arcsec apart")
    return _Fit((1, apart), "position", apart, f"position, {apart:.2g} arcsec from {group.name}, under another name")


def _names(group: _Draft[SkyPosition]) -> list[str]:
    """The names of a group's members, the group's own first, each once."""
    found: dict[str, str] = {_plain(group.name): group.name}
    for membership in group.memberships():
        found.setdefault(_plain(membership.item.name), membership.item.name)
    return list(found.values())


def _same_name_elsewhere(drafts: Iterable[_Draft[SkyPosition]]) -> Iterator[Disagreement]:
    """Tell of each group that has the name of an earlier one that no MS of its own knows: of the nearest."""
    by_name: dict[str, list[_Draft[SkyPosition]]] = {}
    for draft in drafts:
        # Where a user has spoken, nothing is left to tell.
        names = {_plain(each.item.name): each.item.name for each in draft.memberships() if not each.overridden}
        for plain, name in names.items():
            strangers = [other for other in by_name.get(plain, ()) if not _share_an_ms(draft, other)]
            by_name.setdefault(plain, []).append(draft)
            if not strangers:
                continue
            other = min(strangers, key=lambda other: separation(draft.place, other.place))
            apart = round(separation(draft.place, other.place), _DIGITS)
            yield Disagreement(
                topic="field",
                subject=name,
                groups=(other.id, draft.id),
                value=apart,
                text=f"{name} is group {other.id} in {_visses(other)}, and {apart:.4g} arcsec from there, as group "
                f"{draft.id}, in {_visses(draft)}",
            )


def _share_an_ms(one: _Draft[SkyPosition], other: _Draft[SkyPosition]) -> bool:
    return any(one.has(vis) and other.has(vis) for vis in one.members)


def _visses(draft: _Draft[SkyPosition]) -> str:
    return ", ".join(vis for vis in draft.members if draft.has(vis))


def _field_group(draft: _Draft[SkyPosition]) -> FieldGroup:
    return FieldGroup(
        id=draft.id,
        name=draft.name,
        names=tuple(_names(draft)),
        ra=draft.place.ra,
        dec=draft.place.dec,
        members=tuple(_field_member(membership) for membership in draft.memberships()),
    )


def _field_member(membership: _Membership[SkyPosition]) -> FieldMember:
    place = membership.item.place
    return FieldMember(ra=place.ra, dec=place.dec, **_told(membership))


def _draft_of_fields(group: FieldGroup) -> _Draft[SkyPosition]:
    draft = _Draft(group.id, group.name, SkyPosition(group.ra, group.dec), known=True)
    for member in group.members:
        draft.add(_as_membership(member, SkyPosition(member.ra, member.dec)))
    return draft


# Data columns.


def _in_all(groups: Sequence[WindowGroup | FieldGroup]) -> list[str]:
    return sorted(set.intersection(*({member.vis for member in group.members} for group in groups)))


def _first(preference: Sequence[str], held: Mapping[str, str]) -> str:
    return next((data_type for data_type in preference if data_type in held), "")


def _differences(common: str, best: Sequence[DataColumn], lacking: Sequence[str]) -> Iterator[str]:
    if not common:
        yield "no data type is in all MSs, so that each gives its best: " + ", ".join(
            f"{chosen.vis} {chosen.data_type}" for chosen in best
        )
    for vis in lacking:
        yield f"{vis} has none of the data types"
    if common:
        for chosen in best:
            if chosen.data_type != common:
                yield f"{chosen.vis} has {chosen.data_type}, too, which is preferred but is not in all MSs"
