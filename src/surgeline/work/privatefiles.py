"""Whose files are: the mask with which a session and its workers make theirs, for nobody but their owner to read."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

_PRIVATE = 0o077
_UMASK = re.compile(r"^Umask:\s*([0-7]+)$", re.MULTILINE)


def current_mask() -> int:
    """The mask of this process, for those that it tells to have the same."""
    try:
        found = _UMASK.search(Path("/proc/self/status").read_text(encoding="utf-8"))
    except OSError:
        found = None
    if found is not None:
        return int(found[1], 8)
    # Only by setting another is it told elsewhere.
    mask = os.umask(_PRIVATE)
    os.umask(mask)
    return mask


class PrivateFiles:
    """What this process makes is private, from here until `end` has been called on all of these."""

    _lock = threading.Lock()
    _number = 0
    _before = 0

    def __init__(self) -> None:
        with self._lock:
            if PrivateFiles._number == 0:
                PrivateFiles._before = os.umask(_PRIVATE)
            PrivateFiles._number += 1
        self._over = False

    def end(self) -> None:
        """Make files as before; a second time changes nothing."""
        with self._lock:
            if self._over:
                return
            self._over = True
            PrivateFiles._number -= 1
            if PrivateFiles._number == 0:
                os.umask(PrivateFiles._before)
