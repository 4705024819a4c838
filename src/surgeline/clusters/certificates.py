"""What lets a session's workers in, and nobody else: certificates that are made for it and end with it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from surgeline.errors import ClusterError

NAMES = ("authority.pem", "certificate.pem", "key.pem")


def make(folder: Path) -> tuple[Any, tuple[Path, Path, Path]]:
    """Make certificates, and write what workers need to a folder, for its owner's eyes only.

    Returns:
        Dask's `Security`, for the scheduler and the client, and the files: authority, certificate, key.

    Raises:
        ClusterError: the library that makes them is not installed.
    """
    from distributed.security import Security

    try:
        security = Security.temporary()
    except ImportError as error:
        raise ClusterError(
            f"certificates for workers cannot be made: {error}",
            "pip install 'surgeline[slurm]'; or, on a network where everybody may be trusted, `tls: false`",
        ) from error
    content = security.get_tls_config_for_role("worker")
    authority, certificate, key = (folder / name for name in NAMES)
    for path, what in ((authority, "ca_file"), (certificate, "cert"), (key, "key")):
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(content[what])
    return security, (authority, certificate, key)
