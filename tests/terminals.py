"""A terminal with a program in it, as a user has one: what is on its screen, and keys that are pressed."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyte

from support import wait_until

CTRL_C = b"\x03"


class Terminal:
    """A command of ours that runs in a terminal of its own."""

    def __init__(self, *arguments: str | Path, columns: int = 100, lines: int = 30, **environment: str) -> None:
        self.screen = pyte.HistoryScreen(columns, lines, history=1000)
        self.written = b""
        self._stream = pyte.ByteStream(self.screen)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._keys, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "surgeline.cli", *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**kept, "TERM": "xterm-256color", **environment},
            start_new_session=True,
            # So that Ctrl-C is a signal, and the end of the terminal one, too.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._closed.is_set():
            # Not for ever: a terminal that is being read from is not closed.
            if not select.select([self._keys], [], [], 0.1)[0]:
                continue
            try:
                content = os.read(self._keys, 65536)
            except OSError:
                return
            if not content:
                return
            with self._lock:
                self.written += content
                self._stream.feed(content)

    def press(self, keys: bytes) -> None:
        os.write(self._keys, keys)

    def shown(self) -> list[str]:
        """The lines that are on the screen."""
        with self._lock:
            return [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        return "\n".join(self.shown())

    def wait_for(self, *texts: str, seconds: float = 60) -> None:
        """Wait until all of these are on the screen."""

        def there() -> bool:
            assert self.process.poll() is None or all(text in self.text() for text in texts), self.text()
            return all(text in self.text() for text in texts)

        wait_until(there, seconds, f"{texts} on the screen")

    def end(self, seconds: float = 60) -> int:
        """Wait for the command to end, and for all that it wrote."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def close(self) -> None:
        """As when its window is closed."""
        self._closed.set()
        self._reader.join()
        os.close(self._keys)


@contextmanager
def in_terminal(
    *arguments: str | Path, columns: int = 100, lines: int = 30, **environment: str
) -> Iterator[Terminal]:
    terminal = Terminal(*arguments, columns=columns, lines=lines, **environment)
    try:
        yield terminal
    finally:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()
