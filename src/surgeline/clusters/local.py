"""Worker processes on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from surgeline.clusters import certificates
from surgeline.clusters.daskoptions import dashboard_options, dask_options
from surgeline.config import Configuration
from surgeline.errors import ConfigError
from surgeline.work.allowance import allowance
from surgeline.work.environment import gpus_here
from surgeline.work.resources import parse_bytes


@dataclass(frozen=True)
class LocalPlan:
    """What a local cluster is started with: a pure function of the configuration and of what this process may use.

    Attributes:
        workers: worker processes; each runs one job at a time.
        threads: threads that CASA may use in each.
        memory: bytes that each may use, or None for no limit.
    """

    workers: int
    threads: int
    memory: int | None
    host: str | None
    dashboard_address: str | None

    def __str__(self) -> str:
        memory = f", {self.memory / 1e9:.1f} GB each" if self.memory else ""
        return f"{self.workers} local worker{'s' if self.workers > 1 else ''}{memory}"


def plan(configuration: Configuration, name: str) -> LocalPlan:
    """Decide how many workers to start, and what each may use.

    Raises:
        ConfigError: worker.memory is no amount of memory.
    """
    settings = configuration.settings
    cluster = settings.clusters[name]
    asked = cluster.n_workers if cluster.n_workers is not None else settings.dask.n_workers
    workers = workers_that_fit(configuration) if asked == "auto" else asked
    return LocalPlan(
        workers,
        settings.worker.threads,
        memory_of_each(configuration, workers),
        settings.dask.host,
        settings.dask.dashboard_address,
    )


def workers_that_fit(configuration: Configuration) -> int:
    """As many workers as have a core for each of their threads; one at least."""
    return max(1, allowance().cores // configuration.settings.worker.threads)


def gpus() -> int:
    """How many jobs of local workers can have a GPU at once: they share one, if there is any."""
    return min(1, len(gpus_here(os.environ, Path("/"))))


def memory_of_each(configuration: Configuration, workers: int) -> int | None:
    """The bytes that each of so many workers on this machine may use, or None for no limit.

    Raises:
        ConfigError: worker.memory is no amount of memory.
    """
    asked = configuration.settings.worker.memory
    if asked == "auto":
        memory = allowance().memory
        return memory // workers if memory else None
    try:
        limit: int | None = parse_bytes(asked)
    except ValueError as error:
        origin = next(value.origin for value in configuration.values if value.key == ("worker", "memory"))
        raise ConfigError(f"{origin}: worker.memory: {error}", "or write auto, or null for no limit") from error
    return limit


def start(
    asked: LocalPlan,
    worker_class: type[Any],
    scratch: Path,
    preloads: Sequence[str] = (),
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Any:
    """Start the scheduler in this process and the workers as its children.

    They know each other by certificates, as those of other clusters do: this machine may have other users.

    Args:
        asked: how many workers, and what each may use.
        worker_class: the nanny that starts each worker and watches over it.
        scratch: where workers keep their own files.
        preloads: modules that each worker, and each that replaces one, loads before it is given anything.
        variables: environment variables that each worker begins with.
    """
    import dask
    from distributed import LocalCluster
    from distributed.deploy.cluster import Cluster

    class LastingCluster(LocalCluster):  # type: ignore[misc]
        """Leaves it to the nannies to replace workers that died.

        Dask's own would close a nanny for good whose worker is away 15 seconds after it was away before.
        """

        def _update_worker_status(self, op: str, msg: Any) -> None:
            Cluster._update_worker_status(self, op, msg)

    options = dask_options(asked.threads, preloads, asked.dashboard_address is not None)
    options["distributed.nanny.pre-spawn-environ"] |= variables
    with dask.config.set(options):
        return LastingCluster(
            n_workers=asked.workers,
            threads_per_worker=1,
            processes=True,
            host=asked.host,
            protocol="tls",
            security=certificates.make(),
            **dashboard_options(asked.dashboard_address),
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=asked.memory or 0,
            worker_class=worker_class,
            local_directory=str(scratch),
            silence_logs=logging.CRITICAL,
        )
