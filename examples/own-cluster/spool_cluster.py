"""A type of cluster: workers that are jobs of `spool`, the tiny batch system beside this file."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

from surgeline.clusters.batch import Contact, QueuedJob, WorkerClass
from surgeline.clusters.clustertypes import ClusterType
from surgeline.clusters.commands import Commands, how_it_ended, in_its_own_words
from surgeline.clusters.settings import BatchSettings
from surgeline.clusters.workercommand import worker_command
from surgeline.errors import SchedulerSilent
from surgeline.work.casaprocess import thread_environment


# --8<-- [start:settings]
class SpoolSettings(BatchSettings):
    """The keys of such a cluster, besides those that all have.

    Attributes:
        folder: where the batch system has its queue.
    """

    folder: Path

    @property
    def interpreter(self) -> str:
        """Workers run on this machine: by default with the session's own Python."""
        return self.python or sys.executable


# --8<-- [end:settings]
# --8<-- [start:manager]
class Spool:
    """Speaks to the batch system by its commands; keeps `surgeline.clusters.batch.WorkloadManager`."""

    def __init__(self, settings: SpoolSettings, environment: Mapping[str, str]) -> None:
        self.settings = settings
        self._commands = Commands((), environment)

    def text(self, worker_class: WorkerClass, contact: Contact, count: int = 1) -> str:
        """What is submitted: a function of what is asked, of nothing else, so that `surgeline plan` can show it."""
        threads = [f"{name}={value}" for name, value in thread_environment(worker_class.threads).items()]
        return json.dumps(["env", *threads, *worker_command(worker_class, contact, "spool-%j")], indent=1) + "\n"

    def check(self, worker_class: WorkerClass, contact: Contact) -> None:
        """Ask whether it would take such jobs; here, only whether it is there."""
        self._run("list", contact.name)

    def submit(self, worker_class: WorkerClass, contact: Contact, count: int) -> list[str]:
        """Put jobs for so many workers into the queue; gives their identifiers."""
        output = str(self.output(worker_class, contact, "%j"))
        text = self.text(worker_class, contact, count)
        return self._run("submit", contact.name, str(count), output, text=text).split()

    def look(self, contact: Contact) -> dict[str, QueuedJob]:
        """All jobs of the session, by identifier."""
        jobs = map(_job, map(json.loads, self._run("list", contact.name).splitlines()))
        return {job.identifier: job for job in jobs}

    def fate(self, contact: Contact, identifier: str) -> QueuedJob | None:
        """What became of one that `look` does not show any more; this batch system forgets nothing."""
        return self.look(contact).get(identifier)

    def explain(self, contact: Contact, identifier: str) -> str:
        """Why one waits, at length."""
        return ""

    def cancel(self, identifiers: Sequence[str]) -> None:
        """End jobs; those that are gone already are none the worse."""
        if identifiers:
            self._run("cancel", *identifiers)

    def cancel_all(self, contact: Contact) -> list[str]:
        """The command that ends all jobs of a session, for `surgeline cancel` when the session is no more."""
        return self._line("cancel-group", contact.name)

    def output(self, worker_class: WorkerClass, contact: Contact, identifier: str) -> Path:
        """The file that a job's own output goes to."""
        return contact.folder / f"spool-{identifier}.log"

    def _line(self, *words: str) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("spool.py")), str(self.settings.folder), *words]

    def _run(self, *words: str, text: str = "") -> str:
        answer: CompletedProcess[str] = self._commands.run(*self._line(*words), text=text)
        if answer.returncode != 0:
            raise SchedulerSilent(
                f"spool does not answer {words[0]}: {in_its_own_words(answer)}",
                f"see what it says: {shlex.join(self._line(*words))}",
            )
        return answer.stdout


def _job(said: Mapping[str, int | str | None]) -> QueuedJob:
    """A job as the batch system tells it, in Surgeline's words."""
    identifier, state, code = str(said["number"]), said["state"], said["code"]
    if state == "waiting":
        return QueuedJob(identifier, "waiting", "all slots are taken")
    if state == "running":
        return QueuedJob(identifier, "running")
    if not said["wanted"]:
        return QueuedJob(identifier, "ended", "cancelled", "cancelled")
    if not isinstance(code, int):
        return QueuedJob(identifier, "ended", "its keeper was lost", "node failure")
    words = how_it_ended(max(code, 0), max(-code, 0))
    return QueuedJob(identifier, "ended", words, "failed" if code else "completed")


# --8<-- [end:manager]
# What the entry point names.
SPOOL = ClusterType(SpoolSettings, Spool)
