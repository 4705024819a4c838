"""Bytes on their way between processes that share a file system: small ones by themselves, large ones by a file."""

from __future__ import annotations

import uuid
from pathlib import Path

# casampi's buffers hold 150 MiB for all that is under way, and a file is faster from about here on.
_LARGEST_BY_MESSAGE = 2**20

# The bytes themselves, or the path of the file that holds them.
Parcel = bytes | str


def pack(content: bytes, folder: Path) -> Parcel:
    """Make a parcel of bytes; a large one is written to a file in the folder, then renamed.

    Raises:
        OSError: the file cannot be written.
    """
    if len(content) <= _LARGEST_BY_MESSAGE:
        return content
    path = folder / f"{uuid.uuid4().hex}.parcel"
    write_bytes(path, content)
    return str(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file that appears under its name only once it is complete.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    written = path.with_name(f"{path.name}.partial")
    try:
        written.write_bytes(content)
        written.rename(path)
    except BaseException:
        written.unlink(missing_ok=True)
        raise


def unpack(parcel: Parcel) -> bytes:
    """The bytes of a parcel, which can be unpacked once: its file is removed.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(parcel, bytes):
        return parcel
    path = Path(parcel)
    content = path.read_bytes()
    path.unlink()
    return content


def discard(parcel: Parcel) -> None:
    """Remove a parcel that nobody will unpack."""
    if isinstance(parcel, str):
        Path(parcel).unlink(missing_ok=True)
