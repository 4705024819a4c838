"""Which rows of a MeasurementSet a job reads, where it says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Tasks that read no rows of an MS but those of the fields and spectral windows that they are given. Of each it was
# compared, with MSs of several fields and windows, that what it makes of a copy of these rows alone is equal to the
# last bit: values, flags and weights, and subtables.
_READ_NO_OTHERS = frozenset({"bandpass", "blcal", "cvel2", "fringefit", "gaincal", "hanningsmooth", "mstransform",
                             "split", "tclean", "uvcontsub", "visstat"})  # fmt: skip
# Of tclean's gridders, those that this holds for; others were not compared.
_COMPARED_GRIDDERS = ("", "standard", "mosaic", "wproject")


@dataclass(frozen=True)
class Selection:
    """Rows of an MS, in CASA's syntax of `field` and `spw`; empty for all fields or windows.

    Windows are selected whole: channels that `spw` may name besides do not matter here. There may be more rows in it
    than the job reads, but none may be missing.
    """

    field: str = ""
    spw: str = ""

    def __bool__(self) -> bool:
        return bool(self.field or self.spw)


def selections(task: str, arguments: Mapping[str, Any]) -> dict[str, Selection]:
    """The rows of each MS that a task of casatasks reads, for MSs of which it need not have all.

    Args:
        task: its name.
        arguments: its own.
    """
    if task not in _READ_NO_OTHERS or not _is_compared(task, arguments):
        return {}
    vis = arguments.get("vis", "")
    paths = [vis] if isinstance(vis, str) else list(vis)
    fields, windows = (_one_each(arguments.get(name, ""), len(paths)) for name in ("field", "spw"))
    found = {path: Selection(*texts) for path, *texts in zip(paths, fields, windows, strict=True)}
    if len(found) < len(paths):
        # One that is named twice may be selected from in two ways.
        return {}
    return {path: selection for path, selection in found.items() if selection}


def _is_compared(task: str, arguments: Mapping[str, Any]) -> bool:
    if arguments.get("msselect") or arguments.get("taql"):
        # It may tell rows by their numbers, which are others in a copy.
        return False
    if task != "tclean":
        return True
    # In a parallel run rows are shared out by where they are in the MS.
    alone = arguments.get("parallel") is not True and arguments.get("savemodel", "none") == "none"
    return alone and arguments.get("gridder", "") in _COMPARED_GRIDDERS


def _one_each(value: Any, number: int) -> list[str]:
    """A task's argument for each of its MSs; all rows where it is nothing that is known here."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    if len(values) == 1:
        values *= number
    if len(values) != number or not all(isinstance(item, str) for item in values):
        return [""] * number
    return values
