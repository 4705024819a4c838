"""What pages show of observations, flags and calibrators."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from surgeline.context.records import (
    FlagSummary,
    FluxDensity,
    Observation,
    ReferenceAntenna,
    Roles,
    Scan,
)
from surgeline.context.view import View
from surgeline.report import units
from surgeline.report.names import observation_file


class ObservationView:
    """An observation with the roles that its fields were given."""

    def __init__(self, number: int, fact: Observation, view: View) -> None:
        self.fact = fact
        self.name = fact.vis.rpartition("/")[2]
        self.file = observation_file(number, self.name)
        self.roles = view.last(Roles, vis=fact.vis)
        self.reference = view.last(ReferenceAntenna, vis=fact.vis)
        self._names = {field.id: field.name for field in fact.fields}

    def roles_of(self, field: int) -> str:
        """What a field serves as."""
        if self.roles is None:
            return units.UNKNOWN
        roles = ("flux", "bandpass", "phase", "target")
        return ", ".join(role for role in roles if field in getattr(self.roles, role)) or "not used"

    @property
    def targets(self) -> str:
        """The names of the target fields, or of all fields where none is known to be one."""
        targets = self.roles.target if self.roles else ()
        return ", ".join(field.name for field in self.fact.fields if field.id in targets or not targets)

    @property
    def frequencies(self) -> str:
        """The frequencies that it covers, in GHz."""
        windows = self.fact.spectral_windows
        if not windows:
            return units.UNKNOWN
        low = min(window.reference_frequency - window.bandwidth / 2 for window in windows)
        high = max(window.reference_frequency + window.bandwidth / 2 for window in windows)
        return f"{low / 1e9:.4f} to {high / 1e9:.4f}"

    def time_on(self, field: int) -> float:
        """The seconds of all scans of a field."""
        return sum(scan.end - scan.start for scan in self.fact.scans if field in scan.fields)

    def fields_of(self, scan: Scan) -> str:
        """The names of the fields of a scan."""
        return ", ".join(self._names.get(number, str(number)) for number in scan.fields)


@dataclass(frozen=True)
class FlagTable:
    """Flagged fractions of an MS: after which stages, and for each thing its fraction after each of them."""

    vis: str
    after: tuple[str, ...]
    fields: list[tuple[str, list[float | None]]]
    antennas: list[tuple[str, list[float | None]]]


def flag_tables(view: View) -> list[FlagTable]:
    """Those of all MSs."""
    facts = view.all(FlagSummary)
    return [
        _flag_table(vis, [fact for fact in facts if fact.vis == vis])
        for vis in dict.fromkeys(fact.vis for fact in facts)
    ]


def _flag_table(vis: str, facts: Sequence[FlagSummary]) -> FlagTable:
    total: list[float | None] = [fact.total for fact in facts]
    return FlagTable(
        vis=vis,
        after=tuple(fact.after for fact in facts),
        fields=[("all", total), *_fractions([fact.fields for fact in facts])],
        antennas=sorted(_fractions([fact.antennas for fact in facts]), key=lambda row: _by_number(row[0])),
    )


def _fractions(steps: Sequence[Mapping[str, float]]) -> list[tuple[str, list[float | None]]]:
    names = dict.fromkeys(name for step in steps for name in step)
    return [(name, [step.get(name) for step in steps]) for name in names]


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key that sorts names as people do: 9 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


@dataclass(frozen=True)
class FluxRow:
    """A calibrator in a spectral window: the flux density of its model and the measured one, in Jy."""

    vis: str
    name: str
    spectral_window: int
    model: FluxDensity | None
    measured: FluxDensity | None

    @property
    def ratio(self) -> float | None:
        """Measured over model."""
        if self.model is None or self.measured is None or self.model.flux == 0:
            return None
        return self.measured.flux / self.model.flux


def flux_rows(view: View) -> list[FluxRow]:
    """Those of all calibrators."""
    facts = {(fact.vis, fact.name, fact.spectral_window, fact.kind): fact for fact in view.all(FluxDensity)}
    places = dict.fromkeys((vis, name, window) for vis, name, window, _ in facts)
    return [
        FluxRow(*place, model=facts.get((*place, "model")), measured=facts.get((*place, "measured")))
        for place in places
    ]
