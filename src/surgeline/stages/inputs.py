"""What an observation is given as: found, recognised and checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from surgeline.errors import DataError, nearest
from surgeline.paths import safe_name
from surgeline.work.locks import wait_until_unlocked

_CASADATA = "casadata:"


@dataclass(frozen=True)
class Input:
    """An observation on disk: where, of which kind, and what its MS will be called."""

    path: Path
    kind: Literal["MS", "UVFITS", "ASDM"]

    @property
    def ms_name(self) -> str:
        # CASA makes no tables next to one whose name has, say, a $ in it.
        stem = self.path.stem if self.kind != "ASDM" else self.path.name
        return f"{safe_name(stem)}.ms"


def find_input(reference: str) -> Input:
    """Recognise an observation: an MS, an ASDM or a UVFITS file; `casadata:demo/…` is one of casadata's own.

    Raises:
        DataError: there is nothing, or nothing known, at that path.
    """
    path = Path(_resolved(reference))
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{str(path)!r} is a path that is not UTF-8", "rename it, or link to it") from error
    if not path.exists():
        siblings = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(
            f"{path} does not exist",
            nearest(path.name, siblings) if siblings else f"nor does the folder {path.parent}",
        )
    if path.is_dir():
        if (path / "table.dat").is_file() and (path / "ANTENNA").is_dir():
            return Input(path, "MS")
        if (path / "ASDM.xml").is_file():
            return Input(path, "ASDM")
        raise DataError(
            f"{path} is a folder, but neither a MeasurementSet (no table.dat and ANTENNA) nor an ASDM (no ASDM.xml)",
            "give the folder that is the MS itself, often named *.ms",
        )
    with path.open("rb") as handle:
        if handle.read(9) == b"SIMPLE  =":
            return Input(path, "UVFITS")
    raise DataError(f"{path} is no UVFITS file", "give a MeasurementSet, an ASDM or a UVFITS file")


def check_unlocked(found: Input, timeout: float) -> None:
    """Wait until an input MS is free.

    Raises:
        DataError: another process has held its lock for longer than `timeout` seconds.
    """
    if found.kind == "MS":
        wait_until_unlocked(found.path, timeout)


def _resolved(reference: str) -> str:
    if not reference.startswith(_CASADATA):
        return str(Path(reference).expanduser().absolute())
    package = find_spec("casadata")
    assert package is not None and package.submodule_search_locations
    return str(Path(package.submodule_search_locations[0]) / "__data__" / reference.removeprefix(_CASADATA))
