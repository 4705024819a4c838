"""The control groups below which a cluster's pods run: made and removed as a service manager does."""

from __future__ import annotations

from pathlib import Path

from services.packages import FetchFailed
from support import wait_until

_ROOT = Path("/sys/fs/cgroup")
_NEEDED = ("cpu", "cpuacct", "cpuset", "memory", "pids", "devices", "freezer")


def make(name: str) -> None:
    """Make a control group for every controller; FetchFailed where this machine does not let us."""
    try:
        if (_ROOT / "cgroup.controllers").exists():
            _make_unified(name)
        else:
            _make_each(name)
    except OSError as error:
        raise FetchFailed(f"control groups cannot be made here: {error}") from error


def _make_unified(name: str) -> None:
    (_ROOT / "cgroup.subtree_control").write_text("+cpu +cpuset +memory +pids")
    (_ROOT / name).mkdir()


def _make_each(name: str) -> None:
    missing = [controller for controller in _NEEDED if not (_ROOT / controller).is_dir()]
    if missing:
        raise FetchFailed(f"control groups for {', '.join(missing)} are not mounted below {_ROOT}")
    for controller in _ROOT.iterdir():
        if controller.is_dir() and controller.name != "unified":
            (controller / name).mkdir(exist_ok=True)
    # Empty in a new group, which then can hold no process.
    for setting in ("cpuset.cpus", "cpuset.mems"):
        (_ROOT / "cpuset" / name / setting).write_text((_ROOT / "cpuset" / setting).read_text())


def remove(name: str) -> None:
    """Remove all of them, when the processes in them have ended."""

    def are_gone() -> bool:
        found = [*_ROOT.glob(name), *_ROOT.glob(f"*/{name}")]
        for group in found:
            # Children first.
            for folder in [*sorted((below for below in group.rglob("*/")), reverse=True), group]:
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    pass
                except OSError:
                    return False
        return not found

    wait_until(are_gone, 30, f"no control groups {name}")
