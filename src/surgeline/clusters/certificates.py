"""What lets a session's workers in, and nobody else: certificates that are made for it and end with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeline.errors import ClusterError

# The authority's certificate, the session's, and the key of that.
NAMES = ("authority.pem", "certificate.pem", "key.pem")


def make() -> Any:
    """Make certificates of a session: Dask's `Security`, for its scheduler, its workers and its clients.

    Raises:
        ClusterError: the library that makes them is not installed.
    """
    from distributed.security import Security

    try:
        return Security.temporary()
    except ImportError as error:
        raise ClusterError(f"certificates for workers cannot be made: {error}", "pip install cryptography") from error


def contents(security: Any) -> dict[str, str]:
    """What is in the files that let a worker in, by their names."""
    content = security.get_tls_config_for_role("worker")
    return dict(zip(NAMES, (content["ca_file"], content["cert"], content["key"]), strict=True))


def write(files: Mapping[str, str], folder: Path) -> tuple[Path, Path, Path]:
    """Write them to a folder, for their owner's eyes only; their paths, in the order of `NAMES`."""
    for name in NAMES:
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(files[name])
    authority, certificate, key = (folder / name for name in NAMES)
    return authority, certificate, key
