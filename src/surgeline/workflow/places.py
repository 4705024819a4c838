"""Where the jobs of stages would run, and what would be submitted for their workers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from surgeline.clusters import certificates, local
from surgeline.clusters.batch import (
    Contact,
    WorkerClass,
    made_to_measure,
    settings_of,
    worker_classes,
    workload_manager,
)
from surgeline.clusters.settings import BatchSettings
from surgeline.clusters.surge import smallest_first
from surgeline.config import Configuration
from surgeline.parallel.backend import choose
from surgeline.parallel.batchworkers import WORKER_MODULE
from surgeline.paths import SessionPaths, queue_folder
from surgeline.work.estimates import Estimates
from surgeline.work.jobs import Job
from surgeline.work.resources import Resources
from surgeline.workflow.asking import before_there_are_any
from surgeline.workflow.recipe import StageRequest, cluster_of


class Queues:
    """The clusters with a queue that stages would use, and which of their worker classes."""

    def __init__(self, configuration: Configuration, estimates: Estimates) -> None:
        """Prepare; `estimates` is what is known of jobs from earlier sessions."""
        self._configuration = configuration
        self._estimates = estimates
        self._used: dict[str, dict[str, WorkerClass]] = {}

    def place(self, request: StageRequest, name: str, jobs: Sequence[Job]) -> str:
        """Which workers of a cluster a stage's jobs go to, how many there are at most, and where else they may go.

        Args:
            request: the stage.
            name: the cluster.
            jobs: what is known of the stage's jobs.

        Raises:
            ConfigError: the cluster's settings are wrong.
        """
        settings = settings_of(self._configuration, name)
        asked = self.asked(request, jobs)
        of_class: dict[str, list[Resources]] = {}
        for resources in asked:
            of_class.setdefault(self._class_for(resources, name).name, []).append(resources)
        told = "; ".join(self._told(self._used[name][kind], settings.maximum, of_class[kind]) for kind in of_class)
        late = f" after {settings.queue_deadline} s in the queue" if settings.queue_deadline else ""
        elsewhere = f"; without any{late}, on cluster {settings.otherwise!r}" if settings.otherwise else ""
        return f"on cluster {name!r} of type {settings.type}: {told}{elsewhere}"

    def asked(self, request: StageRequest, jobs: Sequence[Job]) -> list[Resources]:
        """What a stage's jobs ask for, each amount once; what earlier ones took, where none is known yet."""
        of_jobs = [job.declared.resources for job in jobs]
        return list(dict.fromkeys(of_jobs or [before_there_are_any(request, self._estimates)[0]]))

    def texts(self, paths: SessionPaths) -> Iterator[str]:
        """The lines of what would be submitted for a worker of each class that is used.

        Raises:
            ClusterError: what forms it is not installed.
        """
        for name, classes in self._used.items():
            manager = workload_manager(self._configuration, name)
            contact = contact_to_be(self._configuration, name, paths)
            for kind in (worker_class.name for worker_class in smallest_first(classes.values())):
                yield ""
                yield f"what is submitted for a worker of class {kind!r} of cluster {name!r}:"
                yield ""
                yield manager.text(classes[kind], contact).rstrip()

    def _class_for(self, asked: Resources, name: str) -> WorkerClass:
        """The smallest class that a job fits, or one that is made to its measure."""
        used = self._used.setdefault(name, {})
        classes = worker_classes(self._configuration, name)
        known = {worker_class.name: worker_class for worker_class in (*classes, *used.values())}
        fitting = smallest_first(c for c in known.values() if asked.fits(c.offers))
        found = known[fitting[0].name] if fitting else made_to_measure(classes, asked, f"measured-{len(known)}")
        return used.setdefault(found.name, found)

    @staticmethod
    def _told(worker_class: WorkerClass, maximum: int, asked: Iterable[Resources]) -> str:
        kind = "made to measure" if worker_class.name.startswith("measured-") else f"of class {worker_class.name!r}"
        most = min(worker_class.maximum, maximum)
        return f"workers {kind} ({worker_class.offers}), at most {most}, for {_amounts(asked)} a job"


def contact_to_be(configuration: Configuration, name: str, paths: SessionPaths) -> Contact:
    """How workers would find a session, with words in the place of what only a session knows."""
    settings = settings_of(configuration, name)
    own_name = f"{settings.name}-SESSION"
    folder = queue_folder(paths.logs, own_name)
    if not isinstance(settings, BatchSettings):
        return Contact("", WORKER_MODULE, own_name, folder)
    authority, certificate, key = (folder / file for file in certificates.NAMES)
    return Contact(
        f"{'tls' if settings.tls else 'tcp'}://{settings.host or 'SESSION_HOST'}:{settings.port or 'PORT'}",
        WORKER_MODULE,
        own_name,
        folder,
        (authority, certificate, key) if settings.tls else None,
    )


def where(request: StageRequest, configuration: Configuration, queues: Queues, jobs: Sequence[Job] = ()) -> str:
    """Where a stage's jobs would run, and what each asks for.

    Args:
        request: the stage.
        configuration: the whole configuration.
        queues: remembers which worker classes are used.
        jobs: what is known of its jobs.

    Raises:
        RecipeError: the stage asks for a cluster that the configuration does not know.
    """
    settings = configuration.settings
    name = cluster_of(request, configuration)
    kind, reason = choice(request, configuration)
    if kind == "mpi":
        place = "on the servers of an MPI session (surgeline mpirun --show prints its command line)"
    elif kind == "serial":
        place = f"in the session's process, one after the other ({reason})"
    elif settings.clusters[name].has_queue:
        return queues.place(request, name, jobs)
    elif settings.clusters[name].type == "local":
        place = f"on cluster {name!r}: {local.plan(configuration, name)}"
    else:
        place = f"on cluster {name!r} of type {settings.clusters[name].type}"
    return f"{place}; {_amounts(queues.asked(request, jobs))} a job"


def _amounts(asked: Iterable[Resources]) -> str:
    """What jobs ask for, in words: of amounts that differ in memory only, the least and the most."""
    alike: dict[Resources, list[int]] = {}
    for resources in asked:
        memory = alike.setdefault(resources.model_copy(update={"memory": None}), [])
        memory += [resources.memory] if resources.memory else []
    told = []
    for rest, memory in alike.items():
        least = rest.model_copy(update={"memory": min(memory, default=None)})
        most = f" (up to {max(memory) / 1e9:.3g} GB)" if len(memory) > 1 else ""
        told.append(f"{least}{most}")
    return " or ".join(told)


def choice(request: StageRequest, configuration: Configuration) -> tuple[str, str]:
    """The backend of a stage, and why; one of MPI can be planned without being in an MPI session."""
    if (request.backend or configuration.settings.backend) == "mpi":
        return "mpi", "it is asked for"
    return choose(configuration, request.cluster, request.backend)
