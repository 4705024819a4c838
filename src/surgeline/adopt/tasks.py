"""The tasks that the Pipeline's callers wait for: those sent to a worker, and those that run here."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from surgeline.adopt.engine import pipeline_exception
from surgeline.adopt.executables import Executable
from surgeline.adopt.travelling import Sent, why
from surgeline.work.epochs import forget_epochs


class SentTask:
    """A job that a worker runs; it is sent when this is made."""

    def __init__(self, executable: Executable) -> None:
        """Send the job.

        Args:
            executable: the job.

        Raises:
            PipelineException: it cannot travel.
        """
        self._sent = Sent(executable)
        self._merged = False

    def get_result(self) -> Any:
        """Wait for the job and give its value; its casa commands are then in the Pipeline's log.

        Raises:
            PipelineException: the job failed; says which, where and why.
        """
        outcome = self._sent.outcome()
        if outcome.failure is not None:
            raise pipeline_exception()(why(outcome, self._sent.call))
        returned = outcome.value
        if returned.commands is not None and not self._merged:
            log, said = returned.commands
            with Path(log).open("a", encoding="utf-8") as commands:
                commands.write(said)
            self._merged = True
        return returned.value

    def cancel(self) -> None:
        """Stop the job."""
        self._sent.cancel()


class SyncTask:
    """A task that runs in this process, when its result is asked for."""

    def __init__(self, task: Any, executor: Any = None) -> None:
        """Prepare; nothing runs.

        Args:
            task: what has `execute()`, or can be called.
            executor: executes it, if given.
        """
        self._task = task
        self._executor = executor

    def get_result(self) -> Any:
        """Run the task and give its value.

        Raises:
            PipelineException: it failed; says which and why.
        """
        # As on a worker, where each job begins so.
        forget_epochs()
        try:
            if self._executor is not None:
                return self._executor.execute(self._task)
            return self._task() if callable(self._task) else self._task.execute()
        except Exception as error:
            raise pipeline_exception()(
                f"{self._task} failed here: {type(error).__name__}: {error}\n{traceback.format_exc()}"
            ) from error
