"""Dask's scheduler in the session's process, for workers that come from elsewhere."""

from __future__ import annotations

import logging
import resource
import socket
from typing import Any

from surgeline.clusters.daskoptions import dashboard_options, dask_options
from surgeline.errors import ClusterError

# A worker takes three descriptors of the session. Most machines let a process have 1024 until it asks for more.
_DESCRIPTORS = 65536


def address_for_workers(host: str | None, interface: str | None) -> str:
    """The address at which workers reach a scheduler on this machine: see `start_scheduler`.

    Raises:
        ClusterError: this machine has no such interface, or no such name is known.
    """
    from distributed.utils import get_ip, get_ip_interface

    try:
        if interface:
            return str(get_ip_interface(interface))
        return socket.gethostbyname(host) if host else str(get_ip())
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"workers would look for the session at {interface or host}, and there is no such address: {error}",
            "give the cluster another host or interface; `ip address` lists what this machine has",
        ) from error


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

    _allow_connections()
    with dask.config.set(dask_options(threads, dashboard=dashboard_address is not None)):
        return LocalCluster(
            n_workers=0,
            host=host if host or interface else get_ip(),
            interface=interface,
            scheduler_port=port,
            protocol="tls" if security else "tcp",
            security=security,
            **dashboard_options(dashboard_address),
            silence_logs=logging.CRITICAL,
        )


def _allow_connections() -> None:
    """Let this process have as many descriptors as its machine allows, for hundreds of workers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
