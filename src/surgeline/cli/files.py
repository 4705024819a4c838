"""Files that commands write where the user says."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from surgeline.errors import BadInput


def write_new(path: Path, pieces: Iterable[str]) -> None:
    """Write a file that appears once it is complete.

    Raises:
        BadInput: there is one already, or it cannot be written.
    """
    if path.exists():
        raise BadInput(f"{path} already exists", "give another name, or remove it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.writelines(pieces)
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}", "give another name, or free space") from error
    finally:
        temporary.unlink(missing_ok=True)
