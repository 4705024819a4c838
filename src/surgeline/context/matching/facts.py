"""The groups that a matching finds, what is in them, and what MSs disagree in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from surgeline.context.matching.frequencies import FrequencyRange
from surgeline.context.matching.sky import SkyPosition
from surgeline.context.records import Fact
from surgeline.errors import BadInput

Topic = Literal["spectral window", "field"]
Rule = Literal["first", "exactly", "overlap", "frequency range", "name and position", "position", "override"]


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

    @property
    def place(self) -> FrequencyRange:
        return FrequencyRange(self.low, self.high, self.channels)


class FieldMember(Member):
    """A field of a group: position in degrees."""

    ra: float
    dec: float

    @property
    def place(self) -> SkyPosition:
        return SkyPosition(self.ra, self.dec)


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

    @property
    def place(self) -> FrequencyRange:
        return FrequencyRange(self.low, self.high, self.channels)


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

    @property
    def place(self) -> SkyPosition:
        return SkyPosition(self.ra, self.dec)


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
