"""What came of a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from surgeline.errors import JobFailed
from surgeline.work.fingerprint import Fingerprint
from surgeline.work.htmltext import Markup, coloured, element, folded, joined, table

# So much of a value is shown of it.
_MOST_CHARACTERS = 300


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


@dataclass(frozen=True, repr=False)
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
        """Whether the job went well."""
        return self.failure is None

    @property
    def seconds(self) -> float:
        """How long it ran, the last time."""
        return self.ended - self.started

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

    def __repr__(self) -> str:
        came = _short(self.value) if self.failure is None else f"failed ({self.failure.kind}): {self.failure.message}"
        return f"<Outcome of {self.job!r}: {came}; {self._took()}>"

    def _repr_html_(self) -> str:
        """How it is shown in a notebook."""
        if self.failure is None:
            return joined([element("div", joined([self.job, ": ", coloured("finished")])), _details(self)])
        told = [
            element("div", joined([self.job, ": ", coloured("failed"), f" ({self.failure.kind})"])),
            _details(self),
        ]
        if self.failure.traceback:
            told.append(folded("traceback", element("pre", self.failure.traceback)))
        return joined(told)

    def _took(self) -> str:
        where = [f"on {self.worker}"] if self.worker else []
        memory = [f"{self.peak_memory / 1e6:.0f} MB"] if self.peak_memory else []
        lost = [f"{len(self.losses)} workers lost before"] if self.losses else []
        return ", ".join([f"{self.seconds:.3g} s", *where, *memory, *lost])


def _details(outcome: Outcome) -> Markup:
    failure = outcome.failure
    came = ("value", _short(outcome.value)) if failure is None else ("failure", failure.message)
    lost = [("lost", f"{loss.worker}: {loss.how}") for loss in outcome.losses]
    return table(("", ""), [came, ("call", outcome.call), ("took", outcome._took()), *lost])


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
