"""The registry of calibrations: which tables are for which data of an MS, and how CASA is told.

A table is applied to data once: where it is registered anew for some of its data, the last word holds for those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from surgeline.context.draft import Draft
from surgeline.context.records import CalibrationApplication, Observation
from surgeline.context.selection import Layout, Part, Selection, joined_parts, numbers_text
from surgeline.context.view import View
from surgeline.errors import BadInput, DataError, nearest

State = Literal["registered", "applied"]


def calibrations_of(
    view: View,
    vis: str,
    field: str = "",
    spw: str = "",
    intent: str = "",
    antenna: str = "",
    state: State = "registered",
) -> list[CalibrationApplication]:
    """The calibrations that are for any of the data selected, in the order in which they are applied.

    Raises:
        BadInput: the selection cannot be.
        DataError: nothing is known of the MS.
    """
    layout = layout_of(view, vis)
    asked = layout.select(field, spw, intent, antenna)
    return [application for application, data in _registered(view, layout, state) if layout.has(data & asked)]


def calibrated_parts(
    view: View, layout: Layout, within: Selection | None = None, state: State = "registered"
) -> list[Part]:
    """The data of an MS, or those within a selection, divided into parts that the same tables are for.

    Data that no table is for are left out.
    """
    parts: list[Part] = [(layout.whole if within is None else within, ())]
    for application, data in _registered(view, layout, state):
        divided: list[Part] = []
        for part, tables in parts:
            if inside := part & data:
                divided.append((inside, (*tables, application)))
            divided += [(outside, tables) for outside in part - data]
        parts = divided
    return joined_parts([(part, tables) for part, tables in parts if tables and layout.has(part)])


def applycal_arguments(
    view: View, vis: str, field: str = "", spw: str = "", intent: str = "", antenna: str = ""
) -> dict[str, list[Any]]:
    """What applycal is told of tables, to calibrate the data selected; lists of equal length.

    Raises:
        BadInput: not all of these data have the same tables; or the selection cannot be.
        DataError: nothing is known of the MS.
    """
    layout = layout_of(view, vis)
    asked = layout.select(field, spw, intent, antenna)
    tables: list[CalibrationApplication] = []
    for application, data in _registered(view, layout, "registered"):
        inside = asked & data
        if not layout.has(inside):
            continue
        if any(layout.has(outside) for outside in asked - data):
            raise BadInput(
                f"{application.table} is for some of the data of {vis} that are selected, and not for others",
                f"ask for less at once, such as field={numbers_text(inside.fields)!r}, "
                f"spw={numbers_text(inside.windows)!r}, or use applycal_calls",
            )
        tables.append(application)
    return _arguments(tables)


def gaincal_arguments(
    view: View, vis: str, field: str = "", spw: str = "", intent: str = "", antenna: str = ""
) -> dict[str, list[Any]]:
    """What gaincal, bandpass and other solving tasks are told of tables to apply to the data selected first.

    Raises:
        BadInput, DataError: as `applycal_arguments`.
    """
    arguments = applycal_arguments(view, vis, field, spw, intent, antenna)
    # While it solves, CASA always calibrates the weights.
    del arguments["calwt"]
    return arguments


def applycal_calls(
    view: View, vis: str, field: str = "", spw: str = "", intent: str = "", antenna: str = ""
) -> list[dict[str, Any]]:
    """The calls of applycal that calibrate the data selected, each with data that have the same tables.

    Data that no table is for are left out.

    Raises:
        BadInput: a table is for some antennas only; or the selection cannot be.
        DataError: nothing is known of the MS.
    """
    layout = layout_of(view, vis)
    calls = []
    for part, tables in calibrated_parts(view, layout, layout.select(field, spw, intent, antenna)):
        if part.antennas != layout.whole.antennas:
            raise BadInput(
                f"some tables of {vis} are for some antennas only, which applycal cannot tell apart on baselines",
                "call it with applycal_arguments, antenna by antenna, on data of single antennas",
            )
        with_any_intent = replace(part, intents=layout.whole.intents)
        calls.append(
            {
                "vis": vis,
                "field": numbers_text(part.fields, layout.whole.fields),
                "spw": numbers_text(part.windows, layout.whole.windows),
                "scan": numbers_text(layout.scans_of(part), layout.scans_of(with_any_intent)),
                **_arguments(tables),
            }
        )
    return calls


def callibrary_text(view: View, vis: str) -> str:
    """The registered calibrations of an MS as a file in the syntax of CASA's cal library, for `callib` of its tasks.

    The file says what is for which data once for all, where `applycal_calls` needs several calls.

    Raises:
        BadInput: a table's name, its antennas or its different `calwt` cannot be said in this syntax.
        DataError: nothing is known of the MS.
    """
    layout = layout_of(view, vis)
    return library_text(layout, _registered(view, layout, "registered"))


def library_text(layout: Layout, applications: Iterable[tuple[CalibrationApplication, Selection]]) -> str:
    """Calibrations and the data of an MS that each is for as a cal library, as `callibrary_text` gives it."""
    lines = []
    weights: dict[str, bool] = {}
    for application, data in applications:
        if data.antennas != layout.whole.antennas:
            raise BadInput(
                f"{application.table} is for some antennas only, which a cal library cannot say",
                "use applycal_arguments",
            )
        if weights.setdefault(application.table, application.calwt) != application.calwt:
            raise BadInput(
                f"{application.table} calibrates the weights of some data and not of others, which a cal library "
                "cannot say",
                "register it with the same calwt, or use applycal_calls",
            )
        time, _, frequency = application.interp.partition(",")
        words: dict[str, str | list[int]] = {
            "caltable": application.table,
            **layout.said_of(data, application.intent),
            "tinterp": time.strip() or "linear",
            "finterp": frequency.strip(),
            "fldmap": application.gainfield,
            "spwmap": list(application.spwmap),
        }
        said = [f"{name}={_quoted(value)}" for name, value in words.items() if value]
        lines.append(" ".join([said[0], f"calwt={application.calwt}", *said[1:]]))
    return "".join(f"{line}\n" for line in lines)


def register(draft: Draft, *applications: CalibrationApplication) -> list[CalibrationApplication]:
    """Register calibrations, after those that their MSs have; returns them as they were recorded.

    What they are for is recorded by number, whatever way it was said.

    Raises:
        BadInput: there are no such data.
        DataError: nothing is known of the MS.
    """
    recorded = []
    for application in applications:
        layout = layout_of(draft, application.vis)
        recorded.append(register_part(draft, layout, application, layout.data_of(application)))
    return recorded


def register_part(
    draft: Draft, layout: Layout, application: CalibrationApplication, part: Selection
) -> CalibrationApplication:
    """Register a calibration for a part of its MS, as `register` does."""
    if not layout.has(part):
        raise BadInput(
            f"{application.table} is for no data of {application.vis}: field={application.field!r}, "
            f"spw={application.spw!r}, intent={application.intent!r}, antenna={application.antenna!r}",
            "correct what it is for",
        )
    _take_away(draft, layout, part, {application.table})
    present = [each.order for each in draft.all(CalibrationApplication, vis=application.vis)]
    order = application.order or max(present, default=0) + 1
    recorded = _for_part(application, layout, part).model_copy(update={"order": order})
    draft.add(recorded)
    return recorded


def unregister(
    draft: Draft, unwanted: Callable[[CalibrationApplication], bool], vis: str | None = None
) -> list[CalibrationApplication]:
    """Take registered calibrations back that a function says are unwanted, of an MS or of all; returns them."""
    equal = {} if vis is None else {"vis": vis}
    found = [each for each in draft.all(CalibrationApplication, state="registered", **equal) if unwanted(each)]
    for application in found:
        _remove(draft, application)
    return found


def unregister_part(draft: Draft, layout: Layout, part: Selection, tables: Iterable[str]) -> None:
    """Take registered calibrations back for a part of an MS; for the rest of their data they stay registered."""
    _take_away(draft, layout, part, set(tables), state="registered")


def mark_applied(
    draft: Draft,
    vis: str,
    field: str = "",
    spw: str = "",
    intent: str = "",
    antenna: str = "",
    tables: Iterable[str] | None = None,
) -> list[CalibrationApplication]:
    """Record that registered calibrations are in the corrected data of what is selected now; returns these.

    For the rest of the data that they are for they stay registered.

    Args:
        draft: where to say so.
        vis: the MS.
        field, spw, intent, antenna: the data that were calibrated.
        tables: which tables were applied; all that are registered for these data unless given.

    Raises:
        BadInput: the selection cannot be, or what is left cannot be said.
        DataError: nothing is known of the MS.
    """
    layout = layout_of(draft, vis)
    return mark_part_applied(draft, layout, layout.select(field, spw, intent, antenna), tables)


def mark_part_applied(
    draft: Draft, layout: Layout, part: Selection, tables: Iterable[str] | None = None
) -> list[CalibrationApplication]:
    """Record that registered calibrations are in the corrected data of a part of an MS, as `mark_applied` does."""
    only = None if tables is None else set(tables)
    applied = []
    for application, data in _take_away(draft, layout, part, only, state="registered"):
        applied.append(_for_part(application, layout, data & part).model_copy(update={"state": "applied"}))
    draft.add(*applied)
    return applied


def layout_of(view: View, vis: str) -> Layout:
    """What of an MS selections can tell apart.

    Raises:
        DataError: nothing is known of it.
    """
    found = view.last(Observation, vis=vis)
    if found is None:
        known = [each.vis for each in view.all(Observation)]
        raise DataError(
            f"nothing is known of the MS {vis}, so its data cannot be told apart",
            nearest(vis, known) if known else "import it first",
        )
    return Layout(found)


def _registered(view: View, layout: Layout, state: State) -> Iterator[tuple[CalibrationApplication, Selection]]:
    """The calibrations of an MS and the data that each is for, in order."""
    found = view.all(CalibrationApplication, vis=layout.vis, state=state)
    for application in sorted(found, key=lambda each: each.order):
        yield application, layout.data_of(application)


def _take_away(
    draft: Draft, layout: Layout, part: Selection, tables: set[str] | None, state: State | None = None
) -> list[tuple[CalibrationApplication, Selection]]:
    """Let tables be for a part of an MS no longer; returns what they were and for which data."""
    equal = {"vis": layout.vis} if state is None else {"vis": layout.vis, "state": state}
    taken = []
    for application in draft.all(CalibrationApplication, **equal):
        before = layout.data_of(application)
        if (tables is not None and application.table not in tables) or not layout.has(before & part):
            continue
        _remove(draft, application)
        rest = (_for_part(application, layout, piece) for piece in before - part if layout.has(piece))
        draft.add(*rest)
        taken.append((application, before))
    return taken


def _remove(draft: Draft, application: CalibrationApplication) -> None:
    draft.remove(CalibrationApplication, **{name: getattr(application, name) for name in application.identity})


def _for_part(application: CalibrationApplication, layout: Layout, part: Selection) -> CalibrationApplication:
    """The same calibration, for a part of the MS."""
    return application.model_copy(update=layout.said_of(part, application.intent))


def _arguments(tables: Sequence[CalibrationApplication]) -> dict[str, list[Any]]:
    return {
        "gaintable": [each.table for each in tables],
        "gainfield": [each.gainfield for each in tables],
        "spwmap": [list(each.spwmap) for each in tables],
        "interp": [each.interp or "linear" for each in tables],
        "calwt": [each.calwt for each in tables],
    }


def _quoted(value: str | list[int]) -> str:
    if isinstance(value, list):
        return str(value)
    quote = '"' if "'" in value else "'"
    if quote in value or "\n" in value:
        raise BadInput(
            f"{value!r} has both kinds of quotes, or a line's end, which a cal library cannot say", "rename it"
        )
    return f"{quote}{value}{quote}"
