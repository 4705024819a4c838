"""Groups of what is alike, found in the same way for spectral windows and for fields."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Generic, TypeVar

from surgeline.context.matching.facts import (
    Disagreement,
    FieldGroup,
    FieldMember,
    Member,
    Rule,
    Topic,
    WindowGroup,
    WindowMember,
)
from surgeline.context.matching.frequencies import FrequencyRange
from surgeline.context.matching.overrides import MatchOverride, overrides_about
from surgeline.context.matching.sky import SkyPosition
from surgeline.context.records import Fact, Observation
from surgeline.errors import BadInput

# Digits that are compared: double precision tells frequencies apart to a millionth of a channel, hardly further.
DIGITS = 6

Group = TypeVar("Group", WindowGroup, FieldGroup)
AnyMember = TypeVar("AnyMember", bound=Member)
Place = TypeVar("Place", bound=FrequencyRange | SkyPosition)


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
class Item(Generic[Place]):
    """A window or a field of an MS."""

    vis: str
    number: int
    name: str
    place: Place

    @property
    def key(self) -> tuple[str, int]:
        return (self.vis, self.number)


@dataclass(frozen=True)
class Fit:
    """How an item is like a group; the lowest rank is the best."""

    rank: tuple[float, ...]
    rule: Rule
    value: float | None
    reason: str


FIRST = Fit((), "first", None, "first of its group")


def by_word(word: MatchOverride) -> Fit:
    """How an item is like a group because a user says so."""
    return Fit((), "override", None, word.said)


@dataclass(frozen=True)
class Membership(Generic[Place]):
    """An item in a group, and whether a user's word has a part in this."""

    item: Item[Place]
    fit: Fit
    overridden: bool = False

    def told_as(self, kind: type[AnyMember]) -> AnyMember:
        """The fact that says so."""
        item, fit = self.item, self.fit
        return kind(
            vis=item.vis,
            number=item.number,
            name=item.name,
            rule=fit.rule,
            value=fit.value,
            reason=fit.reason,
            overridden=self.overridden,
            **vars(item.place),
        )


@dataclass
class Draft(Generic[Place]):
    """A group in the making: members by MS and number."""

    id: int
    name: str
    place: Place
    members: dict[str, dict[int, Membership[Place]]] = field(default_factory=dict)

    def has(self, vis: str) -> bool:
        """Whether it has a member of an MS."""
        return bool(self.members.get(vis))

    def add(self, membership: Membership[Place]) -> None:
        """Take a member in, in place of the same item if it has that."""
        self.members.setdefault(membership.item.vis, {})[membership.item.number] = membership

    def memberships(self) -> Iterator[Membership[Place]]:
        """The members, MS by MS."""
        for of_ms in self.members.values():
            yield from of_ms.values()


class Matching(Generic[Place]):
    """Puts items into groups, one MS after another."""

    def __init__(
        self,
        items: Iterable[Item[Place]],
        fit: Callable[[Draft[Place], Item[Place]], Fit | None],
        cell: Callable[[Place], int],
        one_each: bool,
    ) -> None:
        """Prepare.

        Args:
            items: what to match, in order.
            fit: how an item is like a group, None for not.
            cell: what fits a group lies in the group's cell or a neighbouring one.
            one_each: a group takes one item of each MS, which therefore are matched together.
        """
        self.items: Mapping[tuple[str, int], Item[Place]] = {item.key: item for item in items}
        # Which groups an item that was matched now is like, for telling those that it is not in.
        self.alike: dict[tuple[str, int], tuple[int, ...]] = {}
        self._fit = fit
        self._cell = cell
        self._one_each = one_each
        self._drafts: dict[int, Draft[Place]] = {}
        self._cells: dict[int, list[Draft[Place]]] = {}
        self._known: set[int] = set()
        self._reserved: set[int] = set()
        self._home: dict[tuple[str, int], Draft[Place]] = {}

    def take_over(self, known: Iterable[WindowGroup | FieldGroup]) -> None:
        """Begin with groups that were found earlier; those of a frequency range only keep their ids."""
        given = {vis for vis, _ in self.items}
        for group in known:
            if isinstance(group, WindowGroup) and group.kind != "same":
                self._reserved.add(group.id)
                continue
            place: Any = group.place
            draft = Draft(group.id, group.name, place)
            self._known.add(group.id)
            self._add(draft)
            for member in group.members:
                membership = _membership(member)
                item = membership.item
                # An override may have been withdrawn, and an MS may have been imported anew.
                holds = self.items.get(item.key) == item and not member.overridden
                if holds or item.vis not in given:
                    self._join(draft, membership)

    def match(self) -> None:
        """Put what is in no group yet into groups."""
        unplaced = [item for key, item in self.items.items() if key not in self._home]
        if self._one_each:
            for _, of_ms in groupby(unplaced, key=lambda item: item.vis):
                self._assign(list(of_ms))
        else:
            for item in unplaced:
                self._assign([item])

    def override(self, topic: Topic, overrides: Iterable[MatchOverride]) -> tuple[MatchOverride, ...]:
        """Do as users say, after the rules have had theirs so that ids do not depend on it; returns what was done.

        Raises:
            BadInput: an override speaks of what is not there.
        """
        stated = overrides_about(topic, overrides, self.items, self._ids())
        # What is said to be a group goes first, and makes room for what is said to be none of another.
        applied = sorted(
            (word for word in stated if not self._reserved.issuperset(word.groups)),
            key=lambda word: (not word.belongs, word.key),
        )
        for word in applied:
            item = self.items[word.key]
            if word.belongs:
                self._leave(item)
                self._join(self._drafts[word.groups[0]], Membership(item, by_word(word), overridden=True))
                continue
            if self.home(item).id in word.groups:
                self._leave(item)
                self._assign([item], never=word.groups)
            home = self.home(item)
            fit = home.members[item.vis][item.number].fit
            noted = replace(fit, reason=f"{fit.reason}; {word.said}")
            self._join(home, Membership(item, noted, overridden=True))
        return tuple(applied)

    def home(self, item: Item[Place]) -> Draft[Place]:
        """The group that an item is in."""
        return self._home[item.key]

    def group(self, identifier: int) -> Draft[Place]:
        """A group by its id."""
        return self._drafts[identifier]

    def result(self) -> list[Draft[Place]]:
        """The groups in the order of their ids; known ones stay when they are empty, to keep their ids taken."""
        drafts = (self._drafts[identifier] for identifier in sorted(self._drafts))
        return [draft for draft in drafts if draft.id in self._known or any(draft.memberships())]

    def _assign(self, batch: Sequence[Item[Place]], never: Collection[int] = ()) -> None:
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
                self._join(draft, Membership(item, FIRST if again else fit))
        for item in batch:
            if item.key not in self._home:
                draft = Draft(self._new_id(item.number), item.name, item.place)
                self._add(draft)
                self._join(draft, Membership(item, FIRST))

    def _ids(self) -> set[int]:
        return self._reserved | set(self._drafts)

    def _new_id(self, number: int) -> int:
        taken = self._ids()
        return number if number not in taken else max(taken) + 1

    def _near(self, place: Place) -> Iterator[Draft[Place]]:
        cell = self._cell(place)
        for neighbour in (cell - 1, cell, cell + 1):
            yield from self._cells.get(neighbour, ())

    def _add(self, draft: Draft[Place]) -> None:
        self._drafts[draft.id] = draft
        self._cells.setdefault(self._cell(draft.place), []).append(draft)

    def _join(self, draft: Draft[Place], membership: Membership[Place]) -> None:
        draft.add(membership)
        self._home[membership.item.key] = draft

    def _leave(self, item: Item[Place]) -> None:
        del self._home.pop(item.key).members[item.vis][item.number]


def _membership(member: WindowMember | FieldMember) -> Membership[Any]:
    fit = Fit((), member.rule, member.value, member.reason)
    return Membership(Item(member.vis, member.number, member.name, member.place), fit, member.overridden)


def in_order(observations: Iterable[Observation]) -> list[Observation]:
    """The observations by start and name.

    Raises:
        BadInput: two have the same name.
    """
    ordered = sorted(observations, key=lambda observation: (observation.start, observation.vis))
    names = [observation.vis for observation in ordered]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"{name} is given {names.count(name)} times", "give each MS once")
    return ordered
