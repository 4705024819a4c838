"""Python, CASA and its data, as `surgeline doctor` finds them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import surgeline
from surgeline.workflow.finding import Finding, judged
from surgeline.workflow.record import versions

# The Earth's rotation is measured up to the data's release, and predicted for about so long after it.
_PREDICTED_DAYS = 365


def examine_casa(casaconfig: Mapping[str, Any], today: date | None = None) -> Iterator[Finding]:
    """Examine versions, the data of CASA, and whether it is left as it is.

    Args:
        casaconfig: what the configuration has casaconfig do.
        today: when; now, unless given.
    """
    found = versions()
    yield judged(
        "Python",
        (3, 11) <= sys.version_info[:2] < (3, 13),
        f"{found['python']}, Surgeline {surgeline.__version__}",
        "CASA has wheels for Python 3.11 and 3.12: make an environment of one of these",
    )
    yield judged(
        "CASA",
        found["casatools"] == found["casatasks"] != "not installed",
        f"casatools {found['casatools']}, casatasks {found['casatasks']}",
        "install the same version of both: pip install casatools==VERSION casatasks==VERSION",
    )
    yield _data(found["casadata"], today or date.today())
    yield _offline(casaconfig)
    packages = ("numpy", "astropy", "dask", "distributed", "SQLAlchemy")
    yield Finding("libraries", "ok", ", ".join(f"{name} {found[name]}" for name in packages))


def _data(version: str, today: date) -> Finding:
    """Whether CASA's data are there, and how old they are."""
    spec = find_spec("casadata")
    folders = spec.submodule_search_locations if spec is not None else None
    folder = Path(folders[0]) / "__data__" if folders else None
    if folder is None or not (folder / "geodetic" / "TAI_UTC").is_dir():
        return Finding("CASA's data", "bad", f"casadata {version}: no leap seconds in it", "pip install casadata")
    released = re.match(r"(\d{4})\.(\d{1,2})\.(\d{1,2})", version)
    if released is None:
        return Finding("CASA's data", "ok", f"casadata {version}")
    days = (today - date(*map(int, released.groups()))).days
    told = f"casadata {version}, {days} days old"
    if days <= _PREDICTED_DAYS:
        return Finding("CASA's data", "ok", told)
    return Finding(
        "CASA's data",
        "warning",
        f"{told}: of later observations it does not know how the Earth turned, and no new leap second",
        "pip install --upgrade casadata",
    )


def _offline(casaconfig: Mapping[str, Any]) -> Finding:
    updates = [name for name in ("measures_auto_update", "data_auto_update") if casaconfig.get(name)]
    if not updates:
        return Finding("network", "ok", "nothing is downloaded: CASA's data are used as they are installed")
    return Finding(
        "network",
        "warning",
        f"the configuration says {' and '.join(updates)}: each worker asks CASA's servers for newer data first",
        "workers without a way to the internet fail then, and jobs may use different data: take it out of the file",
    )
