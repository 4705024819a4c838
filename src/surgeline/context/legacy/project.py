"""What existing tasks know of the project: named values, of which the session's own facts say some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from surgeline.context.records import Project

if TYPE_CHECKING:
    from surgeline.context.legacy.context import LegacyContext


class Record:
    """Named values of a context: what a task has set, else what facts say, else a default.

    Without a context it is all defaults, which tasks compare with.
    """

    # Where a context has it, its defaults, and which of a project's facts say something else.
    place: ClassVar[str]
    defaults: ClassVar[Mapping[str, Any]]
    said_by_project: ClassVar[Mapping[str, str]] = {}

    def __init__(self, context: LegacyContext | None = None) -> None:
        vars(self).update(_context=context)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._context,)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or (self._context is None and name not in self.defaults):
            raise AttributeError(name)
        if self._context is None:
            return self.defaults[name]
        begin = partial(self._begin, name) if name in self.defaults else None
        return self._context.attribute(f"{self.place}.{name}", begin)

    def __setattr__(self, name: str, value: Any) -> None:
        self._context.attributes.set(f"{self.place}.{name}", value)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return ((name, getattr(self, name)) for name in self.defaults)

    def _begin(self, name: str) -> Any:
        known = self._context.draft.last(Project)
        if known is None or name not in self.said_by_project:
            return self.defaults[name]
        return getattr(known, self.said_by_project[name]) or self.defaults[name]


class ProjectSummary(Record):
    """The proposal."""

    place = "project_summary"
    defaults: ClassVar = {
        "proposal_code": "",
        **dict.fromkeys(("proposal_title", "piname", "observatory", "telescope"), "undefined"),
    }
    said_by_project: ClassVar = {
        "proposal_code": "code",
        "proposal_title": "description",
        "piname": "observer",
        "observatory": "telescope",
        "telescope": "telescope",
    }

    def _begin(self, name: str) -> Any:
        found = super()._begin(name)
        observed = self._context.observing_run.measurement_sets
        # Without facts of a project, its observations tell the telescope.
        if found == "undefined" and name in ("observatory", "telescope") and observed:
            return observed[0].telescope
        return found


class ProjectStructure(Record):
    """Where the data stand in the project."""

    place = "project_structure"
    defaults: ClassVar = {
        **dict.fromkeys(
            ("ous_entity_id", "ous_part_id", "ps_entity_id", "ousstatus_entity_id", "ppr_entity_id"), "unknown"
        ),
        "ous_entity_type": "ObsProject",
        "ous_title": "undefined",
        "ous_type": "Member",
        "ps_entity_type": "ProjectStatus",
        "ousstatus_type": "OUSStatus",
        "ppr_type": "SciPipeRequest",
        "ppr_file": "",
        "recipe_name": "Undefined",
    }
    said_by_project: ClassVar = {"recipe_name": "recipe"}


class PerformanceParameters(Record):
    """What the proposal asked for."""

    place = "project_performance_parameters"
    defaults: ClassVar = {
        **dict.fromkeys(
            ("desired_angular_resolution", "min_angular_resolution", "max_angular_resolution"), "0.0arcsec"
        ),
        "desired_sensitivity": "0.0mJy",
        "desired_dynamic_range": 1.0,
        "representative_spwid": "",
        "representative_source": "",
        "representative_frequency": "0.0GHz",
        "representative_bandwidth": "0.0MHz",
        "max_cube_size": -1.0,
        "max_product_size": -1.0,
    }
