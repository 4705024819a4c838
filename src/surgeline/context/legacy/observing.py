"""The observing run as existing tasks see it: its MSs, and what is the same in all of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from surgeline.context.legacy.measurementset import MeasurementSet, words_of
from surgeline.context.legacy.translation import observation_from
from surgeline.context.legacy.units import epoch
from surgeline.context.matching import WindowGroup, match_windows_exactly
from surgeline.context.records import Observation

if TYPE_CHECKING:
    from surgeline.context.legacy.context import LegacyContext


class ObservingRun:
    """The MSs of a context."""

    _context: LegacyContext
    _sets: dict[str, MeasurementSet]
    _groups: tuple[tuple[Any, ...], Sequence[WindowGroup]]

    begin: ClassVar[Mapping[str, Callable[[], Any]]] = {
        "ms_datatable_name": str,
        "ms_reduction_group": dict,
        "org_directions": dict,
    }

    def __init__(self, context: LegacyContext) -> None:
        vars(self).update(_context=context, _sets={}, _groups=((), ()))

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._context, "observing_run")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._context.attribute(f"observing_run.{name}", self.begin.get(name))

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property):
            raise AttributeError(f"{name} of the observing run follows from its MSs, and cannot be set")
        self._context.attributes.set(f"observing_run.{name}", value)

    @property
    def measurement_sets(self) -> list[MeasurementSet]:
        known = sorted(self._context.draft.all(Observation), key=lambda each: (each.start, each.vis))
        return [self.face_of(each.vis) for each in known]

    def face_of(self, vis: str) -> MeasurementSet:
        """An MS, whether anything is known of it yet or not."""
        if vis not in self._sets:
            self._sets[vis] = MeasurementSet(self._context, vis)
        return self._sets[vis]

    def made_so_far(self) -> list[MeasurementSet]:
        """The MSs that a task has looked at."""
        return list(self._sets.values())

    def add_measurement_set(self, ms: Any) -> None:
        """Add an MS: an `Observation`, or an object of the existing pipeline, of which facts are made.

        Raises:
            ValueError: there is one of that name.
        """
        observation = ms if isinstance(ms, Observation) else observation_from(ms)
        if Path(observation.vis).name in {known.basename for known in self.measurement_sets}:
            raise ValueError(f"{observation.vis} is in the context already")
        self._context.draft.add(observation)

    def get_ms(self, name: str | None = None, intent: str | None = None) -> MeasurementSet:
        """The MS of a name, with or without its folder and suffix, or else the first that has an intent.

        Raises:
            KeyError: there is none.
        """
        if name:
            for wanted in (name, f"{name}.ms"):
                for ms in self.measurement_sets:
                    if wanted in (ms.name, ms.basename):
                        return ms
            known = ", ".join(ms.basename for ms in self.measurement_sets) or "none"
            raise KeyError(f"no MS is called {name}; there are: {known}")
        for ms in self.measurement_sets:
            if intent and intent.replace("*", "") in ms.intents:
                return ms
        raise KeyError(f"no MS has the intent {intent}")

    def get_measurement_sets(
        self,
        names: str | Iterable[str] | None = None,
        intents: str | Iterable[str] | None = None,
        fields: str | Iterable[str] | None = None,
    ) -> list[MeasurementSet]:
        """The MSs of some names that have all of some intents and any of some fields; each may be left out."""
        found = self.measurement_sets
        if names is not None:
            wanted = {names} if isinstance(names, str) else set(names)
            found = [ms for ms in found if ms.name in wanted]
        if intents is not None:
            found = [ms for ms in found if words_of(intents) <= ms.intents]
        if fields is not None:
            asked = words_of(fields)
            found = [ms for ms in found if any({field.name, field.known.name} & asked for field in ms.fields)]
        return found

    def get_measurement_sets_of_type(
        self,
        dtypes: Iterable[Any],
        msonly: bool = True,
        source: str | None = None,
        spw: str | None = None,
        vis: Collection[str] | None = None,
    ) -> Any:
        """The MSs that hold data of the first of some types that any of them holds.

        Args:
            dtypes: types or their names, the one wanted most first.
            msonly: give a list of MSs; otherwise their columns by MS, and the type.
            source: only of all these sources.
            spw: only of all these spectral windows, by their virtual ids.
            vis: only of these MSs.
        """
        for dtype in dtypes:
            columns: dict[MeasurementSet, str] = {}
            for ms in self.measurement_sets:
                if vis is not None and ms.name not in vis:
                    continue
                real = None if spw is None else self.get_real_spwsel([spw], [ms.name])[0]
                column = ms.get_data_column(dtype, source, real)
                if column is not None:
                    columns[ms] = column
            if columns:
                return list(columns) if msonly else (columns, dtype)
        return [] if msonly else ({}, None)

    @property
    def virtual_science_spw_ids(self) -> dict[int, str]:
        return {group.id: group.name for group in self._science_groups()}

    @property
    def virtual_science_spw_names(self) -> dict[str, int]:
        names = {member.name: group.id for group in self._science_groups() for member in group.members}
        return {group.name: group.id for group in self._science_groups()} | names

    @property
    def virtual_science_spw_shortnames(self) -> dict[str, str]:
        names = self.virtual_science_spw_names
        return {name: name.rpartition("#")[0] if "ALMA" in name else name for name in names}

    def virtual2real_spw_id(self, spw_id: int | str, target_ms: MeasurementSet) -> int | None:
        """The number that a virtual spectral window has in an MS; None where it has none."""
        for group in self._window_groups():
            if group.id == int(spw_id):
                return next((member.number for member in group.members if member.vis == target_ms.name), None)
        return None

    def real2virtual_spw_id(self, spw_id: int | str, target_ms: MeasurementSet) -> int | None:
        """The virtual id of a spectral window of an MS; None where it has none."""
        for group in self._window_groups():
            if any(member.vis == target_ms.name and member.number == int(spw_id) for member in group.members):
                return group.id
        return None

    def real2real_spw_id(self, spw_id: int | str, source_ms: MeasurementSet, target_ms: MeasurementSet) -> int | None:
        """The number in one MS of the spectral window that has a number in another; None where it has none."""
        virtual = self.real2virtual_spw_id(spw_id, source_ms)
        return None if virtual is None else self.virtual2real_spw_id(virtual, target_ms)

    def get_virtual_spw_id_by_name(self, spw_name: str) -> int | None:
        """The virtual id of the spectral windows of a name; None where there are none."""
        return self.virtual_science_spw_names.get(spw_name)

    def get_real_spwsel(self, spwsel: Sequence[str], vis: Sequence[str]) -> list[str | None]:
        """Selections of virtual spectral windows as selections of those of MSs; None where nothing is left."""
        found = []
        for selection, name in zip(spwsel, vis, strict=True):
            items = []
            for item in selection.split(","):
                virtual, colon, channels = item.partition(":")
                real = self.virtual2real_spw_id(virtual, self.get_ms(name))
                if real is not None:
                    items.append(f"{real}{colon}{channels}")
            found.append(",".join(items) or None)
        return found

    @property
    def start_datetime(self) -> datetime | None:
        return min((_as_datetime(ms.known.start) for ms in self.measurement_sets), default=None)

    @property
    def end_datetime(self) -> datetime | None:
        return max((_as_datetime(ms.known.end) for ms in self.measurement_sets), default=None)

    @property
    def start_time(self) -> dict[str, Any] | None:
        return epoch(self.start_datetime.timestamp()) if self.start_datetime else None

    @property
    def end_time(self) -> dict[str, Any] | None:
        return epoch(self.end_datetime.timestamp()) if self.end_datetime else None

    @property
    def observers(self) -> set[str]:
        return {ms.observer for ms in self.measurement_sets}

    @property
    def project_ids(self) -> set[str]:
        return {ms.project_id for ms in self.measurement_sets}

    @property
    def schedblock_ids(self) -> set[str]:
        return {ms.schedblock_id for ms in self.measurement_sets}

    @property
    def execblock_ids(self) -> list[str]:
        return list(dict.fromkeys(ms.execblock_id for ms in self.measurement_sets))

    def _window_groups(self) -> tuple[WindowGroup, ...]:
        """The groups of the context; those of MSs that are in none are found as the context would."""
        known = tuple(self._context.draft.all(WindowGroup, kind="same"))
        observations = tuple(self._context.draft.all(Observation))
        grouped = {member.vis for group in known for member in group.members}
        if all(each.vis in grouped for each in observations):
            return known
        (asked, found) = self._groups
        if asked != (known, observations):
            found = match_windows_exactly(observations, known=known).groups
            vars(self).update(_groups=((known, observations), found))
        return tuple(found)

    def _science_groups(self) -> list[WindowGroup]:
        science = {(ms.name, window.id) for ms in self.measurement_sets for window in ms.get_spectral_windows()}
        return [
            group
            for group in self._window_groups()
            if any((member.vis, member.number) in science for member in group.members)
        ]


def _as_datetime(unix_seconds: float) -> datetime:
    return datetime.fromtimestamp(unix_seconds, UTC)
