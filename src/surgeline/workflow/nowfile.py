"""Keeps how a session stands in a file while it runs, for `surgeline status` in another terminal."""

from __future__ import annotations

import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from surgeline.paths import SessionPaths, write_text
from surgeline.workflow.tally import Now, Tally

_SECONDS_BETWEEN_WRITES = 2.0


class NowFile:
    """Writes the file every other second from a thread of its own; it goes when the session has ended."""

    def __init__(self, paths: SessionPaths, tally: Tally) -> None:
        """Take the session's folder, and who counts."""
        self._paths = paths
        self._tally = tally
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="now", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        with suppress(OSError):
            self._paths.now.unlink(missing_ok=True)

    def _keep(self) -> None:
        while True:
            # It is for who looks, and no result depends on it.
            with suppress(OSError):
                write_text(self._paths.now, self._tally.now().model_dump_json())
            if self._end.wait(_SECONDS_BETWEEN_WRITES):
                return


def read_now(paths: SessionPaths) -> Now | None:
    """How a session that runs stands; None where that is not known."""
    try:
        return Now.model_validate_json(paths.now.read_bytes())
    except (OSError, ValidationError):
        return None
