"""Which data to use of several MSs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from surgeline.context.matching.facts import FieldGroup, WindowGroup
from surgeline.context.records import Fact
from surgeline.errors import BadInput, DataError, nearest


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
    asked = sorted(
        set.intersection(*({member.vis for member in group.members} for group in groups)) if groups else columns
    )
    if not asked:
        raise DataError(f"no MS is in {' and '.join(about) or 'the context'}", "ask for a field and window of an MS")
    held = {vis: columns.get(vis, {}) for vis in asked}
    best = tuple(
        DataColumn(vis=vis, data_type=data_type, column=types[data_type])
        for vis, types in held.items()
        if (data_type := next((each for each in preference if each in types), ""))
    )
    if not best:
        known = {data_type for types in held.values() for data_type in types}
        raise DataError(
            f"none of {', '.join(asked)} holds data of type {', '.join(preference)}",
            nearest(preference[0], known) if known else "register which of their columns hold which data",
        )
    common = next((each for each in preference if all(each in types for types in held.values())), "")
    in_common = (DataColumn(vis=vis, data_type=common, column=types[common]) for vis, types in held.items())
    lacking = tuple(vis for vis in asked if vis not in {chosen.vis for chosen in best})
    return DataChoice(
        preference=tuple(preference),
        about=about,
        data_type=common,
        columns=tuple(in_common) if common else best,
        best=best,
        lacking=lacking,
        told=tuple(_differences(common, best, lacking)),
    )


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
