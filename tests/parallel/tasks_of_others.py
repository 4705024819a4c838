"""What somebody else has run on the workers of a session; workers find this file by its name."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def note(name: str) -> None:
    with Path(name).open("a") as file:
        file.write(f"{os.getpid()}\n")


def worked(number: int, name: str = "worked") -> tuple[int, int]:
    note(name)
    time.sleep(0.05)
    return number, os.getpid()


def at_once(number: int) -> int:
    """Wait until two of these run."""
    Path(f"at-once-{number}").touch()
    while not all(Path(f"at-once-{other}").exists() for other in range(2)):
        time.sleep(0.02)
    return number


def die_once(name: str) -> str:
    note(name)
    if not Path(f"{name}-before").exists():
        Path(f"{name}-before").touch()
        os.kill(os.getpid(), 9)
    return name


def die() -> None:
    os.kill(os.getpid(), 9)


def wait_for_ever() -> None:
    note("waiting")
    time.sleep(600)


def added(*parts: Any) -> int:
    return sum(number for number, _ in parts)
