"""Copies selected rows of a MeasurementSet, as `python -m surgeline.work.rows MS COPY FIELD SPW`.

It is a process of its own, since CASA may not be in the one that wants the copy. Numbers of fields, windows and all
else stay as they are, as do subtables and keywords, where models of calibrators may be.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

from surgeline.work.casaprocess import CasaProcess

# How the process ends where there is no copy, and nothing has gone wrong.
NO_COPY = 3
# A copy takes time, and is a content of its own in the store and on workers, where the whole is one for all jobs.
_LARGEST_SHARE = 0.5


def copy_rows(vis: str, copy: str, field: str, spw: str) -> bool:
    """Copy the rows of some fields and spectral windows. Needs CASA.

    Args:
        vis: the MS.
        copy: what to make.
        field, spw: in CASA's syntax.

    Returns:
        False where there is no copy, since it would not be much smaller, or the selection or the MS is none that
        can be dealt with here.
    """
    from casatools import ms, table

    try:
        found = ms().msseltoindex(vis, field=field, spw=spw)
    except RuntimeError:
        # The job, which wants the same, says why better.
        return False
    chosen = [_among("FIELD_ID", found["field"])] if field else []
    chosen += [_among("DATA_DESC_ID", found["dd"])] if spw else []
    with closing(table()) as whole:
        whole.open(vis)
        # A table that was sorted before refers to rows by their numbers.
        if "SORTED_TABLE" in whole.keywordnames():
            return False
        with closing(whole.query(" && ".join(chosen))) as rows:
            if not 0 < rows.nrows() < _LARGEST_SHARE * whole.nrows():
                return False
            rows.copy(copy, deep=True, valuecopy=True).close()
    return True


def _among(column: str, numbers: Any) -> str:
    return f"{column} IN [{','.join(str(int(number)) for number in numbers)}]"


def main() -> None:
    """Do what the command line says; the process ends when its standard input does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    vis, copy, field, spw = sys.argv[1:]
    folder = Path(copy).parent
    CasaProcess(folder, folder / "casa.log").prepare()
    sys.exit(0 if copy_rows(vis, copy, field, spw) else NO_COPY)


def _end_with_parent() -> None:
    # Nothing is ever said there. Python's own reading would hold a lock that the end of a process wants.
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    main()
