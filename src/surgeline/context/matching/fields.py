"""Fields that are the same source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial

from surgeline.context.matching.facts import Disagreement, FieldGroup, FieldMember
from surgeline.context.matching.groups import DIGITS, Draft, Fit, Item, Matched, Matching, in_order
from surgeline.context.matching.overrides import MatchOverride
from surgeline.context.matching.sky import SkyPosition, separation, strip
from surgeline.context.records import Field, Observation
from surgeline.errors import BadInput, DataError


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
    matching = Matching(
        [
            Item(observation.vis, field.id, field.name.rstrip(), _usable_position(observation.vis, field))
            for observation in in_order(observations)
            for field in sorted(observation.fields, key=lambda field: field.id)
        ],
        fit=partial(_fit, tolerance=tolerance),
        cell=partial(strip, width=tolerance),
        one_each=False,
    )
    matching.take_over(known)
    matching.match()
    applied = matching.override("field", overrides)
    drafts = matching.result()
    return Matched(tuple(_group(draft) for draft in drafts), tuple(_same_name_elsewhere(drafts)), applied)


def _usable_position(vis: str, field: Field) -> SkyPosition:
    if not (math.isfinite(field.ra) and -90.0 <= field.dec <= 90.0):
        raise DataError(
            f"field {field.id} ({field.name}) of {vis} has no usable position: {field.ra}, {field.dec} degrees",
            "leave the field out, or mend the FIELD table of the MS",
        )
    return SkyPosition(field.ra, field.dec)


def _plain(name: str) -> str:
    return name.rstrip().casefold()


def _fit(group: Draft[SkyPosition], item: Item[SkyPosition], tolerance: float) -> Fit | None:
    apart = round(separation(group.place, item.place), DIGITS)
    if not apart < tolerance:
        return None
    if _plain(item.name) in _names(group):
        return Fit((0, apart), "name and position", apart, f"name and position, {apart:.2g} arcsec apart")
    return Fit((1, apart), "position", apart, f"position, {apart:.2g} arcsec from {group.name}, under another name")


def _names(group: Draft[SkyPosition]) -> dict[str, str]:
    """The names of a group's members by what is plain of them, the group's own first, each once."""
    found = {_plain(group.name): group.name}
    for membership in group.memberships():
        found.setdefault(_plain(membership.item.name), membership.item.name)
    return found


def _same_name_elsewhere(drafts: Iterable[Draft[SkyPosition]]) -> Iterator[Disagreement]:
    """Tell of each group that has the name of an earlier one that no MS of its own knows: of the nearest."""
    by_name: dict[str, list[Draft[SkyPosition]]] = {}
    for draft in drafts:
        # Where a user has spoken, nothing is left to tell.
        names = {_plain(each.item.name): each.item.name for each in draft.memberships() if not each.overridden}
        for plain, name in names.items():
            strangers = [other for other in by_name.get(plain, ()) if not _share_an_ms(draft, other)]
            by_name.setdefault(plain, []).append(draft)
            if not strangers:
                continue
            other = min(strangers, key=lambda other: separation(draft.place, other.place))
            apart = round(separation(draft.place, other.place), DIGITS)
            yield Disagreement(
                topic="field",
                subject=name,
                groups=(other.id, draft.id),
                value=apart,
                text=f"{name} is group {other.id} in {_visses(other)}, and {apart:.4g} arcsec from there, as group "
                f"{draft.id}, in {_visses(draft)}",
            )


def _share_an_ms(one: Draft[SkyPosition], other: Draft[SkyPosition]) -> bool:
    return any(one.has(vis) and other.has(vis) for vis in one.members)


def _visses(draft: Draft[SkyPosition]) -> str:
    return ", ".join(vis for vis in draft.members if draft.has(vis))


def _group(draft: Draft[SkyPosition]) -> FieldGroup:
    members = tuple(membership.told_as(FieldMember) for membership in draft.memberships())
    names = tuple(_names(draft).values())
    return FieldGroup(id=draft.id, name=draft.name, names=names, members=members, **vars(draft.place))
