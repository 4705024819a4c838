"""How Dask is set for CASA, in the session's process and in its workers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from surgeline.errors import ClusterError
from surgeline.work.allocator import ALLOCATOR_ENVIRONMENT
from surgeline.work.casaprocess import thread_environment

_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|\[?::1\]?|")
_HEALTH = ("distributed.http.health",)
_WITH_DASHBOARD = ("distributed.http.statics", "distributed.http.scheduler.info")


def dashboard_options(address: str | None) -> dict[str, Any]:
    """What a cluster of Dask is made with for its dashboard, which knows no passwords: it is for this machine alone.

    Args:
        address: where it is to be, such as ":8787" or "127.0.0.1:8787"; None: nowhere.

    Raises:
        ClusterError: it would be beyond this machine.
    """
    # Even without a dashboard Dask serves its health page: on a free port.
    host, _, port = (address or ":0").removeprefix("http://").rpartition(":")
    if not _LOOPBACK.fullmatch(host):
        raise ClusterError(
            f"dask.dashboard_address: everybody who reaches {address} would see what the session does",
            f"write 127.0.0.1:{port}; from elsewhere it is reached by ssh -L {port}:127.0.0.1:{port}",
        )
    return {
        "dashboard_address": f"{host or '127.0.0.1'}:{port}",
        "scheduler_kwargs": {"dashboard": address is not None},
    }


def dask_options(threads: int, preloads: Sequence[str] = (), dashboard: bool = False) -> dict[str, Any]:
    """Dask's own settings, for `dask.config.set`.

    Args:
        threads: threads that CASA may use in each worker process.
        preloads: modules that each worker process loads before it is given anything, before those of the user.
        dashboard: whether the scheduler has one.
    """
    import dask

    of_user = dask.config.get("distributed.worker.preload", [])
    return {
        "distributed.worker.preload": [*preloads, *([of_user] if isinstance(of_user, str) else of_user)],
        # What else Dask tells by HTTP is nobody's business; see `dashboard_options`.
        "distributed.scheduler.http.routes": [*_HEALTH, *(_WITH_DASHBOARD if dashboard else ())],
        "distributed.worker.http.routes": [*_HEALTH],
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
        # Connections would keep the latest thousand messages.
        "distributed.admin.low-level-log-length": 0,
        "distributed.admin.system-monitor.interval": "5s",
        "distributed.admin.system-monitor.gil.enabled": False,
        # No worker is ever sent a second job, so there is nothing to steal.
        "distributed.scheduler.work-stealing": False,
        "distributed.scheduler.active-memory-manager.start": False,
    }
