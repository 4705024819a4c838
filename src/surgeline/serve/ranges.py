"""Parts of files, and whether a client has a file already (RFC 9110)."""

from __future__ import annotations

import re

# A number of more digits is beyond any file, and may be ignored like whatever else is not understood.
_RANGE = re.compile(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", re.ASCII)


class Unsatisfiable(Exception):
    """A range that begins after the end of the file."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the one after the last that a Range header asks for.

    Returns:
        None where the whole file is to be sent: nothing else is asked for, or several ranges at once.

    Raises:
        Unsatisfiable: the file has nothing there.
    """
    found = _RANGE.fullmatch(header or "")
    if found is None or not (found[1] or found[2]):
        return None
    first, last = found.groups()
    if not first:
        begin, end = max(0, size - int(last)), size
    else:
        begin, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < begin:
            return None
    if begin >= size:
        raise Unsatisfiable
    return begin, end


def is_known(header: str | None, tag: str) -> bool:
    """Whether an If-None-Match header names a tag."""
    if header is None:
        return False
    return header.strip() == "*" or tag in [name.strip().removeprefix("W/") for name in header.split(",")]
