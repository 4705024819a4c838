"""What the texts of queue jobs have in common: the arguments of dask-jobqueue's Job classes."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from surgeline.clusters.batch import Contact, WorkerClass
from surgeline.clusters.settings import CommandSettings
from surgeline.errors import ClusterError
from surgeline.work.casaprocess import thread_environment

# The section of Dask's configuration where dask-jobqueue looks for what it was not given, so that it does not look in
# the user's own; and the keys that it wants to find there.
_SECTION = "surgeline"
_KEYS = (
    *("interface", "local-directory", "extra", "job-extra", "env-extra", "header-skip", "log-directory"),
    *("queue", "account", "walltime", "job-cpu"),
)
_set_signal = signal.signal


def load_jobqueue(kind: str) -> None:
    """Import dask-jobqueue, for a cluster of a type.

    Raises:
        ClusterError: it is not installed.
    """
    try:
        with _signals_as_they_are():
            import dask_jobqueue  # noqa: F401
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"clusters of type {kind} need dask-jobqueue, which is not installed", f"pip install 'surgeline[{kind}]'"
        ) from error


@contextmanager
def _signals_as_they_are() -> Iterator[None]:
    """A block in which nobody says what signals do.

    When it is imported dask-jobqueue, for its runners, has SIGINT end the process at once, as if all were well; and
    no thread but the first can import it, which alone may say that.
    """
    signal.signal = lambda number, _: signal.getsignal(number)  # type: ignore[assignment]
    try:
        yield
    finally:
        # As it is for everybody, also where another thread has done the same meanwhile.
        signal.signal = _set_signal


def worker_job(job_class: type[Any]) -> type[Any]:
    """One of dask-jobqueue's Job classes, for workers of one thread, whatever their cores, and of exact memory."""

    class WorkerJob(job_class):  # type: ignore[misc]
        worker_process_threads = 1

        @property
        def worker_process_memory(self) -> str:
            return str(self.worker_memory)

    return WorkerJob


def common_arguments(
    worker_class: WorkerClass,
    contact: Contact,
    certificates: Sequence[str],
    for_shell: Callable[[str], str] = str,
) -> dict[str, Any]:
    """The arguments that are the same for all of dask-jobqueue's Job classes, but for the worker's name.

    Args:
        worker_class: what is asked for.
        contact: how workers find their session.
        certificates: TLS's files (see `Contact`) by the names that they have for the queue job; none without TLS.
        for_shell: what the manager needs done to a text so that the job's shell reads just that text.
    """
    import dask

    dask.config.set({f"jobqueue.{_SECTION}": dict.fromkeys(_KEYS)})
    settings, offers = worker_class.settings, worker_class.offers
    assert isinstance(settings, CommandSettings)
    command = [settings.interpreter]
    if settings.container:
        command = ["apptainer", "exec", *(["--nv"] if offers.gpus else []), *settings.container, *command]
    threads = [f"export {name}={value}" for name, value in thread_environment(worker_class.threads).items()]
    resources = f"cores={offers.cores},memory={offers.memory},gpus={offers.gpus}"
    flags = ("--tls-ca-file", "--tls-cert", "--tls-key")[: len(certificates)]
    files = [word for pair in zip(flags, certificates, strict=True) for word in pair]
    interface = ["--interface", settings.interface] if settings.interface else []
    own_words = ["--resources", resources, *interface, *files]
    return {
        "config_name": _SECTION,
        "scheduler": for_shell(shlex.quote(contact.scheduler)),
        "cores": offers.cores,
        "memory": offers.memory,
        "processes": 1,
        "death_timeout": settings.death_timeout,
        "local_directory": for_shell(_path(settings.local_directory)) if settings.local_directory else None,
        "worker_command": contact.module,
        # The user's own are shell text, as in dask-jobqueue.
        "worker_extra_args": [for_shell(shlex.join(own_words)), *map(for_shell, settings.worker_extra_args)],
        "job_script_prologue": [for_shell(line) for line in (*threads, *settings.job_script_prologue)],
        # The worker takes the place of the shell, which would keep signals from it.
        "python": for_shell(f"exec {shlex.join(command)}"),
        "job_name": contact.name,
    }


def _path(text: str) -> str:
    """A path in a shell; one that begins with a variable is known where the job runs."""
    return f'"{text}"' if text.startswith("$") else shlex.quote(text)
