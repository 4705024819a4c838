"""What tasks stand on."""

from .registry import task_registry  # isort: skip
from . import daskhelpers, exceptions, filenamer, launcher, mpihelpers
from .levels import set_logging_level

__all__ = [
    "daskhelpers",
    "exceptions",
    "filenamer",
    "launcher",
    "mpihelpers",
    "set_logging_level",
    "task_registry",
]
