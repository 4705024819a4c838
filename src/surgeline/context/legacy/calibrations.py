"""The calibration library as existing tasks see it: a face of the registry in `calibration`."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from surgeline.context.calibration import (
    State,
    calibrated_parts,
    library_text,
    mark_part_applied,
    register_part,
    unregister_part,
)
from surgeline.context.legacy.facts import TableType
from surgeline.context.legacy.measurementset import MeasurementSet, intents_of, selection_of
from surgeline.context.records import CalibrationApplication
from surgeline.context.selection import Selection, numbers_text
from surgeline.errors import BadInput
from surgeline.paths import write_text

if TYPE_CHECKING:
    from surgeline.context.legacy.context import LegacyContext

_LISTED = ("gaintable", "gainfield", "spwmap", "interp", "calwt")


@dataclass(frozen=True)
class CalTo:
    """Data that a calibration is for; empty: all. Intents are those of the existing pipeline."""

    vis: str
    field: str = ""
    spw: str = ""
    antenna: str = ""
    intent: str = ""


@dataclass(frozen=True)
class CalFrom:
    """A calibration table and how it is applied."""

    gaintable: str
    gainfield: str = ""
    interp: str = "linear,linear"
    spwmap: tuple[int, ...] = ()
    caltype: str = "unknown"
    calwt: bool = True


class CalToArgs(NamedTuple):
    """Data that a calibration is for: texts where it says what to apply; sets where a predicate is asked."""

    vis: Any
    spw: Any
    field: Any
    intent: Any
    antenna: Any


class CalApplication:
    """Tables and the data that they are for, as one call of applycal."""

    def __init__(self, calto: Any, calfrom: Any, origin: Any = None) -> None:
        self.calto = calto
        self.calfrom = calfrom if isinstance(calfrom, list) else [calfrom]
        self.origin = origin if isinstance(origin, list) else [origin]

    def __getattr__(self, name: str) -> Any:
        if name in ("vis", "field", "spw", "intent", "antenna"):
            return getattr(self.calto, name)
        if name in _LISTED:
            values = [getattr(each, name) for each in self.calfrom]
            values = [list(value) if isinstance(value, tuple) else value for value in values]
            return values[0] if len(values) == 1 else values
        raise AttributeError(name)

    def exists(self) -> bool:
        """Whether all its tables are there."""
        return all(Path(each.gaintable).exists() for each in self.calfrom)

    def as_applycal(self) -> str:
        """The call of applycal, as text."""
        names = ("vis", "field", "intent", "spw", "antenna", *_LISTED)
        return f"applycal({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    __str__ = as_applycal

    @staticmethod
    def from_export(text: str) -> CalApplication:
        """What a call of applycal says; only its arguments are read, and nothing of it is run.

        Raises:
            BadInput: the text is no such call.
        """
        try:
            call = ast.parse(text.strip(), mode="eval").body
            assert isinstance(call, ast.Call)
            said = {str(each.arg): ast.literal_eval(each.value) for each in call.keywords}
            calto = CalTo(**{each.name: said.get(each.name, "") for each in fields(CalTo)})
            tables = _list_of(said["gaintable"])
            maps = said.get("spwmap") or []
            listed = {
                "gainfield": _list_of(said.get("gainfield", "")),
                "interp": _list_of(said.get("interp", "linear,linear")),
                "calwt": _list_of(said.get("calwt", True)),
                "spwmap": maps if maps and isinstance(maps[0], list) else [maps],
            }
        except (AssertionError, SyntaxError, TypeError, ValueError, KeyError) as error:
            raise BadInput(
                f"{text.strip()[:100]!r} cannot be read as a call of applycal: {error}",
                "write it as CASA's log does: applycal(vis='…', gaintable=['…'], …)",
            ) from error
        calfroms = []
        for place, table in enumerate(tables):
            given: dict[str, Any] = {name: values[place] for name, values in listed.items() if place < len(values)}
            calfroms.append(CalFrom(table, **{**given, "spwmap": tuple(given.get("spwmap", ()))}))
        return CalApplication(calto, calfroms)


@dataclass(frozen=True)
class CalibratedPart:
    """Data of an MS, in numbers and in texts, and the tables that are for them."""

    data: Selection
    calto: CalToArgs
    calfroms: tuple[CalFrom, ...]


@dataclass(frozen=True)
class CalibrationState:
    """Which tables are for which data, as it was when it was asked for."""

    parts: tuple[CalibratedPart, ...]

    def merged(self, hide_empty: bool = False) -> dict[CalToArgs, list[CalFrom]]:
        """The tables of each part of the data; parts without tables are left out, whatever `hide_empty` says."""
        return {part.calto: list(part.calfroms) for part in self.parts}

    def get_caltable(self, caltypes: str | Collection[str] | None = None) -> set[str]:
        """The names of the tables, or of those of some types."""
        wanted = {caltypes} if isinstance(caltypes, str) else caltypes
        tables = (each for part in self.parts for each in part.calfroms)
        return {each.gaintable for each in tables if wanted is None or each.caltype in wanted}

    def as_applycal(self) -> str:
        """The calls of applycal, as text, each in a line."""
        return "\n".join(CalApplication(part.calto, list(part.calfroms)).as_applycal() for part in self.parts)

    __str__ = as_applycal

    def trimmed(self, context: LegacyContext, calto: Any) -> CalibrationState:
        """What of it is for some data."""
        ms = context.observing_run.get_ms(calto.vis)
        asked = _selection(ms, calto)
        found = [(part, part.data & asked) for part in self.parts if part.calto.vis == ms.name]
        return CalibrationState(
            tuple(
                CalibratedPart(data, _as_texts(ms, data), part.calfroms)
                for part, data in found
                if ms.layout.has(data)
            )
        )

    def export_to_casa_callibrary(self, ms: Any, callibfile: str) -> None:
        """Write what of it is for an MS as a cal library for CASA's tasks.

        Raises:
            BadInput: a table's name, its antennas or its different `calwt` cannot be said in this syntax.
        """
        applications = [
            (_application(ms.name, each), part.data)
            for part in self.parts
            for each in part.calfroms
            if part.calto.vis == ms.name
        ]
        write_text(Path(callibfile), library_text(ms.layout, applications))


class CalibrationLibrary:
    """The calibrations of a context: those to be applied, and those that are applied."""

    def __init__(self, context: LegacyContext) -> None:
        self._context = context

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._context, "callibrary")

    @property
    def active(self) -> CalibrationState:
        return self._state("registered")

    @property
    def applied(self) -> CalibrationState:
        return self._state("applied")

    def add(self, calto: Any, calfroms: Any) -> None:
        """Register tables for data. Data that are not there are passed over."""
        ms = self._context.observing_run.get_ms(calto.vis)
        data = _selection(ms, calto)
        if not ms.layout.has(data):
            return
        for calfrom in _list_of(calfroms):
            if calfrom.caltype != CalFrom.caltype:
                self._context.draft.add(TableType(table=calfrom.gaintable, caltype=calfrom.caltype))
            register_part(self._context.draft, ms.layout, _application(ms.name, calfrom), data)

    def get_calstate(self, calto: Any, ignore: Collection[str] | None = None) -> CalibrationState:
        """The tables to be applied to some data; properties of tables that are ignored have their defaults."""
        ms = self._context.observing_run.get_ms(calto.vis)
        state = self._state("registered", ms).trimmed(self._context, calto)
        plain: dict[str, Any] = {each.name: each.default for each in fields(CalFrom) if each.name in (ignore or ())}
        return CalibrationState(
            tuple(
                replace(part, calfroms=tuple(replace(each, **plain) for each in part.calfroms))
                for part in state.parts
            )
        )

    def mark_as_applied(self, calto: Any, calfrom: Any) -> None:
        """Say that tables are in the corrected data now."""
        ms = self._context.observing_run.get_ms(calto.vis)
        tables = {each.gaintable for each in _list_of(calfrom)}
        mark_part_applied(self._context.draft, ms.layout, _selection(ms, calto), tables)

    def unregister_calibrations(self, predicate_fn: Callable[[CalToArgs, CalFrom], bool]) -> None:
        """Take back the tables that a function of data and table says so of; it is asked field by field."""
        draft = self._context.draft
        types = self._types()
        for ms in self._context.observing_run.measurement_sets:
            for application in draft.all(CalibrationApplication, vis=ms.name, state="registered"):
                data = ms.layout.data_of(application)
                unwanted = frozenset(
                    field
                    for field in data.fields
                    if ms.layout.has(of_field := replace(data, fields=frozenset({field})))
                    and predicate_fn(_as_sets(ms, of_field), _calfrom(application, types))
                )
                if unwanted:
                    unregister_part(draft, ms.layout, replace(data, fields=unwanted), [application.table])

    def clear(self) -> None:
        """Forget all calibrations."""
        self._context.draft.remove(CalibrationApplication)

    def export(self, filename: str | None = None) -> None:
        """Write the tables to be applied, as calls of applycal."""
        write_text(self._file(filename), f"{self.active.as_applycal()}\n")

    def export_applied(self, filename: str | None = None) -> None:
        """Write the tables that are applied, as calls of applycal."""
        write_text(self._file(filename), f"{self.applied.as_applycal()}\n")

    def import_state(self, filename: str | None = None, append: bool = False) -> None:
        """Register what calls of applycal in a file say, beside what is registered or instead of it."""
        lines = self._file(filename).read_text(encoding="utf-8").splitlines()
        found = [CalApplication.from_export(line) for line in lines if line.startswith("applycal(")]
        if not append:
            self._context.draft.remove(CalibrationApplication, state="registered")
        for each in found:
            self.add(each.calto, each.calfrom)

    def _state(self, state: State, of: MeasurementSet | None = None) -> CalibrationState:
        """The tables of an MS, or of all."""
        types = self._types()
        return CalibrationState(
            tuple(
                CalibratedPart(part, _as_texts(ms, part), tuple(_calfrom(each, types) for each in applications))
                for ms in ([of] if of else self._context.observing_run.measurement_sets)
                for part, applications in calibrated_parts(self._context.draft, ms.layout, state=state)
            )
        )

    def _types(self) -> dict[str, str]:
        return {fact.table: fact.caltype for fact in self._context.draft.all(TableType)}

    def _file(self, filename: str | None) -> Path:
        return Path(filename or Path(self._context.output_dir) / f"{self._context.name}.calstate")


def _selection(ms: MeasurementSet, calto: Any) -> Selection:
    words = {
        name: "" if (value := getattr(calto, name, None)) is None else str(value)
        for name in ("field", "spw", "intent", "antenna")
    }
    return selection_of(ms, **words)


def _application(vis: str, calfrom: Any) -> CalibrationApplication:
    return CalibrationApplication(
        table=calfrom.gaintable,
        vis=vis,
        gainfield=calfrom.gainfield,
        spwmap=tuple(calfrom.spwmap or ()),
        interp=calfrom.interp,
        calwt=calfrom.calwt,
    )


def _calfrom(application: CalibrationApplication, types: Mapping[str, str]) -> CalFrom:
    return CalFrom(
        gaintable=application.table,
        gainfield=application.gainfield,
        interp=application.interp,
        spwmap=application.spwmap,
        caltype=types.get(application.table, "unknown"),
        calwt=application.calwt,
    )


def _names_of_fields(ms: MeasurementSet, numbers: Collection[int]) -> list[str]:
    """The names of fields; where several have the same name, the number."""
    names = Counter(field.name for field in ms.fields)
    return [field.name if names[field.name] == 1 else str(field.id) for field in ms.fields if field.id in numbers]


def _as_sets(ms: MeasurementSet, data: Selection) -> CalToArgs:
    intents = intents_of(ms, data)
    return CalToArgs(
        vis={ms.name},
        spw=set(data.windows),
        field=set(_names_of_fields(ms, data.fields)),
        intent=set() if intents == ms.intents else intents,
        antenna=set(data.antennas),
    )


def _as_texts(ms: MeasurementSet, data: Selection) -> CalToArgs:
    intents = intents_of(ms, data)
    antennas = [antenna.name for antenna in ms.antennas if antenna.id in data.antennas]
    return CalToArgs(
        vis=ms.name,
        spw=numbers_text(data.windows),
        field=",".join(_names_of_fields(ms, data.fields)),
        intent="" if intents == ms.intents else ",".join(sorted(intents)),
        antenna="" if len(antennas) == len(ms.antennas) else ",".join(antennas),
    )


def _list_of(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
