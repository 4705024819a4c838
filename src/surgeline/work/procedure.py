"""Heuristics and jobs in turn: the form of everything that a session runs."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

from surgeline.work.jobs import FunctionCall, Job
from surgeline.work.taskqueue import Backend, TaskQueue

Result = TypeVar("Result")


@dataclass(frozen=True)
class Together:
    """Procedures to run side by side, each at its own pace."""

    procedures: Sequence[Procedure[Any]]


@dataclass(frozen=True)
class Aside:
    """Jobs whose values nothing waits for, such as plots: for workers that have nothing better to do."""

    jobs: Sequence[Job]


@dataclass(frozen=True)
class Everywhere:
    """A job to run once on each worker that there is, such as one that sets workers up; its values are a list."""

    job: Job


@dataclass(frozen=True, repr=False)
class StageWorkers:
    """The workers of a stage, for what runs in the session's process and gives jobs to them itself.

    Attributes:
        backend: theirs.
        open_queue: makes a queue of theirs, whose jobs the session counts among the stage's own.
    """

    backend: Backend
    open_queue: Callable[[], TaskQueue]

    def __repr__(self) -> str:
        return "workers"


@dataclass(frozen=True)
class Here:
    """A call to be made in the session's process, with the stage's workers as its first argument."""

    job: FunctionCall

    def with_workers(self, workers: StageWorkers) -> FunctionCall:
        """The call, with the workers as its first argument."""
        call = copy(self.job)
        object.__setattr__(call, "arguments", (workers, *self.job.arguments))
        return call


# A procedure yields batches of jobs and is sent their values, in order; it returns what it found out.
# Heuristics run between the batches, in the session's process; jobs of a batch run in parallel.
# It may also yield other procedures to run side by side, and is sent what they return; jobs to do aside; a job to
# run everywhere, and is sent its value on each worker; or a call to be made here.
Procedure = Generator[Sequence[Job] | Together | Aside | Everywhere | Here, Any, Result]


def together(procedures: Sequence[Procedure[Result]]) -> Procedure[list[Result]]:
    """Run several procedures side by side, so that their jobs share the workers; returns what each returned."""
    return list((yield Together(procedures)))


def drive(
    procedure: Procedure[Result],
    run_batch: Callable[[Sequence[Job]], Sequence[Any]],
    run_aside: Callable[[Sequence[Job]], None],
    run_everywhere: Callable[[Job], Sequence[Any]],
    run_here: Callable[[Here], Any] | None = None,
) -> Result:
    """Run a procedure to its end.

    Args:
        procedure: what to run.
        run_batch: runs jobs and returns their values in order, or raises; called from several threads at once
            when procedures run side by side.
        run_aside: has jobs run that nothing waits for; called in the same way.
        run_everywhere: runs a job once on each worker and returns its values, or raises; called in the same way.
        run_here: makes a call in the session's process and returns its value, or raises; only sessions can.
    """
    try:
        request = next(procedure)
        while True:
            if isinstance(request, Together):
                with ThreadPoolExecutor(max(1, len(request.procedures)), thread_name_prefix="procedure") as threads:
                    futures = [
                        threads.submit(drive, inner, run_batch, run_aside, run_everywhere, run_here)
                        for inner in request.procedures
                    ]
                values: Any = [future.result() for future in futures]
            elif isinstance(request, Aside):
                run_aside(request.jobs)
                values = []
            elif isinstance(request, Everywhere):
                values = run_everywhere(request.job)
            elif isinstance(request, Here):
                assert run_here is not None, "only a session runs a procedure that makes calls in its process"
                values = run_here(request)
            else:
                values = run_batch(request)
            request = procedure.send(values)
            # While the next batch runs, nothing here holds what came of this one.
            del values
    except StopIteration as stop:
        result: Result = stop.value
        return result
