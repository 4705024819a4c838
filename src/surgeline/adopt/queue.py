"""The Pipeline's TaskQueue: jobs go to workers where there are any, else they run here when results are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from surgeline.adopt.engine import pipeline_exception, slot
from surgeline.adopt.executables import Executable, Tier0FunctionCall, Tier0JobRequest, Tier0PipelineTask
from surgeline.adopt.snapshots import Snapshot, remove, save
from surgeline.adopt.tasks import SentTask, SyncTask
from surgeline.work.jobs import FunctionCall


class _LocalCall:
    """A function call that runs here."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
        self._call = FunctionCall(function, *arguments, **keywords)

    def __call__(self) -> Any:
        return self._call.run()

    def __str__(self) -> str:
        return str(self._call)


class TaskQueue:
    """Runs jobs and gives their results in the order in which they were added.

    Tasks find the context as it was when the first of them was added, since the results were last taken: all of them
    share that one snapshot.
    """

    def __init__(self, parallel: bool = True, executor: Any = None, unique: bool = False) -> None:
        """Make an empty queue.

        Args:
            parallel: whether jobs go to workers, if there are any.
            executor: what executes those jobs for which no other executor is given.
            unique: whether a job that equals one added before is dropped.
        """
        self._executor = executor
        self._unique = unique
        self._async = bool(parallel) and slot() != "serial"
        self._tasks: list[SentTask | SyncTask] = []
        self._hashes: set[str] = set()
        # What came of them: a value, or why there is none.
        self._ended: list[tuple[Any, Exception | None]] = []
        # Of each context of which tasks have been added.
        self._snapshots: dict[int, tuple[Any, Snapshot]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is None:
            self.get_results()
            return
        # What went wrong is what the caller is to see. Jobs end, lest a table is left half written; unless the user
        # interrupts them.
        sent = [task for task in self._tasks if isinstance(task, SentTask)]
        for task in sent if not isinstance(error, Exception) else ():
            task.cancel()
        for task in sent:
            with suppress(pipeline_exception()):
                task.get_result()
        self._drop_snapshots()

    def __call__(self) -> list[Any]:
        """The same as `get_results`."""
        return self.get_results()

    def done(self, clear: bool = False) -> list[Any]:
        """The same as `get_results`."""
        return self.get_results(clear)

    def is_async(self) -> bool:
        """Whether jobs go to workers."""
        return self._async

    def get_results(self, clear: bool = False) -> list[Any]:
        """Wait for all jobs and give their values, in the order added.

        Args:
            clear: whether they are forgotten then.

        Raises:
            PipelineException: some failed; says which, where and why, when all have ended.
        """
        for task in self._tasks[len(self._ended) :]:
            try:
                self._ended.append((task.get_result(), None))
            except pipeline_exception() as error:
                self._ended.append((None, error))
        self._drop_snapshots()
        ended = self._ended
        if clear:
            self._tasks, self._ended = [], []
            self._hashes.clear()
        failed = [error for _, error in ended if error is not None]
        if failed:
            number = f"{len(failed)} of {len(ended)} jobs failed.\n" if len(failed) > 1 else ""
            raise pipeline_exception()(number + "\n".join(str(error) for error in failed)) from failed[0]
        return [value for value, _ in ended]

    def map(self, fn: Callable[..., Any], iterable: Iterable[Iterable[Any]]) -> None:
        """Add a call of a function for each group of arguments."""
        for arguments in iterable:
            self.add_functioncall(fn, *arguments)

    def add_jobrequest(self, fn: Callable[..., Any], job_args: Mapping[str, Any], executor: Any = None) -> None:
        """Add the call of a CASA task.

        Args:
            fn: makes the request for it.
            job_args: its arguments.
            executor: what executes it, instead of the queue's.
        """
        if self._is_known(fn, job_args):
            return
        executor = self._executor if executor is None else executor
        if self._async:
            self._send(Tier0JobRequest(fn, job_args, executor=executor))
        else:
            self._tasks.append(SyncTask(fn(**job_args), executor))

    def add_functioncall(self, fn: Callable[..., Any], *args: Any, use_pickle: bool = False, **kwargs: Any) -> None:
        """Add a call of any function; its argument `executor` loses its context on the way to a worker.

        Args:
            fn: the function.
            *args: its arguments.
            use_pickle: taken for the sake of callers: all arguments are pickled, however large.
            **kwargs: its further arguments, by name.
        """
        if self._is_known(fn, args, kwargs):
            return
        if self._async:
            self._send(Tier0FunctionCall(fn, *args, use_pickle=use_pickle, **kwargs))
        else:
            self._tasks.append(SyncTask(_LocalCall(fn, args, kwargs)))

    def add_pipelinetask(
        self, task_cls: type[Any], task_args: Mapping[str, Any], context: Any, executor: Any = None
    ) -> None:
        """Add a task of the Pipeline.

        Args:
            task_cls: its class.
            task_args: arguments of its Inputs.
            context: the Pipeline's context.
            executor: what executes it if it runs here, instead of the queue's.
        """
        if self._is_known(task_cls, task_args, id(context)):
            return
        executor = self._executor if executor is None else executor
        if self._async:
            self._send(Tier0PipelineTask(task_cls, task_args, self._snapshot(context).path))
        else:
            self._tasks.append(SyncTask(task_cls(task_cls.Inputs(context, **task_args)), executor))

    def _is_known(self, *content: Any) -> bool:
        if not self._unique:
            return False
        from dask.tokenize import tokenize

        identity = str(tokenize(*content))
        known = identity in self._hashes
        self._hashes.add(identity)
        return known

    def _send(self, executable: Executable) -> None:
        self._tasks.append(SentTask(executable))

    def _snapshot(self, context: Any) -> Snapshot:
        if id(context) not in self._snapshots:
            # With the context, lest another gets its identity.
            self._snapshots[id(context)] = (context, save(context))
        return self._snapshots[id(context)][1]

    def _drop_snapshots(self) -> None:
        for _, snapshot in self._snapshots.values():
            remove(snapshot)
        self._snapshots.clear()
