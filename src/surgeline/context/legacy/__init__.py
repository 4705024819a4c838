"""The adaptation layer: the context that tasks of the existing pipeline know, upon the system of record."""

from surgeline.context.legacy.calibrations import CalApplication, CalFrom, CalTo, CalToArgs
from surgeline.context.legacy.context import LegacyContext, run_task, run_tasks
from surgeline.context.legacy.facts import LEGACY_KINDS, ListedImage, ResultBody, StoredResult, TableType
from surgeline.context.legacy.measurementset import MeasurementSet
from surgeline.context.legacy.pickles import TranslatedContext, read_pickled_context

__all__ = [
    "LEGACY_KINDS",
    "CalApplication",
    "CalFrom",
    "CalTo",
    "CalToArgs",
    "LegacyContext",
    "ListedImage",
    "MeasurementSet",
    "ResultBody",
    "StoredResult",
    "TableType",
    "TranslatedContext",
    "read_pickled_context",
    "run_task",
    "run_tasks",
]
