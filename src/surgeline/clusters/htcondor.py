"""Workers that are jobs of HTCondor."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, field_validator

from surgeline.clusters.batch import Cause, Contact, QueuedJob, WorkerClass
from surgeline.clusters.batchmanager import BatchManager
from surgeline.clusters.clustertypes import ClusterType
from surgeline.clusters.commands import how_it_ended, in_its_own_words
from surgeline.clusters.jobtext import common_arguments, load_jobqueue, worker_job
from surgeline.clusters.settings import Bytes, CommandSettings
from surgeline.errors import ClusterError, SchedulerSilent
from surgeline.masking import holds_secret

# Backquotes, since HTCondor takes $( for a macro of its own. A job that starts anew keeps its number.
_WORKER_NAME = (
    '"htcondor-$(ClusterId).$(ProcId)'
    """`sed -n 's/^NumJobStarts = \\([1-9]\\)/-r\\1/p' "$_CONDOR_JOB_AD"`\""""
)
_MACRO = re.compile(r"\$(?=\w*[([])")
# How long HTCondor waits for a machine, or for its own schedd, that does not answer.
_LEASE_SECONDS = 300
# The attribute of our own by which a session's jobs are known.
_SESSION = "SurgelineSession"
_ATTRIBUTES = (
    *("ClusterId", "ProcId", "JobStatus", "NumJobStarts", "RemoteHost", "LastRemoteHost", "LastRejMatchReason"),
    *("HoldReason", "HoldReasonCode", "HoldReasonSubCode", "RemoveReason"),
    *("ExitBySignal", "ExitSignal", "ExitCode"),
)
_IDLE, _RUNNING, _REMOVED, _COMPLETED, _HELD, _SENDING, _SUSPENDED = range(1, 8)
# By HoldReasonCode; and what a machine's own policy says with HoldReasonSubCode, as HTCondor's templates have it.
_CAUSES: Mapping[int, Cause] = {1: "cancelled", 34: "out of memory", 46: "walltime", 47: "walltime"}
_HELD_BY_MACHINE = 21
# What its commands say where no schedd answers.
_NO_SCHEDD = re.compile("can't find address|failed to connect", re.IGNORECASE)
# What its commands themselves read, such as where tokens are.
_OWN = re.compile(r"(?i)_?CONDOR_|BEARER_TOKEN")
_CAUSES_OF_MACHINE: Mapping[int, Cause] = {102: "out of memory"}


def _mapping(directives: Any) -> Any:
    # An empty list is how a configuration for several managers says that there are none.
    return {} if directives == [] else directives


class HTCondorSettings(CommandSettings):
    """What HTCondor's clusters have besides."""

    type: Literal["htcondor"]
    disk: Bytes = 10**9
    requirements: str | None = None
    getenv: bool | str = True
    transfer_files: bool = False
    max_retries: NonNegativeInt | None = None
    accounting_group: str | None = None
    job_extra_directives: Annotated[Mapping[str, Any], BeforeValidator(_mapping)] = Field(default_factory=dict)
    submit_command_extra: tuple[str, ...] = ()
    cancel_command_extra: tuple[str, ...] = ()
    shebang: str = "#!/usr/bin/env condor_submit"
    workers: Mapping[str, HTCondorSettings] = Field(default_factory=dict)

    @field_validator("job_script_prologue")
    @classmethod
    def _one_command_each(cls, commands: tuple[str, ...]) -> tuple[str, ...]:
        for command in commands:
            if "\n" in command:
                raise ValueError("HTCondor has room for one line: write each command as an entry of its own")
        return commands


class HTCondor(BatchManager[HTCondorSettings]):
    """HTCondor, by its commands; keeps `WorkloadManager`."""

    def __init__(self, settings: HTCondorSettings, environment: Mapping[str, str] = os.environ) -> None:
        """Prepare.

        Args:
            settings: the cluster's.
            environment: what queue jobs inherit, but for secrets: condor_q shows it to everybody.
        """
        super().__init__(
            settings,
            {name: value for name, value in environment.items() if _OWN.match(name) or not holds_secret(name, value)},
        )

    def text(self, worker_class: WorkerClass, contact: Contact, count: int = 1) -> str:
        """The submit file for so many workers."""
        load_jobqueue("htcondor")
        from dask_jobqueue.htcondor import HTCondorJob

        settings = worker_class.settings
        assert isinstance(settings, HTCondorSettings)
        certificates = contact.certificates or ()
        job = worker_job(HTCondorJob)(
            **common_arguments(
                worker_class,
                contact,
                [path.name if settings.transfer_files else str(path) for path in certificates],
                _literal,
            ),
            name=_WORKER_NAME,
            shebang=settings.shebang,
            disk=settings.disk,
        )
        skipped = {name.lower() for name in settings.job_directives_skip}
        commands = {**job.job_header_dict, **_commands_of(settings, contact, self.output(worker_class, contact, "%"))}
        commands = {name: value for name, value in commands.items() if name.lower() not in skipped}
        replaced = {name.lower() for name in settings.job_extra_directives}
        job.job_header_dict = {
            **{name: value for name, value in commands.items() if name.lower() not in replaced},
            **settings.job_extra_directives,
            f"MY.{_SESSION}": f'"{contact.name}"',
        }
        return f"{str(job.job_script()).rstrip()} {count}\n"

    def check(self, worker_class: WorkerClass, contact: Contact) -> None:
        """Have condor_submit read the submit file, and ask the schedd whether it takes jobs from us.

        A job that no machine fits waits, and is not refused: machines come and go.

        Raises:
            ClusterError: the submit file is wrong, the schedd does not answer or refuses us, or is not there.
        """
        self._make_folders(worker_class, contact)
        text = self.text(worker_class, contact)
        answer = self._commands.run("condor_submit", "-dry-run", "/dev/null", "-", text=text)
        if answer.returncode != 0:
            raise _refused(worker_class, answer)
        # The dry run asked nobody.
        self._queue(f"{_SESSION} == {json.dumps(contact.name)}")
        answer = self._commands.run("condor_ping", "-type", "SCHEDD", "WRITE")
        if answer.returncode != 0:
            raise _refused(worker_class, answer)

    def submit(self, worker_class: WorkerClass, contact: Contact, count: int) -> list[str]:
        """Submit jobs for so many workers.

        Raises:
            ClusterError: HTCondor refused them, with its own words.
        """
        self._make_folders(worker_class, contact)
        answer = self._commands.run(
            *("condor_submit", "-terse", *self.settings.submit_command_extra, "-"),
            text=self.text(worker_class, contact, count),
        )
        # From the first to the last: 12.0 - 12.3.
        match = re.search(r"^(\d+)\.\d+ - \1\.(\d+)$", answer.stdout, re.MULTILINE)
        if answer.returncode != 0 or match is None:
            raise _refused(worker_class, answer)
        return [f"{match[1]}.{number}" for number in range(int(match[2]) + 1)]

    def look(self, contact: Contact) -> dict[str, QueuedJob]:
        """All queue jobs of a session, by one call of condor_q; those that ended it forgets at once.

        Raises:
            ClusterError: condor_q does not answer.
        """
        jobs = map(_job, self._queue(f"{_SESSION} == {json.dumps(contact.name)}"))
        return {job.identifier: job for job in jobs}

    def fate(self, contact: Contact, identifier: str) -> QueuedJob | None:
        """What became of a job, as condor_history tells it; None where it knows nothing or does not answer."""
        try:
            answer = self._commands.run(
                "condor_history", identifier, "-limit", "1", "-json", "-attributes", ",".join(_ATTRIBUTES)
            )
        except ClusterError:
            return None
        if answer.returncode != 0:
            return None
        found = [_job(advertisement) for advertisement in _advertisements(answer)]
        return found[0] if found else None

    def explain(self, contact: Contact, identifier: str) -> str:
        """Why a job waits, from condor_q's analysis: conditions that no machine meets, and what the machines do.

        Raises:
            ClusterError: condor_q does not answer.
        """
        job = self.look(contact).get(identifier)
        if job is None or job.state != "waiting":
            return job.words if job and job.state == "held" else ""
        answer = self._commands.run("condor_q", "-better-analyze", identifier)
        if answer.returncode != 0:
            raise _silent("condor_q", answer)
        return _condensed(answer.stdout) or job.words

    def cancel(self, identifiers: Sequence[str]) -> None:
        """Remove jobs.

        Raises:
            ClusterError: condor_rm does not answer.
        """
        if not identifiers:
            return
        answer = self._commands.run("condor_rm", *self.settings.cancel_command_extra, *identifiers)
        said = [line for line in (answer.stdout + answer.stderr).splitlines() if line.strip()]
        fine = re.compile(r"Job \S+ (not found|marked for removal|is already .*|already marked .*)")
        if answer.returncode != 0 and not all(fine.match(line) for line in said):
            raise _silent("condor_rm", answer)

    def cancel_all(self, contact: Contact) -> list[str]:
        """The command that removes all jobs of a session."""
        ours = f"{_SESSION} == {json.dumps(contact.name)}"
        remove = shlex.join(["condor_rm", *self.settings.cancel_command_extra, "-constraint", ours])
        # condor_rm fails where there is nothing to remove.
        left = shlex.join(["condor_q", "-constraint", f"{ours} && JobStatus != {_REMOVED}", "-af", "ClusterId"])
        return self._commands.line("sh", "-c", f'{remove}; left=$({left}) && test -z "$left"')

    def output(self, worker_class: WorkerClass, contact: Contact, identifier: str) -> Path:
        """The file that a job's own output goes to."""
        return self._output_folder(worker_class, contact) / f"htcondor-{identifier}.log"

    def _queue(self, constraint: str) -> list[dict[str, Any]]:
        answer = self._commands.run(
            "condor_q", "-constraint", constraint, "-json", "-attributes", ",".join(_ATTRIBUTES)
        )
        if answer.returncode != 0:
            raise _silent("condor_q", answer)
        return _advertisements(answer)


def _commands_of(settings: HTCondorSettings, contact: Contact, output: Path) -> dict[str, Any]:
    """The submit commands besides dask-jobqueue's, or in their place; `output` has a % for the job's identifier."""
    identified = output.name.replace("%", "$(ClusterId).$(ProcId)")
    log = f"{_literal(str(output.parent))}/{identified}"
    commands: dict[str, Any] = {
        "MY.DaskWorkerName": '"htcondor-$(ClusterId).$(ProcId)"',
        "batch_name": contact.name,
        # As numbers, which condor_q's analysis tells as they are; and never less than the worker may use.
        "RequestCpus": settings.cores,
        "RequestMemory": math.ceil(settings.memory / 2**20),
        "RequestDisk": math.ceil(settings.disk / 2**10),
        "initialdir": _literal(str(contact.folder)),
        "output": log,
        "error": log,
        "getenv": settings.getenv,
        # HTCondor's own would keep the job of a machine that is gone for 40 minutes.
        "job_lease_duration": _LEASE_SECONDS,
    }
    if settings.gpus:
        commands["request_gpus"] = settings.gpus
    if settings.walltime:
        # allowed_execute_duration is not kept where no files are transferred (23.9).
        commands["allowed_job_duration"] = settings.walltime
    if settings.requirements:
        commands["requirements"] = settings.requirements
    if settings.max_retries is not None:
        commands["max_retries"] = settings.max_retries
    if settings.accounting_group:
        commands["accounting_group"] = settings.accounting_group
    if settings.transfer_files:
        commands |= {
            "should_transfer_files": "YES",
            "when_to_transfer_output": "ON_EXIT",
            "transfer_executable": False,
            # Relative to `initialdir` where they are: a comma in a path would be the end of it.
            "transfer_input_files": ",".join(
                _literal(path.name if path.parent == contact.folder else str(path))
                for path in contact.certificates or ()
            ),
            # Or all that a worker leaves behind would come back.
            "transfer_output_files": '""',
            "stream_output": True,
            "stream_error": True,
        }
    else:
        commands["should_transfer_files"] = "NO"
    return commands


def _literal(text: str) -> str:
    """A text in which HTCondor sees no macros: the job's shell reads it as it is."""
    return _MACRO.sub("$(DOLLAR)", text)


def _advertisements(answer: CompletedProcess[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(answer.stdout) if answer.stdout.strip() else []
    return found


def _job(said: Mapping[str, Any]) -> QueuedJob:
    """A job, given what its advertisement says."""
    identifier = f"{said['ClusterId']}.{said['ProcId']}"
    status = said["JobStatus"]
    host = str(said.get("RemoteHost") or said.get("LastRemoteHost") or "").partition("@")[2]
    if status == _HELD:
        code, detail = said.get("HoldReasonCode", 0), said.get("HoldReasonSubCode", 0)
        cause = _CAUSES_OF_MACHINE.get(detail) if code == _HELD_BY_MACHINE else _CAUSES.get(code)
        return QueuedJob(
            identifier, "held", f"held: {said.get('HoldReason', 'nobody says why')}", cause or "failed", host
        )
    if status == _REMOVED:
        return QueuedJob(identifier, "ended", _removal(str(said.get("RemoveReason", ""))), "cancelled", host)
    if status == _COMPLETED:
        return _completed(identifier, said, host)
    if status == _IDLE:
        return QueuedJob(identifier, "waiting", _waiting(said))
    return QueuedJob(identifier, "running", "suspended" if status == _SUSPENDED else "", host=host)


def _waiting(said: Mapping[str, Any]) -> str:
    waits = "it waits to start again, on another machine" if said.get("NumJobStarts") else "it waits for a machine"
    reason = str(said.get("LastRejMatchReason", "")).strip()
    return f"{waits}: {reason}" if reason else waits


def _removal(reason: str) -> str:
    user = re.search(r"by user (\S+?)\)", reason)
    if user:
        return f"cancelled by {user[1]}"
    return f"cancelled: {reason}" if reason else "cancelled"


def _completed(identifier: str, said: Mapping[str, Any], host: str) -> QueuedJob:
    code, number = said.get("ExitCode", 0), said.get("ExitSignal", 0) if said.get("ExitBySignal") else 0
    if code == number == 0:
        return QueuedJob(identifier, "ended", "ended by itself", "completed", host)
    return QueuedJob(identifier, "ended", how_it_ended(code, number), "failed", host)


def _condensed(analysis: str) -> str:
    """What tells most of condor_q -better-analyze: conditions that no machine meets, and how many do what."""
    asked = dict(re.findall(r"^ +(Request\w+) = (.+)$", analysis, re.MULTILINE))
    parts = []
    for condition in re.findall(r"^\[\d+\] +0 +(.+)$", analysis, re.MULTILINE):
        condition = re.sub(r"(TARGET|MY)\.", "", condition.strip())
        parts.append("no machine has " + re.sub(r"Request\w+", lambda name: asked.get(name[0], name[0]), condition))
    machines = re.search(r"Of (\d+) machines,\n((?: +\d.*\n)*)", analysis)
    if machines:
        counts = [line.strip() for line in machines[2].splitlines() if not line.strip().startswith("0 ")]
        parts.append(f"of {machines[1]} machines {', '.join(counts)}" if counts else "there are no machines")
    return "; ".join(parts)


def _refused(worker_class: WorkerClass, answer: CompletedProcess[str]) -> ClusterError:
    if _NO_SCHEDD.search(in_its_own_words(answer)):
        return _silent("condor_submit", answer)
    return ClusterError(
        f"HTCondor refuses workers of class {worker_class.name!r}: {in_its_own_words(answer)}",
        "correct the cluster's settings; `surgeline plan` shows what is submitted",
    )


def _silent(command: str, answer: CompletedProcess[str]) -> SchedulerSilent:
    words = in_its_own_words(answer).partition(" / Extra Info")[0]
    return SchedulerSilent(
        f"HTCondor does not answer {command}: {words}", "see whether its schedd runs: condor_status -schedd"
    )


HTCONDOR = ClusterType(HTCondorSettings, HTCondor)
