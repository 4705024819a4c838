"""The choice of backend, made here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from surgeline.clusters import local
from surgeline.config import Configuration, load
from surgeline.paths import casa_log
from surgeline.work.casaprocess import CasaProcess
from surgeline.work.outcome import Loss
from surgeline.work.surroundings import Ask
from surgeline.work.taskqueue import Backend


def choose(configuration: Configuration, cluster: str | None = None) -> tuple[str, str]:
    """Say which backend jobs for a cluster go through, and why."""
    settings = configuration.settings
    name = cluster or settings.dask.cluster
    if settings.backend != "auto":
        return settings.backend, f"the configuration says backend: {settings.backend}"
    if settings.clusters[name].type == "local" and local.plan(configuration, name).workers == 1:
        return "serial", "one local worker would gain nothing"
    return "dask", f"cluster {name!r} has several workers"


def open_backend(
    configuration: Configuration | None = None,
    cluster: str | None = None,
    folder: Path | None = None,
    logs: Path | None = None,
    lost: Callable[[str, Loss], None] | None = None,
    ask: Ask | None = None,
) -> Backend:
    """Start a backend: the workers of a cluster, or this process alone.

    Args:
        configuration: the user's configuration unless given.
        cluster: one of the configuration's named clusters; its `dask.cluster` unless given.
        folder: the current directory of jobs; this process's unless given.
        logs: where CASA and workers log; `folder/logs` unless given.
        lost: called with a job's name and its Loss when a worker dies running it.
        ask: answers jobs that ask for facts of the session's context; called in threads of its own.

    Raises:
        ClusterError: the workers could not be started.
    """
    configuration = configuration or load()
    folder = (folder or Path.cwd()).resolve()
    logs = logs or folder / "logs"
    kind, _ = choose(configuration, cluster)
    if kind == "serial":
        from surgeline.parallel.serial import SerialBackend

        settings = configuration.settings
        return SerialBackend(
            CasaProcess(folder, casa_log(logs, "session"), settings.casaconfig, settings.worker.threads), ask
        )
    from surgeline.parallel.daskhelpers import DaskBackend

    return DaskBackend(configuration, cluster or configuration.settings.dask.cluster, folder, logs, lost, ask)
