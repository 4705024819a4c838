"""What a terminal shows while a session runs: a live table; without one, a plain line for each thing that happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from surgeline.work.outcome import Loss, Outcome
from surgeline.workflow.liveview import View
from surgeline.workflow.queuewatch import Arrival, Wait
from surgeline.workflow.tally import Tally

# Shorter waits in a queue need no words.
_WORTH_TELLING_SECONDS = 5.0


class Progress(Tally):
    """A live view on a terminal that can move its cursor; elsewhere lines."""

    def __init__(self, console: Console, at_first_job: Callable[[], None] | None = None) -> None:
        """Take the console, on which the live view is from `with` on; `at_first_job`: see `Tally`."""
        super().__init__(at_first_job)
        self._console = console
        # The reason that was told last of each wait.
        self._reasons: dict[tuple[str, str], str] = {}
        self._latest_loss = ""
        self._since = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(get_renderable=lambda: View(self.now()), console=self._console, refresh_per_second=4)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, where)

    def began(self, stages: Sequence[str], finished: Sequence[str]) -> None:
        """The session begins with these stages, some of which had finished before."""
        super().began(stages, finished)
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
        super().stage_began(stage)
        self._plainly(f"{stage}: began")

    def job_ended(self, stage: str, ticket: str, outcome: Outcome) -> None:
        """A job has ended."""
        super().job_ended(stage, ticket, outcome)
        if outcome.failure and outcome.failure.kind != "cancelled":
            self._say(f"{stage}: job {outcome.job!r} failed: {outcome.failure.message}")

    def workers_wait(self, waits: Sequence[Wait]) -> None:
        """Stages wait for workers that wait in a queue."""
        super().workers_wait(waits)
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
        super().worker_lost(job, loss)
        told = f"worker {loss.worker.removeprefix('worker-')} died running {job!r} ({loss.how})"
        # Of short jobs it may have had hundreds.
        if told != self._latest_loss:
            self._latest_loss = told
            self._say(told)

    def stage_ended(self, stage: str, error: str | None) -> None:
        """A stage has finished, or failed."""
        super().stage_ended(stage, error)
        line = self.stage(stage)
        seconds = (line.ended or 0.0) - (line.began or 0.0)
        self._plainly(f"{stage}: {line.state} after {seconds:.1f} s, {line.jobs} job" + "s" * (line.jobs != 1))

    def weblog_failed(self, error: str) -> None:
        """The weblog could not be made."""
        self._say(f"the weblog could not be made: {error}")

    def _say(self, text: str) -> None:
        self._console.print(
            f"[{time.monotonic() - self._since:7.1f} s] {text}", markup=False, highlight=False, soft_wrap=True
        )

    def _plainly(self, text: str) -> None:
        if self._live is None:
            self._say(text)
