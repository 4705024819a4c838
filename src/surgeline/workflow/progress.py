"""What a terminal shows while a session runs: a line for each stage, waiting told apart from working."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from surgeline.work.jobs import Job
from surgeline.work.outcome import Loss, Outcome
from surgeline.work.taskqueue import Backend
from surgeline.workflow.queuewatch import Arrival, Wait

# Shorter waits in a queue need no words.
_WORTH_TELLING_SECONDS = 5.0


@dataclass
class _Line:
    state: str = "waiting"
    began: float = 0.0
    ended: float = 0.0
    jobs: int = 0
    done: int = 0
    failed: int = 0
    pending: dict[str, tuple[str, Backend]] = field(default_factory=dict)


class Progress:
    """A live table on a terminal; without one, a plain line for each thing that happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: dict[str, _Line] = {}
        self._lock = threading.Lock()
        self._waits: Sequence[Wait] = ()
        # The reason that was told last of each wait.
        self._reasons: dict[tuple[str, str], str] = {}
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(get_renderable=self._table, console=self._console, refresh_per_second=4)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, where)

    def began(self, stages: Sequence[str], finished: Sequence[str]) -> None:
        """The session begins with these stages, some of which had finished before."""
        self._lines = {name: _Line("finished before" if name in finished else "waiting") for name in stages}
        if finished:
            self._say(f"{len(finished)} of {len(stages)} stages had finished before")

    def runs_again(self, stage: str, reason: str) -> None:
        """A stage that had finished runs again."""
        self._say(f"{stage} runs again: {reason}")

    def notice(self, text: str) -> None:
        """Something that a user wants to know happens."""
        self._say(text)

    def starting_workers(self, description: str) -> None:
        """Workers are being started."""
        self._say(f"starting {description}")

    def stage_began(self, stage: str) -> None:
        """A stage's heuristics begin."""
        with self._lock:
            self._lines[stage] = _Line("running", time.monotonic())
        self._plainly(f"{stage}: began")

    def job_added(self, stage: str, ticket: str, job: Job, backend: Backend) -> None:
        """A stage has put a job into its queue."""
        with self._lock:
            line = self._lines[stage]
            line.jobs += 1
            line.pending[ticket] = (job.declared.name, backend)

    def job_ended(self, stage: str, ticket: str, outcome: Outcome) -> None:
        """A job has ended."""
        with self._lock:
            line = self._lines[stage]
            line.done += 1
            line.failed += not outcome.ok
            line.pending.pop(ticket, None)
        if outcome.failure and outcome.failure.kind != "cancelled":
            self._say(f"{stage}: job {outcome.job!r} failed: {outcome.failure.message}")

    def workers_wait(self, waits: Sequence[Wait]) -> None:
        """Stages wait for workers that wait in a queue."""
        with self._lock:
            self._waits = tuple(waits)
        there = {(wait.cluster, wait.kind) for wait in waits}
        self._reasons = {key: reason for key, reason in self._reasons.items() if key in there}
        for wait in waits:
            key = (wait.cluster, wait.kind)
            if wait.seconds >= _WORTH_TELLING_SECONDS and self._reasons.get(key) != wait.reason:
                self._reasons[key] = wait.reason
                self._plainly(f"{', '.join(wait.stages)}: {wait}")

    def workers_came(self, arrival: Arrival) -> None:
        """Workers came out of a queue."""
        self._say(str(arrival))

    def worker_lost(self, job: str, loss: Loss) -> None:
        """A worker died running a job."""
        self._say(f"worker {loss.worker.removeprefix('worker-')} died running {job!r} ({loss.how})")

    def stage_ended(self, stage: str, error: str | None) -> None:
        """A stage has finished, or failed."""
        with self._lock:
            line = self._lines[stage]
            line.state, line.ended = ("failed" if error else "finished"), time.monotonic()
        self._plainly(
            f"{stage}: {line.state} after {line.ended - line.began:.1f} s, {line.jobs} job" + "s" * (line.jobs != 1)
        )

    def weblog_failed(self, error: str) -> None:
        """The weblog could not be made."""
        self._say(f"the weblog could not be made: {error}")

    def _say(self, text: str) -> None:
        self._console.print(
            f"[{time.monotonic() - self._began:7.1f} s] {text}", markup=False, highlight=False, soft_wrap=True
        )

    def _plainly(self, text: str) -> None:
        if self._live is None:
            self._say(text)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for title in ("stage", "state", "jobs", "time", "now"):
            table.add_column(title, justify="right" if title == "time" else "left", no_wrap=title != "now")
        with self._lock:
            for name, line in self._lines.items():
                table.add_row(name, *self._cells(name, line))
        return table

    def _cells(self, name: str, line: _Line) -> tuple[Any, ...]:
        if not line.began:
            return line.state, "", "", ""
        state, style = line.state, {"failed": "red", "finished": "green"}.get(line.state, "cyan")
        working = [job for ticket, (job, backend) in line.pending.items() if backend.running(ticket)]
        now = ""
        if state == "running" and line.pending:
            state = "working" if working else "waiting for a worker"
            now = ", ".join(working[:3]) + (f" and {len(working) - 3} more" if len(working) > 3 else "")
            told = [now, *(str(wait) for wait in self._waits if name in wait.stages)]
            now = "; ".join(text for text in told if text)
        seconds = (line.ended or time.monotonic()) - line.began
        return Text(state, style), f"{line.done}/{line.jobs}", f"{seconds:.1f} s", Text(now)
