"""An output whose reader may go away: whoever writes to it goes on, and nothing is written any more."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import IO, cast


class SteadyOutput(io.TextIOBase):
    """Stands before another output. A session is not stopped by `| head`, or by a terminal that was closed."""

    def __init__(self, output: IO[str]) -> None:
        """Take the output."""
        self._output = output

    @classmethod
    def of(cls, output: IO[str]) -> IO[str]:
        """One before this output."""
        return cast(IO[str], cls(output))

    def write(self, text: str) -> int:
        """Write a text, as long as somebody reads."""
        self._steadily(lambda: self._output.write(text))
        return len(text)

    def flush(self) -> None:
        """Write what waits to be written."""
        self._steadily(self._output.flush)

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._output.isatty()

    def fileno(self) -> int:
        """The number of its file."""
        return self._output.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # of a class that knows none
        return getattr(self._output, "encoding", None) or "utf-8"

    def _steadily(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError:
            # What waits in the buffer, and what is yet to come, goes nowhere.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._output.fileno())
            os.close(nowhere)
