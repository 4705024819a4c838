"""The mpiruns of this machine, for tests that hold with each of them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

_SYSTEM = "/usr/bin/mpirun"
MPIRUNS = [path for path in (str(Path(sys.executable).with_name("mpirun")), _SYSTEM) if shutil.which(path)]
each_mpirun = pytest.mark.parametrize(
    "mpirun", MPIRUNS or [pytest.param("", marks=pytest.mark.skip(reason="there is no mpirun"))]
)
