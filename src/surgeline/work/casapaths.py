"""Paths that mean something else to CASA than their letters: refused before they are commands, or other paths."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from surgeline.errors import DataError, WorkfolderError

# casacore copies tables by a shell's `cp -r '…'`, queries them by `select from "…"`, and puts the values of variables
# in the place of their names; all of that with paths from / on, whatever is in them. Others are no text.
_NOT_IN_PATHS = re.compile("['\"$\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
# These tasks copy, move and remove files by commands of a shell in which names are not quoted at all.
UNQUOTED = frozenset(
    {"apparentsens", "concat", "conjugatevis", "exportasdm", "importasap", "importfits", "listpartition"}
    | {"plotbandpass", "sdfit", "sdintimaging", "uvcontsub_old", "virtualconcat", "widebandpbcor"}
)
_PLAIN = re.compile(r"[A-Za-z0-9_@%+=:,./-]*")


def check_folder(folder: Path) -> None:
    """See that CASA can work in a folder.

    Raises:
        WorkfolderError: its path would be a command, a query or another path to CASA.
    """
    if found := _NOT_IN_PATHS.search(str(folder.resolve())):
        raise WorkfolderError(
            f"CASA cannot work in {str(folder)!r}: {found[0]!r} in a path is no letter to it, but part of a command",
            "give a working folder whose path has no quotes, $ or line breaks in it",
        )


def check_names(task: str, names: Iterable[str]) -> None:
    """See that a CASA task can be given some files.

    Args:
        task: which of casatasks' tasks.
        names: paths that it reads or writes.

    Raises:
        DataError: one of them would be a command or another path to CASA.
    """
    for name in names:
        if _NOT_IN_PATHS.search(name) or (task in UNQUOTED and not _PLAIN.fullmatch(name)):
            raise DataError(
                f"{task} cannot be given {name!r}: not all of that are letters to CASA, but part of a command",
                "rename it, or link to it under a name of letters, digits, _, - and .",
            )
