"""Prefect flows of anybody's own, whose tasks run on the workers of a cluster: a `DaskTaskRunner` of its own."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from surgeline.clusters.batch import settings_of
from surgeline.clusters.scheduler import address_for_workers
from surgeline.clusters.settings import BatchSettings
from surgeline.config import Configuration, load
from surgeline.errors import ClusterError, ConfigError, nearest
from surgeline.parallel.backend import Backends
from surgeline.paths import SessionPaths
from surgeline.work.outcome import Loss

if TYPE_CHECKING:
    from prefect_dask.task_runners import DaskTaskRunner


def task_runner(
    cluster: str | None = None, workdir: str | Path = ".", settings: Sequence[str] = ()
) -> DaskTaskRunner:
    """A task runner for a flow: its tasks run on workers that come when tasks wait, and go when none does.

    A task asks for more than a core by `dask.annotate(resources={"GPU": 1, "MEMORY": 8e9})` around its submission,
    and runs again on another worker when its own is lost. Nothing is started before the flow's first task.

    Args:
        cluster: one of the configuration's named clusters; its `dask.cluster` unless given.
        workdir: the current directory of tasks; logs go to its `logs`, and its `config.yaml` counts.
        settings: further settings, as for `--set`.

    Raises:
        ConfigError: prefect-dask is not installed.
    """
    # A package that is missing makes the other one's parent unknown.
    if find_spec("prefect") is None or find_spec("prefect_dask") is None:
        raise ConfigError(
            "a task runner needs prefect-dask, which is not installed", "pip install 'surgeline[prefect]'"
        )
    from prefect_dask.task_runners import DaskTaskRunner

    return DaskTaskRunner(
        cluster_class=f"{__name__}.{FlowWorkers.__name__}",
        cluster_kwargs={"cluster": cluster, "workdir": str(workdir), "settings": list(settings)},
    )


class FlowWorkers:
    """The workers of one flow run, from its first task to its end; DaskTaskRunner's `cluster_class`."""

    def __init__(self, cluster: str | None, workdir: str, settings: Sequence[str]) -> None:
        """Prepare; nothing is started. See `task_runner` for the arguments.

        Raises:
            ConfigError: there is no such cluster, its scheduler would be in a pod, or its settings are wrong.
            ClusterError: workers would not reach Prefect's server.
        """
        from prefect.logging import get_logger

        paths = SessionPaths(Path(workdir).resolve())
        self._configuration = load(paths.workdir, settings)
        self._cluster = cluster or self._configuration.settings.dask.cluster
        _check_cluster(self._configuration, self._cluster)
        _check_server(self._configuration, self._cluster)
        self._logger = get_logger("surgeline")
        self._backends = Backends(
            self._configuration, paths.workdir, paths.logs, lost=self._tell_loss, tell=self._logger.info
        )

    def __enter__(self) -> Any:
        """Start Dask's scheduler, and what workers are to be there from the first; gives the cluster, for clients.

        Raises:
            ClusterError: the workers cannot be started.
        """
        from surgeline.parallel.daskhelpers import DaskBackend

        try:
            opened = self._backends.get(self._cluster, "dask")
            workers = self._backends.surging.get(self._cluster, opened)
            if not isinstance(workers, DaskBackend):
                raise ClusterError(
                    f"cluster {self._cluster!r} is beside an MPI session here, and takes no tasks of a flow",
                    "start the flow without mpirun",
                )
            return workers.admit_others()
        except BaseException:
            self._backends.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._backends.close()

    def _tell_loss(self, task: str, loss: Loss) -> None:
        self._logger.warning("%s lost its worker %s: %s", task, loss.worker, loss.how)


def _check_cluster(configuration: Configuration, name: str) -> None:
    clusters = configuration.settings.clusters
    if name not in clusters:
        raise ConfigError(f"there is no cluster {name!r}", nearest(name, clusters))
    if clusters[name].type == "kubernetes":
        raise ConfigError(
            f"cluster {name!r} is of type kubernetes, whose scheduler is a pod and takes no tasks of a flow",
            "name a cluster of type slurm, htcondor or local; on Kubernetes, flows run in a work pool",
        )


def _check_server(configuration: Configuration, name: str) -> None:
    """See to it that no worker starts a server of its own, for want of one that it reaches."""
    from prefect.settings import PREFECT_API_URL

    way_out = "prefect server start --host HOST; export PREFECT_API_URL=http://HOST:4200/api (HOST: this machine)"
    url = PREFECT_API_URL.value()
    if url is None:
        raise ClusterError("tasks on workers need a Prefect server that these reach, and none is named", way_out)
    host = urlsplit(url).hostname or ""
    if not configuration.settings.clusters[name].has_queue or not _is_this_machine_only(host):
        return
    settings = settings_of(configuration, name)
    assert isinstance(settings, BatchSettings)
    scheduler = address_for_workers(settings.host, settings.interface)
    if not _is_this_machine_only(scheduler):
        raise ClusterError(
            f"Prefect's server is at {url}, where workers of cluster {name!r} on other machines do not reach it",
            f"{way_out}; where all workers run on this machine: clusters.{name}.host: 127.0.0.1",
        )


def _is_this_machine_only(host: str) -> bool:
    """Whether no other machine reaches it there."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost" or host.endswith(".localhost")
