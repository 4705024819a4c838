"""An MS as existing tasks see it, made of facts."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from surgeline.context.legacy.attributes import Attributes
from surgeline.context.legacy.domain import (
    Antenna,
    AntennaArray,
    Field,
    Part,
    Scan,
    SelectedWindow,
    Source,
    SpectralWindow,
    parts_of,
    pipeline_intent,
)
from surgeline.context.legacy.units import epoch
from surgeline.context.records import DataColumns, Dataset, Observation, ReferenceAntenna, Roles
from surgeline.context.selection import Layout, Selection

if TYPE_CHECKING:
    from surgeline.context.legacy.context import LegacyContext

AnyPart = TypeVar("AnyPart", bound=Part)

_SCIENCE = frozenset({"TARGET", "PHASE", "BANDPASS", "AMPLITUDE", "POLARIZATION", "POLANGLE", "POLLEAKAGE", "CHECK"})
_WORD = re.compile(r'"[^"]*"|[^,]+')
# Windows of these intents are for science: of ALMA, the VLA and Nobeyama; elsewhere all windows are.
_SCIENCE_INTENTS = {
    "ALMA": _SCIENCE | {"DIFFGAINREF", "DIFFGAINSRC"},
    "VLA": _SCIENCE,
    "EVLA": _SCIENCE,
    "NRO": frozenset({"TARGET"}),
}


class MeasurementSet:
    """An MS: what facts say of it, and attributes that tasks add at will."""

    name: str
    attributes: Attributes
    _context: LegacyContext
    _parts_of: tuple[Observation | None, Roles | None]
    _parts: dict[str, Mapping[int, Any]]

    begin: ClassVar[Mapping[str, Callable[[Any], Any]]] = {
        "session": lambda _: "session_1",
        "origin_ms": lambda self: self._origin(),
        "exclude_num_chans": lambda _: (1, 4),
        "reference_antenna_locked": lambda _: False,
        "representative_target": lambda _: (None, None, None),
        "observing_modes": lambda _: [],
        **dict.fromkeys(("array_name", "execblock_id", "schedblock_id"), lambda _: ""),
        **dict.fromkeys(
            (
                *("acs_software_build_version", "acs_software_version", "correlator_name", "derived_fluxes"),
                *("fluxscale_fluxes", "reference_spwmap", "representative_window"),
            ),
            lambda _: None,
        ),
        **dict.fromkeys(("phase_calapps_for_check_sources", "phaseup_caltable_for_phase_rms"), lambda _: []),
        **dict.fromkeys(
            ("data_types_per_source_and_spw", "phasecal_mapping", "science_goals", "spectralspec_spwmap", "spwmaps"),
            lambda _: {},
        ),
    }

    def __init__(self, context: LegacyContext, vis: str) -> None:
        vars(self).update(
            _context=context,
            name=vis,
            attributes=Attributes(context, f"legacy {vis}", vis),
            _parts_of=(None, None),
            _parts={},
            _faces={},
            _laid_out=(None, None),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Where it arrives, facts are asked for when they are wanted.
        return _measurement_set, (self._context, self.name)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        begin = self.begin.get(name)
        return self.attribute(name, None if begin is None else lambda: begin(self))

    def __setattr__(self, name: str, value: Any) -> None:
        found = getattr(type(self), name, None)
        if isinstance(found, property) and found.fset:
            found.fset(self, value)
        elif isinstance(found, property) or name in vars(self):
            raise AttributeError(f"{name} of {self.name} is what the observation says, and cannot be set")
        else:
            self.attributes.set(name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MeasurementSet) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"<MeasurementSet {self.name}>"

    def attribute(self, name: str, begin: Callable[[], Any] | None = None) -> Any:
        """An attribute that a task added, to the MS or to a part of it.

        Raises:
            AttributeError: there is none.
        """
        try:
            return self.attributes.get(name, begin)
        except KeyError:
            raise AttributeError(
                f"{self.name} has no attribute {name!r}: neither do its facts say so, nor did a task set it"
            ) from None

    def part(self, cls: type[AnyPart], number: int) -> AnyPart:
        """A part of the MS: the same one each time, whether anything is known of it yet or not."""
        faces: dict[tuple[type[Part], int], Any] = self._faces
        if (cls, number) not in faces:
            faces[cls, number] = cls(self, number)
        found: AnyPart = faces[cls, number]
        return found

    def known_parts(self, collection: str) -> Mapping[int, Any]:
        """What facts say of parts of the MS, by their numbers (see `parts_of`)."""
        known, roles = self.known, self.roles
        if known is not self._parts_of[0] or roles is not self._parts_of[1]:
            vars(self).update(_parts_of=(known, roles), _parts={})
        if collection not in self._parts:
            self._parts[collection] = parts_of(known, roles, collection)
        return self._parts[collection]

    @property
    def known(self) -> Observation:
        found = self._context.draft.last(Observation, vis=self.name)
        assert found is not None
        return found

    @property
    def layout(self) -> Layout:
        known = self.known
        if known is not self._laid_out[0]:
            vars(self).update(_laid_out=(known, Layout(known)))
        layout: Layout = self._laid_out[1]
        return layout

    @property
    def roles(self) -> Roles | None:
        return self._context.draft.last(Roles, vis=self.name)

    @property
    def basename(self) -> str:
        return Path(self.name).name

    @property
    def telescope(self) -> str:
        return self.known.telescope

    @property
    def observer(self) -> str:
        return self.known.observer

    @property
    def project_id(self) -> str:
        return self.known.project

    @property
    def is_imported(self) -> bool:
        made = self._context.draft.last(Dataset, path=self.name)
        return made is None or made.kind == "raw"

    @property
    def start_time(self) -> dict[str, Any]:
        return epoch(self.known.start)

    @property
    def end_time(self) -> dict[str, Any]:
        return epoch(self.known.end)

    @property
    def fields(self) -> list[Field]:
        return [self.part(Field, number) for number in self.known_parts("fields")]

    @property
    def spectral_windows(self) -> list[SpectralWindow]:
        return [self.part(SpectralWindow, number) for number in self.known_parts("spectral_windows")]

    @property
    def scans(self) -> list[Scan]:
        return [self.part(Scan, number) for number in self.known_parts("scans")]

    @property
    def antennas(self) -> list[Antenna]:
        return [self.part(Antenna, number) for number in self.known_parts("antennas")]

    @property
    def sources(self) -> list[Source]:
        return [self.part(Source, number) for number in self.known_parts("sources")]

    @property
    def antenna_array(self) -> AntennaArray:
        return AntennaArray(self.telescope, tuple(self.antennas), self.known.longest_baseline)

    @property
    def intents(self) -> set[str]:
        return set().union(*(field.intents for field in self.fields))

    @property
    def reference_antenna(self) -> str | None:
        found = self._context.draft.last(ReferenceAntenna, vis=self.name)
        return ",".join(found.names) if found else None

    @reference_antenna.setter
    def reference_antenna(self, value: str | None) -> None:
        """Names in the order of preference, with commas between them; None or empty for none."""
        if self.reference_antenna_locked:
            raise AttributeError(f"the reference antennas of {self.basename} are locked (reference_antenna_locked)")
        self._context.draft.remove(ReferenceAntenna, vis=self.name)
        names = tuple(name.strip() for name in (value or "").split(",") if name.strip())
        if names:
            reason = f"set by stage {self._context.stage}"
            self._context.draft.add(ReferenceAntenna(vis=self.name, names=names, reason=reason))

    def update_reference_antennas(
        self, ants_to_demote: Collection[str] | None = None, ants_to_remove: Collection[str] | None = None
    ) -> None:
        """Put some of the reference antennas last, and leave others out."""
        demoted, removed = set(ants_to_demote or ()), set(ants_to_remove or ())
        kept = [name for name in (self.reference_antenna or "").split(",") if name and name not in removed]
        if kept or removed:
            self.reference_antenna = ",".join(sorted(kept, key=lambda name: name in demoted))

    def get_antenna(self, search_term: str = "") -> list[Antenna]:
        """The antennas of a selection in CASA's syntax."""
        chosen = self.layout.select(antenna=search_term).antennas
        return [antenna for antenna in self.antennas if antenna.id in chosen]

    def get_fields(
        self,
        task_arg: int | str | None = None,
        field_id: int | Sequence[int] | None = None,
        name: str | Iterable[str] | None = None,
        intent: str | Iterable[str] | None = None,
    ) -> list[Field]:
        """The fields of a selection in CASA's syntax, of some numbers, names and intents; each may be left out."""
        found = self.fields
        if task_arg not in (None, ""):
            chosen = self.layout.select(field=str(task_arg)).fields
            found = [field for field in found if field.id in chosen]
        if field_id is not None:
            numbers = {field_id} if isinstance(field_id, int) else set(field_id)
            found = [field for field in found if field.id in numbers]
        if name is not None:
            names = words_of(name)
            found = [field for field in found if {field.name, field.known.name} & names]
        if intent is not None:
            found = [field for field in found if field.intents & self._asked_intents(intent)]
        return found

    def get_spectral_window(self, spw_id: int | str) -> SpectralWindow:
        """The spectral window of a number.

        Raises:
            KeyError: there is none.
        """
        for window in self.spectral_windows:
            if window.id == int(spw_id):
                return window
        raise KeyError(f"{self.basename} has no spectral window {spw_id}")

    def get_all_spectral_windows(self, task_arg: int | str = "", with_channels: bool = False) -> list[Any]:
        """The spectral windows of a selection in CASA's syntax; with channels, ids say which are selected."""
        chosen = self.layout.select(spw=str(task_arg)).windows
        found = [window for window in self.spectral_windows if window.id in chosen]
        if not with_channels:
            return found
        channels: dict[int, list[str]] = {window.id: [] for window in found}
        for item in str(task_arg).split(","):
            windows, _, part = item.partition(":")
            for number in self.layout.select(spw=windows).windows if part else ():
                channels[number].append(part)
        return [SelectedWindow(window, ";".join(channels[window.id])) for window in found]

    def get_spectral_windows(
        self,
        task_arg: int | str = "",
        with_channels: bool = False,
        num_channels: Collection[int] | None = None,
        science_windows_only: bool = True,
        spectralspecs: Collection[str] | None = None,
        intent: str | None = None,
    ) -> list[Any]:
        """The spectral windows of a selection, for science only unless told otherwise."""
        found = self.get_all_spectral_windows(task_arg, with_channels)
        if num_channels:
            found = [window for window in found if window.num_channels in num_channels]
        if spectralspecs is not None:
            found = [window for window in found if window.spectralspec in spectralspecs]
        if intent is not None:
            found = [window for window in found if window.intents & words_of(intent)]
        return [window for window in found if self._is_science(window)] if science_windows_only else found

    def get_scans(
        self,
        scan_id: int | Sequence[int] | None = None,
        scan_intent: str | Iterable[str] | None = None,
        field: int | str | None = None,
        spw: int | str | Iterable[int | str] | None = None,
    ) -> list[Scan]:
        """The scans of some numbers, intents, fields and spectral windows; each may be left out."""
        found = self.scans
        if scan_id is not None:
            numbers = {scan_id} if isinstance(scan_id, int) else set(scan_id)
            found = [scan for scan in found if scan.id in numbers]
        if scan_intent is not None:
            found = [scan for scan in found if scan.intents & self._asked_intents(scan_intent)]
        if field is not None:
            fields = self.layout.select(field=str(field)).fields
            found = [scan for scan in found if fields & set(scan.known.fields)]
        if spw is not None:
            asked = str(spw) if isinstance(spw, str | int) else ",".join(str(number) for number in spw)
            windows = self.layout.select(spw=asked).windows
            found = [scan for scan in found if windows & set(scan.known.spectral_windows)]
        return found

    def get_original_intent(self, intent: str) -> set[str]:
        """The observatory's words for intents of the existing pipeline."""
        said = {word for scan in self.known.scans for word in scan.intents}
        return {word for word in said if pipeline_intent(word, self.telescope) in words_of(intent)}

    @property
    def data_column(self) -> dict[str, str]:
        found = self._context.draft.last(DataColumns, vis=self.name)
        return dict(found.columns) if found else {}

    def set_data_column(
        self,
        dtype: Any,
        column: str,
        source: str | None = None,
        spw: str | None = None,
        overwrite: bool = False,
        save_to_ms: bool = True,
    ) -> None:
        """Say which column holds data of a type, for some sources and spectral windows or for all.

        It is the context that remembers it; nothing is written to the MS, whatever `save_to_ms` says.

        Raises:
            ValueError: the type has another column, or the column another type, and `overwrite` is not set.
        """
        name, columns = type_name(dtype), self.data_column
        other = next((held for held, there in columns.items() if there == column and held != name), None)
        if not overwrite and columns.get(name, column) != column:
            raise ValueError(f"{name} data of {self.basename} are in column {columns[name]}, not {column}")
        if not overwrite and other is not None:
            raise ValueError(f"column {column} of {self.basename} holds {other} data, not {name}")
        if other is not None:
            del columns[other]
        columns[name] = column
        for part in self._sources_and_windows(source, spw):
            held_types = self.data_types_per_source_and_spw.setdefault(part, [])
            if name not in held_types:
                held_types.append(name)
        self._context.draft.add(DataColumns(vis=self.name, after=self._context.stage, columns=columns))

    def get_data_column(self, dtype: Any, source: str | None = None, spw: str | None = None) -> str | None:
        """The column that holds data of a type, of all the sources and spectral windows that are asked for."""
        column = self.data_column.get(type_name(dtype))
        return column if column and self._all_have(type_name(dtype), source, spw) else None

    def get_data_type(self, column: str, source: str | None = None, spw: str | None = None) -> str | None:
        """The type of the data that a column holds, by name."""
        name = next((held for held, there in self.data_column.items() if there == column), None)
        return name if name and self._all_have(name, source, spw) else None

    def _all_have(self, name: str, source: str | None, spw: str | None) -> bool:
        kept: dict[tuple[str, int], list[Any]] = self.data_types_per_source_and_spw
        # Where nobody told sources and windows apart, a column holds all of them.
        if not kept or (source is None and spw is None):
            return True
        return all(name in map(type_name, kept.get(part, ())) for part in self._sources_and_windows(source, spw))

    def _sources_and_windows(self, source: str | None, spw: str | None) -> list[tuple[str, int]]:
        every = [each.known.name for each in self.sources]
        names = [name.strip().strip('"') for name in source.split(",")] if source and source.strip() else every
        return [(name, window) for name in names for window in sorted(self.layout.select(spw=spw or "").windows)]

    def _is_science(self, window: Any) -> bool:
        wanted = _SCIENCE_INTENTS.get(self.telescope)
        # Data that say nothing of intents have nothing but science in them.
        if wanted is None or not self.intents:
            return True
        if self.telescope != "NRO" and window.num_channels in self.exclude_num_chans:
            return False
        if self.telescope in ("VLA", "EVLA") and "POINTING" in window.intents:
            return False
        return bool(wanted & window.intents)

    def _asked_intents(self, intent: str | Iterable[str]) -> set[str]:
        return self.intents if intent in ("", "*") else words_of(intent)

    def _origin(self) -> str:
        made = self._context.draft.last(Dataset, path=self.name)
        return self.name if made is None or made.kind == "raw" else made.parent

    def _key(self) -> tuple[str, str]:
        return self._context.identifier, self.name


def selection_of(
    ms: MeasurementSet, field: str = "", spw: str = "", intent: str = "", antenna: str = ""
) -> Selection:
    """What a selection means whose intents are those of the existing pipeline.

    Which fields serve as what is the session's to say, so that intents mean fields, and scans with words for them.
    """
    found = ms.layout.select(field, spw, "", antenna)
    wanted = {word.strip("*") for word in words_of(intent)} - {""}
    if not wanted:
        return found
    scans = [scan for scan in ms.scans if scan.intents & wanted]
    fields = frozenset(field.id for field in ms.fields if field.intents & wanted)
    return Selection(
        fields=found.fields & fields,
        windows=found.windows,
        intents=frozenset(frozenset(scan.known.intents) for scan in scans),
        antennas=found.antennas,
    )


def intents_of(ms: MeasurementSet, part: Selection) -> set[str]:
    """What a part of an MS was observed for, in the words of the existing pipeline."""
    of_fields, of_scans = ms.known_parts("intents of fields"), ms.known_parts("intents of scans")
    scans = ms.known_parts("scans")
    return {
        intent
        for number in ms.layout.scans_of(part)
        for field in part.fields.intersection(scans[number].fields)
        for intent in of_fields[field] & of_scans[number]
    }


def words_of(text: str | Iterable[str]) -> set[str]:
    """The words that stand between commas; those between quotes keep their own commas, and their quotes."""
    return {word.strip() for word in (_WORD.findall(text) if isinstance(text, str) else text)}


def type_name(dtype: Any) -> str:
    """The name of a data type, which may be an enumeration's member."""
    return str(getattr(dtype, "name", dtype))


def _measurement_set(context: LegacyContext, vis: str) -> MeasurementSet:
    return context.observing_run.face_of(vis)
