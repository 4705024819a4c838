"""Workers that are jobs of Slurm."""

from __future__ import annotations

import math
import os
import pwd
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator

from surgeline.clusters.batch import (
    Cause,
    Contact,
    QueuedJob,
    WorkerClass,
)
from surgeline.clusters.batchmanager import BatchManager
from surgeline.clusters.clustertypes import ClusterType
from surgeline.clusters.commands import how_it_ended, in_its_own_words
from surgeline.clusters.jobtext import common_arguments, load_jobqueue, worker_job
from surgeline.clusters.settings import CommandSettings, Seconds
from surgeline.errors import ClusterError, SchedulerSilent
from surgeline.work.resources import Resources

# As in the job's own environment; a job that was requeued starts anew under its old number.
_WORKER_NAME = (
    '"slurm-${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}'
    '${SLURM_RESTART_COUNT:+-r$SLURM_RESTART_COUNT}"'
)
_GPU_GRES = re.compile(r"\bgpu(?P<kind>:[^:,\d][^:,]*)?(?::(?P<number>\d+))?")
_FIELDS = "JobArrayID:|,State:|,exit_code:|,BatchHost:|,StartTime:|,Reason:|"

_WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_HELD = {"REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_ENDED: Mapping[str, tuple[Cause, str]] = {
    "COMPLETED": ("completed", "ended by itself"),
    "CANCELLED": ("cancelled", "cancelled"),
    "PREEMPTED": ("preempted", "preempted"),
    "NODE_FAIL": ("node failure", "its node {host} failed"),
    "BOOT_FAIL": ("node failure", "its node {host} did not come up"),
    "TIMEOUT": ("walltime", "reached its walltime"),
    "DEADLINE": ("walltime", "reached its deadline"),
    "OUT_OF_MEMORY": ("out of memory", "used more memory than it had asked for"),
    "REVOKED": ("cancelled", "given to another cluster"),
}
# Instead of a signal's number: the job's files could not be opened, or its script not be run.
_NOT_LAUNCHED = 53
_OVER_MEMORY = re.compile(rb"^slurmstepd\S*: error: .*(xceeded (job )?memory limit|oom.kill event)", re.MULTILINE)
_TAIL_BYTES = 4096
# Words of Slurm that say little to those who do not know it, and what they mean.
_MEANINGS = {
    "Resources": "no node has what it asks for free at the moment",
    "Priority": "other jobs come first",
    "PartitionDown": "the partition is down: jobs wait until it is up again",
    "PartitionInactive": "the partition is inactive: jobs wait until it is active again",
    "PartitionConfig": "no node of the partition has what it asks for",
    "PartitionNodeLimit": "the partition does not allow it so many nodes, or its nodes are down",
    "PartitionTimeLimit": "the partition does not allow it so much walltime",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "NodeDown": "a node that it needs is down",
    "BadConstraints": "nothing in the cluster has what it asks for",
    "BeginTime": "it may not start yet, as for a while after a requeue",
    "Cleaning": "what is left of its last run is being removed",
    "Licenses": "a licence that it asks for is not free",
    "Reservation": "it waits for a reservation to begin",
    "JobArrayTaskLimit": "as many tasks of its array run as may run at once",
    "InvalidAccount": "its account is not valid here",
    "InvalidQOS": "its QOS is not valid here",
    "JobHeldUser": "it is held: scontrol release it",
    "JobHeldAdmin": "an administrator holds it",
    "JobHoldMaxRequeue": "it is held, since it was requeued too often",
    "JobLaunchFailure": "a node could not start it: perhaps its output folder is not there",
    "launch failed requeued held": "a node could not start it; it is held",
    "job requeued in held state": "it was requeued, and is held",
}
# The same for families of reasons.
_LIMITS = {"Assoc": "a limit of your account is reached", "QOS": "a limit of the QOS is reached"}


class SlurmSettings(CommandSettings):
    """What Slurm's clusters have besides."""

    type: Literal["slurm"]
    walltime: Seconds | None = 3600
    queue: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclusive: bool = False
    gres: str | None = None
    job_extra_directives: tuple[str, ...] = ()
    shebang: str = "#!/usr/bin/env bash"
    workers: Mapping[str, SlurmSettings] = Field(default_factory=dict)

    @field_validator("gres")
    @classmethod
    def _as_many_gpus(cls, gres: str | None, known: ValidationInfo) -> str | None:
        asked = sum(int(match["number"] or 1) for match in _GPU_GRES.finditer(gres or ""))
        if asked and asked != known.data.get("gpus"):
            raise ValueError(f"it asks for {asked} GPUs, and gpus is {known.data.get('gpus')}: write gpus: {asked}")
        return gres

    @field_validator("job_extra_directives", "job_directives_skip")
    @classmethod
    def _leave_names_alone(cls, directives: tuple[str, ...]) -> tuple[str, ...]:
        for text in directives:
            if re.match(r"(-J|--job-name|-a|--array)\b|-{1,2}$", text):
                raise ValueError(
                    f"{text}: a session's queue jobs are known by their names, which begin as `name` says"
                )
        return directives

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> dict[str, Any]:
        """The partition of the job that this process is in, if it is in one."""
        partition = environment.get("SLURM_JOB_PARTITION")
        return {"queue": partition} if partition else {}

    def of_size(self, size: Resources) -> Self:
        """The same settings for queue jobs of another size."""
        sized = super().of_size(size)
        gres = _GPU_GRES.sub(rf"gpu\g<kind>:{size.gpus}", self.gres) if self.gres else None
        return sized.model_copy(update={"gres": gres})


class Slurm(BatchManager[SlurmSettings]):
    """Slurm, by its commands; keeps `WorkloadManager`."""

    def __init__(self, settings: SlurmSettings, environment: Mapping[str, str] = os.environ) -> None:
        super().__init__(settings, environment)
        # Of the jobs that were submitted here.
        self._outputs: dict[str, Path] = {}

    def text(self, worker_class: WorkerClass, contact: Contact, count: int = 1) -> str:
        """The sbatch script for so many workers."""
        load_jobqueue("slurm")
        from dask_jobqueue.slurm import SLURMJob

        settings = worker_class.settings
        assert isinstance(settings, SlurmSettings)
        directives = _directives(settings, contact, self.output(worker_class, contact, "%"), count)
        job = worker_job(SLURMJob)(
            **common_arguments(worker_class, contact, [str(path) for path in contact.certificates or ()]),
            name=_WORKER_NAME,
            shebang=settings.shebang,
            job_extra_directives=list(directives),
            queue=settings.queue,
            account=settings.account,
            walltime=_clock(settings.walltime) if settings.walltime else None,
            # dask-jobqueue's own would be whole GB.
            job_mem=f"{math.ceil(settings.memory / 2**20)}M",
        )
        # Not by splitlines, to which other characters end lines, too.
        lines = [line for line in job.job_header.split("\n") if not _is_skipped(line, settings.job_directives_skip)]
        job.job_header = "\n".join([*lines, *(f"#SBATCH {text}" for text in settings.job_extra_directives)])
        return str(job.job_script())

    def check(self, worker_class: WorkerClass, contact: Contact) -> None:
        """Have sbatch test the job, without submitting it.

        Raises:
            ClusterError: Slurm would refuse it, no node is large enough, or sbatch is not there.
        """
        answer = self._commands.run("sbatch", "--test-only", text=self.text(worker_class, contact))
        if answer.returncode == 0:
            return
        # That is also what is said while all nodes that would do are down, when the job may well wait.
        if "Requested node configuration is not available" in answer.stderr:
            self._check_nodes(worker_class)
        else:
            raise _refused(worker_class, answer)

    def submit(self, worker_class: WorkerClass, contact: Contact, count: int) -> list[str]:
        """Submit a job, or an array of jobs, for so many workers.

        Raises:
            ClusterError: Slurm refused it, with its own words.
        """
        self._make_folders(worker_class, contact)
        answer = self._commands.run("sbatch", "--parsable", text=self.text(worker_class, contact, count))
        # With several clusters under one roof: number;cluster.
        number = answer.stdout.strip().partition(";")[0]
        if answer.returncode != 0 or not number.isdecimal():
            raise _refused(worker_class, answer)
        identifiers = [number] if count == 1 else [f"{number}_{task}" for task in range(1, count + 1)]
        self._outputs |= {identifier: self.output(worker_class, contact, identifier) for identifier in identifiers}
        return identifiers

    def look(self, contact: Contact) -> dict[str, QueuedJob]:
        """All queue jobs of a session, by one call of squeue.

        Raises:
            ClusterError: squeue does not answer.
        """
        lines = self._squeue("--name", contact.name, "--states", "all")
        return {job.identifier: self._judged(job) for job in map(_job_of_squeue, lines)}

    def fate(self, contact: Contact, identifier: str) -> QueuedJob | None:
        """What became of a job, as sacct tells it; None where it knows nothing or does not answer."""
        # Where no database keeps accounts there may be a file, which does not know the elements of arrays.
        for source in ((), ("--completion",))[: 1 if "_" in identifier else 2]:
            try:
                answer = self._commands.run(
                    *("sacct", *source, "--allocations", "--noheader", "--parsable2"),
                    *("--jobs", identifier, "--format", "State,ExitCode,NodeList"),
                )
            except ClusterError:
                return None
            if answer.returncode == 0 and answer.stdout.strip():
                job = _job_of_sacct(identifier, _lines(answer.stdout)[-1])
                return self._judged(job) if job.state == "ended" else None
        return None

    def explain(self, contact: Contact, identifier: str) -> str:
        """Why a job waits, and when Slurm expects it to start.

        Raises:
            ClusterError: squeue does not answer.
        """
        for line in self._squeue("--name", contact.name, "--jobs", identifier):
            job, start = _job_of_squeue(line), line.split("|")[4]
            if job.state in ("waiting", "held"):
                return f"{job.words}; expected to start at {start}" if start[:1].isdecimal() else job.words
        return ""

    def cancel(self, identifiers: Sequence[str]) -> None:
        """Cancel jobs.

        Raises:
            ClusterError: scancel does not answer.
        """
        if not identifiers:
            return
        answer = self._commands.run("scancel", *identifiers)
        gone = ("Invalid job id", "already completing or completed")
        if answer.returncode != 0 and not all(any(text in line for text in gone) for line in _lines(answer.stderr)):
            raise _silent("scancel", in_its_own_words(answer))

    def cancel_all(self, contact: Contact) -> list[str]:
        """The command that cancels all jobs of a session."""
        return self._commands.line("scancel", "--name", contact.name)

    def output(self, worker_class: WorkerClass, contact: Contact, identifier: str) -> Path:
        """The file that a job writes to, again after a requeue."""
        return self._output_folder(worker_class, contact) / f"slurm-{identifier}.log"

    def _judged(self, job: QueuedJob) -> QueuedJob:
        """The job, said to have used too much memory if Slurm says so in the job's own output only.

        That is so where it watches memory by itself, not by control groups.
        """
        output = self._outputs.get(job.identifier)
        if job.words != how_it_ended(0, signal.SIGKILL) or output is None or not output.exists():
            return job
        with output.open("rb") as handle:
            handle.seek(max(0, output.stat().st_size - _TAIL_BYTES))
            if not _OVER_MEMORY.search(handle.read()):
                return job
        cause, words = _ENDED["OUT_OF_MEMORY"]
        return replace(job, cause=cause, words=words)

    def _squeue(self, *options: str) -> list[str]:
        answer = self._commands.run("squeue", "--noheader", "--array", *options, "--Format", _FIELDS)
        if answer.returncode != 0 and "Invalid job id" not in answer.stderr:
            raise _silent("squeue", in_its_own_words(answer))
        return _lines(answer.stdout)

    def _check_nodes(self, worker_class: WorkerClass) -> None:
        """Check that some node, be it down at the moment, is as large as a class of workers."""
        offers, settings = worker_class.offers, worker_class.settings
        assert isinstance(settings, SlurmSettings)
        asked = [name for name in (settings.queue or "").split(",") if name]
        answer = self._commands.run("sinfo", "--noheader", "--Node", "--format", "%P|%c|%m|%G")
        if answer.returncode != 0:
            raise _silent("sinfo", in_its_own_words(answer))
        largest = (0, 0, 0)
        for line in _lines(answer.stdout):
            partition, cores, memory, gres = line.split("|")
            if not (partition.rstrip("*") in asked if asked else partition.endswith("*")):
                continue
            gpus = sum(int(match["number"] or 1) for match in _GPU_GRES.finditer(gres))
            node = (int(cores.rstrip("+")), int(memory.rstrip("+")) * 2**20, gpus)
            if offers.fits(Resources(cores=node[0], memory=node[1], gpus=node[2])):
                return
            largest = max(largest, node)
        where = f"partition {settings.queue}" if settings.queue else "the default partition"
        raise ClusterError(
            f"no node of {where} is large enough for a worker of class {worker_class.name!r} ({offers}); "
            f"the largest has {Resources(cores=largest[0] or 1, memory=largest[1] or None, gpus=largest[2])}",
            "ask for less, or for another queue; `sinfo --Node --long` lists the nodes",
        )


def _directives(settings: SlurmSettings, contact: Contact, output: Path, count: int) -> Iterator[str]:
    """What is asked for besides what dask-jobqueue knows; `output` has a % for the job's identifier."""
    yield f"-D {_quoted(str(contact.folder))}"
    identified = output.name.replace("%", "%A_%a" if count > 1 else "%j")
    yield f"-o {_quoted(str(output.parent).replace('%', '%%') + '/' + identified)}"
    # After a requeue the same file is written to.
    yield "--open-mode=append"
    if count > 1:
        yield f"--array=1-{count}"
    if settings.qos:
        yield f"--qos={settings.qos}"
    if settings.constraint:
        yield f"--constraint={_quoted(settings.constraint)}"
    if gres := settings.gres or (f"gpu:{settings.gpus}" if settings.gpus else None):
        yield f"--gres={gres}"
    if settings.exclusive:
        yield "--exclusive"


def _is_skipped(line: str, skipped: Sequence[str]) -> bool:
    return line.removeprefix("#SBATCH ").startswith(tuple(skipped))


def _quoted(text: str) -> str:
    """A text as sbatch reads it in a directive."""
    if re.fullmatch(r"[\w@%+=:,./-]+", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _clock(seconds: int) -> str:
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _refused(worker_class: WorkerClass, answer: CompletedProcess[str]) -> ClusterError:
    words = in_its_own_words(answer)
    if "Unable to contact slurm controller" in words:
        return _silent("sbatch", words)
    return ClusterError(
        f"Slurm refuses workers of class {worker_class.name!r}: {words}",
        "correct the cluster's settings; `sinfo` lists partitions, `sacctmgr show associations` accounts and QOS",
    )


def _silent(command: str, words: str) -> SchedulerSilent:
    return SchedulerSilent(f"Slurm does not answer {command}: {words}", "see whether it runs: scontrol ping")


def _job_of_squeue(line: str) -> QueuedJob:
    """A line of squeue in the format of `_FIELDS`."""
    identifier, state, status, host, _, reason = line.split("|")[:6]
    # The status as wait() gives it.
    return _job(identifier, state, int(status) >> 8, int(status) & 127, "" if host == "n/a" else host, reason)


def _job_of_sacct(identifier: str, line: str) -> QueuedJob:
    """A line of sacct: State|ExitCode|NodeList, such as CANCELLED by 1000|0:15|n1."""
    state, status, nodes = line.split("|")[:3]
    state, _, user = state.partition(" by ")
    code, _, number = status.partition(":")
    host = "" if nodes in ("None assigned", "(null)") else nodes
    job = _job(identifier, state, int(code), int(number or 0), host, "")
    return replace(job, words=f"{job.words} by {_user(user)}") if user else job


def _user(number: str) -> str:
    try:
        return pwd.getpwuid(int(number)).pw_name
    except (KeyError, ValueError):
        return f"user {number}"


def _job(identifier: str, state: str, code: int, number: int, host: str, reason: str) -> QueuedJob:
    """A job, given its state, its exit code, the signal that killed it, where it runs or ran, and Slurm's reason."""
    if state in _WAITING:
        held = state in _HELD or re.search("held|hold", reason, re.IGNORECASE)
        return QueuedJob(identifier, "held" if held else "waiting", _told(reason))
    if state == "CONFIGURING":
        return QueuedJob(identifier, "waiting", "its node is being made ready", host=host)
    if state in _ENDED:
        cause, words = _ENDED[state]
        return QueuedJob(identifier, "ended", words.format(host=host or "there"), cause, host)
    if state == "FAILED":
        return QueuedJob(identifier, "ended", _failure(code, number), "failed", host)
    words = "suspended" if state in ("SUSPENDED", "STOPPED") else ""
    return QueuedJob(identifier, "running", words, host=host)


def _failure(code: int, number: int) -> str:
    if number == _NOT_LAUNCHED:
        return "its node could not start it: perhaps its output folder is not there, or not writable"
    return how_it_ended(code, number)


def _told(reason: str) -> str:
    """Slurm's reason, and what it means where the word alone says little."""
    if reason == "None":
        return "Slurm has not looked at it yet"
    word = reason.partition(",")[0]
    meaning = _MEANINGS.get(word) or next((told for start, told in _LIMITS.items() if word.startswith(start)), "")
    return f"{reason}: {meaning}" if meaning else reason


SLURM = ClusterType(SlurmSettings, Slurm)
