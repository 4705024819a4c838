"""Dask's scheduler in the session's process, for workers that come from elsewhere."""

from __future__ import annotations

import logging
from typing import Any

from surgeline.clusters.daskoptions import dask_options


def start_scheduler(
    host: str | None,
    interface: str | None,
    port: int,
    security: Any,
    dashboard_address: str | None,
    threads: int,
) -> Any:
    """Start it, without workers.

    Args:
        host: the address at which workers reach it; None for this machine's own on its network.
        interface: the network interface to listen on, such as ib0, instead of an address.
        port: the port to listen on; 0 for any that is free.
        security: Dask's `Security`; None lets in everybody who reaches it.
        dashboard_address: where Dask's own dashboard is served; None: nowhere.
        threads: threads that CASA may use in each worker.
    """
    import dask
    from distributed import LocalCluster
    from distributed.utils import get_ip

    with dask.config.set(dask_options(threads)):
        return LocalCluster(
            n_workers=0,
            host=host if host or interface else get_ip(),
            interface=interface,
            scheduler_port=port,
            protocol="tls" if security else "tcp",
            security=security,
            # Without a dashboard Dask still serves its health page: on a free port, for this machine only.
            dashboard_address=dashboard_address or "127.0.0.1:0",
            scheduler_kwargs={"dashboard": dashboard_address is not None},
            silence_logs=logging.CRITICAL,
        )
