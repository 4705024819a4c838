"""What came of a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from surgeline.errors import JobFailed
from surgeline.work.fingerprint import Fingerprint


@dataclass(frozen=True)
class Failure:
    """Why a job failed.

    Attributes:
        kind: exception, reported (a task said so without raising), exit, worker died, out of memory,
            unpicklable or cancelled.
        message: the cause in one line.
        traceback: where there is one, else empty.
    """

    kind: str
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class Loss:
    """A worker that died while it ran a job: which, how and when (Unix time)."""

    worker: str
    how: str
    when: float


@dataclass(frozen=True)
class Outcome:
    """What came of one job: its value or its failure, and what running it took.

    Attributes:
        job: the job's name.
        call: the job as the call that it is.
        started, ended: Unix times, in seconds.
        host, worker, process: where it ran.
        peak_memory: the largest resident size of its process while it ran, in bytes.
        cpu_seconds: the processor time that it used, children included.
        commands: the CASA task calls that it made, as CASA logged them.
        log: the CASA log lines that it made and that matter.
        losses: the workers that died running it before.
        environment: the identity of the machine and versions that it ran with (see `Backend.environments`).
        inputs, outputs: fingerprints of the files that it said it reads or changes, before; and writes or changes,
            after.
    """

    job: str
    call: str
    value: Any = None
    failure: Failure | None = None
    started: float = 0.0
    ended: float = 0.0
    host: str = ""
    worker: str = ""
    process: int = 0
    peak_memory: int = 0
    cpu_seconds: float = 0.0
    commands: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    losses: tuple[Loss, ...] = field(default=())
    environment: str = ""
    inputs: tuple[Fingerprint, ...] = ()
    outputs: tuple[Fingerprint, ...] = ()

    @property
    def ok(self) -> bool:
        return self.failure is None

    def result(self) -> Any:
        """The value of a job that went well.

        Raises:
            JobFailed: naming the job, the cause and where it happened.
        """
        if self.failure is None:
            return self.value
        where = f" on {self.worker} ({self.host})" if self.worker else ""
        raise JobFailed(
            f"{self.job} failed{where}: {self.failure.message}",
            f"it was {self.call}" + (f"\n{self.failure.traceback}" if self.failure.traceback else ""),
        )
