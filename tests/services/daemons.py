"""Daemons that tests start and end as they like, all in one temporary folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from support import wait_until


class Daemons:
    """What the tests' private services have in common: a folder, daemons by name, and commands that speak to them."""

    def __init__(self, name: str) -> None:
        """Make the folder."""
        # Short: a socket's path may have no more than 107 letters. Not pytest's: other users could not enter it.
        self.folder = Path(tempfile.mkdtemp(prefix=f"surgeline-{name}-"))
        self.folder.chmod(0o755)
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self) -> dict[str, str]:
        """The environment variables by which the service's commands find it."""
        raise NotImplementedError

    def is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the service's commands find it, for as long as a test runs."""
        for name, value in self.environment().items():
            monkeypatch.setenv(name, value)

    def run(self, *command: str | Path, **options: Any) -> str:
        """Run one of the service's commands, with options of `subprocess.run` such as input, cwd and user.

        Gives what it printed.
        """
        done = self.try_to_run(*command, **options)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout.strip()

    def try_to_run(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command that may fail."""
        environment = {**os.environ, **self.environment()}
        return subprocess.run(
            [*map(str, command)], capture_output=True, text=True, timeout=60, env=environment, **options
        )

    def remove(self) -> None:
        """Stop it and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder)

    def stop(self) -> None:
        """End all of it at once, as a power cut does, and jobs too."""
        for name in list(self._daemons):
            self._end(name, signal.SIGKILL)

    def _runs(self, name: str) -> bool:
        return name in self._daemons and self._daemons[name].poll() is None

    def _start(self, name: str, *command: str | Path, **environment: str) -> None:
        with (self.folder / f"{name}.output").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                env={**os.environ, **self.environment(), **environment},
                start_new_session=True,
            )

    def _wait_for(self, name: str, condition: Callable[[], bool], what: str) -> None:
        """Wait for what a daemon will do; that it ended instead is told in its own words."""

        def is_so() -> bool:
            output = self.folder / f"{name}.output"
            assert self._runs(name), f"{name} ended when it should start: {output.read_text()[-2000:]}"
            return condition()

        wait_until(is_so, 60, what)

    def _end(self, name: str, how: signal.Signals) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(how)
        daemon.wait(60)


def kill_all(is_one: Callable[[psutil.Process], bool], what: str) -> None:
    """Kill processes at once, until there are none."""

    def none_is_left() -> bool:
        found = False
        for process in psutil.process_iter():
            # Gone meanwhile, or somebody else's.
            with suppress(psutil.Error, OSError):
                if is_one(process):
                    process.kill()
                    found = True
        return not found

    wait_until(none_is_left, 30, f"no {what}")
