"""The command line of a worker, for workload managers that are given one."""

from __future__ import annotations

from surgeline.clusters.batch import Contact, WorkerClass
from surgeline.clusters.settings import BatchSettings


def worker_command(worker_class: WorkerClass, contact: Contact, name: str) -> list[str]:
    """The words of the command that runs a worker.

    Its environment has to have `surgeline.work.casaprocess.thread_environment(worker_class.threads)` besides.

    Args:
        worker_class: what is asked for.
        contact: how it finds its session.
        name: the worker's: lower-case letters, a hyphen, and the identifier of its queue job; of one that was started
            again also -r and how often.
    """
    flags = ("--tls-ca-file", "--tls-cert", "--tls-key")
    files = [str(word) for pair in zip(flags, contact.certificates or (), strict=False) for word in pair]
    words = [worker_class.settings.interpreter, "-m", contact.module, contact.scheduler, "--name", name]
    return [*words, *files, *worker_options(worker_class)]


def worker_options(worker_class: WorkerClass) -> list[str]:
    """The options that do not depend on the session."""
    settings, offers = worker_class.settings, worker_class.offers
    assert isinstance(settings, BatchSettings)
    return [
        *("--nthreads", "1", "--nanny", "--no-dashboard"),
        *("--memory-limit", str(offers.memory)),
        *("--death-timeout", str(settings.death_timeout)),
        *("--resources", f"cores={offers.cores},memory={offers.memory},gpus={offers.gpus}"),
        *(("--interface", settings.interface) if settings.interface else ()),
        *settings.worker_extra_args,
    ]
