"""A user's word against the rules."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import ClassVar

from pydantic import field_validator, model_validator

from surgeline.context.matching.facts import Topic
from surgeline.context.records import Fact
from surgeline.errors import BadInput, nearest


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

    @property
    def key(self) -> tuple[str, int]:
        return (self.vis, self.number)

    @property
    def said(self) -> str:
        return f"override: {'' if self.belongs else 'not '}group {listed(self.groups)}, {self.reason}"


def overrides_about(
    what: Topic,
    overrides: Iterable[MatchOverride],
    items: Collection[tuple[str, int]],
    groups: Collection[int],
) -> list[MatchOverride]:
    """The overrides that are about windows, or about fields.

    Args:
        what: which of the two.
        overrides: all.
        items: the MSs and numbers of what there is.
        groups: the ids of the groups that there are.

    Raises:
        BadInput: one speaks of what is not there, or two speak of the same.
    """
    stated: dict[tuple[str, int], MatchOverride] = {}
    visses = {vis for vis, _ in items}
    for word in overrides:
        if word.what != what:
            continue
        thing = f"{what} {word.number} of {word.vis}"
        if word.vis not in visses:
            alike = f"; {nearest(word.vis, visses)}" if visses else ""
            raise BadInput(f"an override speaks of {thing}, an MS that is not given", f"give all MSs{alike}")
        if word.key not in items:
            there = listed(number for vis, number in items if vis == word.vis)
            raise BadInput(f"an override speaks of {thing}, which is not there", f"the MS has {there}")
        if word.key in stated:
            raise BadInput(f"two overrides speak of {thing}", "give one, with all groups that it is none of")
        unknown = sorted(set(word.groups) - set(groups))
        if unknown:
            raise BadInput(
                f"an override says of {thing} what it is to group {unknown[0]}, which is not there",
                "give the id of a group that was found, and the earlier groups as known",
            )
        stated[word.key] = word
    return list(stated.values())


def listed(numbers: Iterable[int]) -> str:
    """Numbers, one after another."""
    return ", ".join(str(number) for number in numbers)
