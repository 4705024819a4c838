"""Memory that jobs free: kept while they run, given back when they have ended."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import closing
from pathlib import Path

import cloudpickle

from surgeline import FunctionCall, open_backend
from surgeline.config import load

# Workers cannot import this file.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

ARRAYS = 10
ARRAY_BYTES = 16 * 2**20


def arrays_come_and_go() -> int:
    """The page faults of that."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [bytearray(b"x") * ARRAY_BYTES for _ in range(ARRAYS)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """The bytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def all_three() -> tuple[int, int, int]:
    """Resident bytes before, page faults, and the process: the bytes afterwards are another job's."""
    return resident(), arrays_come_and_go(), os.getpid()


def test_arrays_that_come_and_go_are_paged_in_once_and_given_back_at_the_end(tmp_path: Path) -> None:
    settings = load(overrides=["backend=dask", "dask.n_workers=2"])
    with closing(open_backend(settings, folder=tmp_path)) as opened:
        first, *_ = opened.exec_everywhere(FunctionCall(all_three))
        after = {outcome.process: outcome.value for outcome in opened.exec_everywhere(FunctionCall(resident))}
    before, faults, process = first.value
    assert faults < 2 * ARRAYS * ARRAY_BYTES // resource.getpagesize()
    assert after[process] - before < 2 * ARRAY_BYTES
