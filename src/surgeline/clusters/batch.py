"""Clusters whose workers come out of a queue: what is asked for, and what is answered."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import ValidationError

from surgeline.clusters.clustertypes import find_cluster_type
from surgeline.clusters.settings import SurgeSettings
from surgeline.config import Configuration, Key, Value, explained
from surgeline.errors import ConfigError, nearest
from surgeline.work.resources import Resources

State = Literal["waiting", "running", "held", "ended"]
Cause = Literal["", "completed", "cancelled", "preempted", "node failure", "walltime", "out of memory", "failed"]
# The HTTP statuses by which a server says that it has no time, and will later.
BUSY = frozenset({408, 429, 502, 503, 504})

# Keys of dask-jobqueue's clusters, and what they are here.
_OTHER_NAMES = {
    "job_extra": "job_extra_directives",
    "extra": "worker_extra_args",
    "env_extra": "job_script_prologue",
    "header_skip": "job_directives_skip",
    "project": "account",
    "job_cpu": "cores",
    "job_mem": "memory",
    "n_workers": "maximum",
}
# Those that mean nothing here, and what to do instead.
_NOT_HERE = {
    "scheduler_options": "write host and port here, and dask.dashboard_address, instead",
    "worker_command": "leave it out: workers are started by Surgeline's own command",
    "nanny": "leave it out: every worker has one",
    "shared_temp_directory": "leave it out: certificates lie beside the session's logs",
}


@dataclass(frozen=True)
class WorkerClass:
    """Workers that are alike.

    Attributes:
        name: what it is called: as in `workers:` of its cluster, or "worker".
        offers: what one of them gives to a job: cores, memory (bytes), GPUs, walltime (seconds; None: no end).
        settings: the cluster's settings, with what the class says otherwise.
        maximum: how many of them there may be at once.
        minimum: how many are kept while the session runs.
        threads: threads that CASA may use in each.
    """

    name: str
    offers: Resources
    settings: SurgeSettings
    maximum: int
    minimum: int
    threads: int = 1


@dataclass(frozen=True)
class Contact:
    """How a worker finds its session.

    Attributes:
        scheduler: the address of Dask's scheduler, such as "tls://10.0.0.5:8786".
        module: what the queue job runs, as `python -m`.
        name: the batch name, the same for all queue jobs of the session: "surgeline-1a2b3c4d".
        folder: the queue jobs' current directory; their own output goes there unless `log_directory` says otherwise.
        certificates: those of the authority and of the worker, and the worker's key; None without TLS.
    """

    scheduler: str
    module: str
    name: str
    folder: Path
    certificates: tuple[Path, Path, Path] | None = None


@dataclass(frozen=True)
class QueuedJob:
    """What a workload manager says of one of its jobs.

    Attributes:
        identifier: Slurm's "123" or "123_4", HTCondor's "12.0", the name of a worker group in Kubernetes, the id of a
            flow run.
        state: waiting, running, held (it will not start by itself) or ended.
        words: of one that waits or is held the reason; of one that ended how; in words.
        cause: of one that ended, is held or has to start again: what was the cause; empty where nobody knows.
        host: where it runs, or ran.
    """

    identifier: str
    state: State
    words: str = ""
    cause: Cause = ""
    host: str = ""


class WorkloadManager(Protocol):
    """What speaks to Slurm, HTCondor, Kubernetes, a work pool, or whatever a package brings.

    Everywhere `worker_class` is which workers are asked for, `contact` how they find their session, `count` how many
    they are, and `identifier` what the manager knows one of its jobs by; `identifiers` are several.
    """

    @property
    def settings(self) -> SurgeSettings:
        """The cluster's."""

    def text(self, worker_class: WorkerClass, contact: Contact, count: int = 1) -> str:
        """What is submitted for so many workers: a function of what is asked, of nothing else."""

    def check(self, worker_class: WorkerClass, contact: Contact) -> None:
        """Ask the manager whether it would take such jobs; nothing is left in its queue.

        Raises:
            ClusterError: it would not, or is not there; with its own words.
        """

    def submit(self, worker_class: WorkerClass, contact: Contact, count: int) -> list[str]:
        """Put jobs for so many workers into the queue.

        Returns:
            their identifiers.

        Raises:
            ClusterError: they were refused; with the manager's own words.
        """

    def look(self, contact: Contact) -> dict[str, QueuedJob]:
        """All queue jobs of a session, by identifier; those that ended for as long as the manager's queue shows them.

        Raises:
            ClusterError: the manager does not answer.
        """

    def fate(self, contact: Contact, identifier: str) -> QueuedJob | None:
        """What became of a job that is not in the queue any more, by the manager's accounts; None: nobody can say."""

    def explain(self, contact: Contact, identifier: str) -> str:
        """Why a job waits, at length; empty where the manager does not say, or the job does not wait.

        Raises:
            ClusterError: the manager does not answer.
        """

    def cancel(self, identifiers: Sequence[str]) -> None:
        """Take jobs out of the queue, and end those that run; those that are gone already are none the worse.

        Raises:
            ClusterError: the manager does not answer.
        """

    def cancel_all(self, contact: Contact) -> list[str]:
        """The command that takes all jobs of a session out of the queue; it succeeds if there are none, too."""

    def output(self, worker_class: WorkerClass, contact: Contact, identifier: str) -> Path:
        """The file that a queue job's own output goes to."""


def workload_manager(
    configuration: Configuration, name: str, environment: Mapping[str, str] = os.environ
) -> WorkloadManager:
    """The workload manager of a named cluster.

    Args:
        configuration: all settings.
        name: the cluster, which has a queue.
        environment: what queue jobs inherit, but for what tells of a job that this process is in; it must not make
            them ranks of an MPI program.

    Raises:
        ConfigError: the cluster's settings are wrong.
    """
    settings = settings_of(configuration, name, environment)
    return find_cluster_type(settings.type).manager(settings, environment)


def settings_of(
    configuration: Configuration, name: str, environment: Mapping[str, str] = os.environ
) -> SurgeSettings:
    """The validated settings of a cluster with a queue: those of its type.

    Args:
        configuration: all settings.
        name: the cluster, which has a queue.
        environment: this process's variables; Slurm's workers go to the partition of the job that it is in.

    Raises:
        ConfigError: a key or a value is wrong; says where it stands, and the nearest that is right.
    """
    section: Key = ("clusters", name)
    model = find_cluster_type(configuration.settings.clusters[name].type).settings
    values = [
        _named_as_here(value, model)
        for value in configuration.values
        if value.key[:2] == section and not (value.key[2:] == ("n_workers",) and value.value == "auto")
    ]
    _check_none_twice(values)
    said = _tree(value for value in values if value.value is not None or value.key[2] == "workers")
    defaults = model.from_environment(environment)
    if configuration.settings.dask.n_workers != "auto":
        defaults["maximum"] = configuration.settings.dask.n_workers
    of_all_classes = {key: value for key, value in {**defaults, **said}.items() if key not in model.of_cluster}
    # What is said once, each class knows, too.
    of_all = {key: said[key] for key in (model.of_cluster - {"workers"}) & said.keys()}
    classes = said.get("workers")
    if isinstance(classes, dict):
        _check_no_key_of_cluster(values, section, model)
        for worker, of_class in classes.items():
            if isinstance(of_class, dict | None):
                own = {**of_all_classes, **(of_class or {}), **of_all}
                # What a class says is null has its default, whatever the cluster says.
                classes[worker] = {key: value for key, value in own.items() if value is not None}
    try:
        settings = model.model_validate({**defaults, **said})
    except ValidationError as error:
        raise explained(error, values, model, section) from error
    others = configuration.settings.clusters.keys() - {name}
    if settings.otherwise is not None and settings.otherwise not in others:
        origin = next(value.origin for value in values if value.key[2] == "otherwise")
        raise ConfigError(
            f"{origin}: clusters.{name}.otherwise is {settings.otherwise!r}, which is no other cluster",
            nearest(settings.otherwise, others),
        )
    return settings


def worker_classes(
    configuration: Configuration, name: str, environment: Mapping[str, str] = os.environ
) -> tuple[WorkerClass, ...]:
    """The worker classes of a cluster with a queue; one, called "worker", unless it has `workers:`.

    Raises:
        ConfigError: the cluster's settings are wrong.
    """
    settings = settings_of(configuration, name, environment)
    threads = configuration.settings.worker.threads
    return tuple(
        WorkerClass(worker, own.offers, own, own.maximum, own.minimum, threads)
        for worker, own in (settings.workers or {"worker": settings}).items()
    )


def most_workers(settings: SurgeSettings, classes: Sequence[WorkerClass]) -> int:
    """How many workers there can be at once on a cluster of these classes."""
    return min(settings.maximum, sum(worker_class.maximum for worker_class in classes))


def made_to_measure(classes: Sequence[WorkerClass], asked: Resources, name: str) -> WorkerClass:
    """A class for jobs that fit none of these: the one nearest to what they ask for, made as large as that.

    A workload manager gives any size; it is for it to refuse what none of its machines has.
    """
    model = min(classes, key=lambda worker_class: _distance(worker_class.offers, asked))
    have = model.offers
    size = Resources(
        cores=max(have.cores, asked.cores),
        memory=_larger(have.memory, asked.memory),
        gpus=max(have.gpus, asked.gpus),
        walltime=_larger(have.walltime, asked.walltime),
    )
    settings = model.settings.of_size(size)
    return WorkerClass(name, size, settings, model.maximum, 0, model.threads)


def _larger(have: int | None, asked: int | None) -> int | None:
    """The larger of two amounts; a class that does not say has no limit, and a job that does not say no need."""
    return have if have is None or asked is None else max(have, asked)


def _distance(have: Resources, asked: Resources) -> tuple[bool, float, int]:
    """How far a class is from what is asked: whether GPUs set it apart, how much it lacks, and how large it is."""
    pairs = ((have.cores, asked.cores), (have.memory, asked.memory), (have.walltime, asked.walltime))
    grown = sum(math.log(max(1.0, wanted / there)) for there, wanted in pairs if there and wanted)
    return bool(have.gpus) != bool(asked.gpus), grown, have.cores + have.gpus


def _named_as_here(value: Value, model: type[SurgeSettings]) -> Value:
    """The value under the key that this configuration has for it: dask-jobqueue has other names, and had others."""
    place = 4 if value.key[2] == "workers" else 2
    if len(value.key) <= place:
        return value
    key = value.key[place].replace("-", "_")
    if key in _NOT_HERE:
        raise ConfigError(f"{value.origin}: {'.'.join(value.key[: place + 1])} means nothing here", _NOT_HERE[key])
    if key not in model.model_fields and _OTHER_NAMES.get(key) in model.model_fields:
        key = _OTHER_NAMES[key]
    return Value((*value.key[:place], key, *value.key[place + 1 :]), value.value, value.origin)


def _check_none_twice(values: Sequence[Value]) -> None:
    seen: dict[Key, Value] = {}
    for value in values:
        if value.value is None:
            continue
        if (other := seen.setdefault(value.key, value)) is not value:
            raise ConfigError(
                f"{'.'.join(value.key)} is said twice, by two of its names: {other.origin} and {value.origin}",
                "leave one of them out",
            )


def _check_no_key_of_cluster(values: Sequence[Value], section: Key, model: type[SurgeSettings]) -> None:
    for value in values:
        if value.key[2] == "workers" and len(value.key) > 4 and value.key[4] in model.of_cluster:
            raise ConfigError(
                f"{value.origin}: {'.'.join(value.key)} cannot be said of a worker class",
                f"say it of the whole cluster: {'.'.join((*section, value.key[4]))}",
            )


def _tree(values: Iterable[Value]) -> dict[str, Any]:
    """What values below clusters.NAME say, as nested mappings."""
    tree: dict[str, Any] = {}
    for value in values:
        branch = tree
        for part in value.key[2:-1]:
            branch = branch.setdefault(part, {})
        branch[value.key[-1]] = value.value
    return tree
