"""Numbers that differ on each run, and Triton's interpreter where there is no GPU."""

from __future__ import annotations

import os

import numpy as np
import pytest

from surgeline.imaging.gpu.devices import there_is_a_gpu

# Before Triton's kernels are imported, which are either interpreted or compiled from then on.
if not there_is_a_gpu():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def random() -> np.random.Generator:
    """Other numbers on each run; how to get the same ones again is printed."""
    seed = np.random.SeedSequence().entropy
    print(f"numpy.random.default_rng({seed})")
    return np.random.default_rng(seed)
