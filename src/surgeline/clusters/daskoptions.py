"""How Dask is set for CASA, in the session's process and in its workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from surgeline.work.allocator import ALLOCATOR_ENVIRONMENT
from surgeline.work.casaprocess import thread_environment


def dask_options(threads: int, preloads: Sequence[str] = ()) -> dict[str, Any]:
    """Dask's own settings, for `dask.config.set`.

    Args:
        threads: threads that CASA may use in each worker process.
        preloads: modules that each worker process loads before it is given anything, before those of the user.
    """
    import dask

    of_user = dask.config.get("distributed.worker.preload", [])
    return {
        "distributed.worker.preload": [*preloads, *([of_user] if isinstance(of_user, str) else of_user)],
        # The backend itself runs jobs again, with the record of how each worker died.
        "distributed.scheduler.allowed-failures": 0,
        # A worker in the midst of a long CASA call gives no sign of life; a broken connection tells of its end.
        "distributed.scheduler.worker-ttl": None,
        # Dask cannot free what CASA's C++ holds, so it must not pause or spill; the nanny watches real memory.
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 1.0,
        "distributed.nanny.pre-spawn-environ": {**thread_environment(threads), **ALLOCATOR_ENVIRONMENT},
        "distributed.admin.tick.limit": "1h",
        # What Dask measures of itself costs workers time, and nobody looks at it here.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.system-monitor.interval": "5s",
        "distributed.admin.system-monitor.gil.enabled": False,
        # No worker is ever sent a second job, so there is nothing to steal.
        "distributed.scheduler.work-stealing": False,
        "distributed.scheduler.active-memory-manager.start": False,
    }
