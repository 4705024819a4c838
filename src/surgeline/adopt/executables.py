"""The Pipeline's jobs as they travel: made in the client, turned into what is called on the worker."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from surgeline.adopt.engine import INFRASTRUCTURE
from surgeline.adopt.snapshots import Snapshot

# The log of the client that a job's casa commands belong to, and the file that they go to on the worker.
COMMANDS = "casa_commands"
DIVERTED = "casa_commands_tier0"


class Executable:
    """A job that travels.

    Attributes:
        logs: where the casa commands belong, and where they are; known once it was made executable.
    """

    def __init__(self) -> None:
        self.logs: dict[str, str] = {}

    def get_executable(self) -> Callable[[], Any]:
        """What does the work when it is called, on the worker."""
        raise NotImplementedError

    def get_name(self) -> str:
        """What the job is called in progress, logs and errors."""
        raise NotImplementedError

    def _divert(self, commands: str) -> str:
        """Have casa commands that belong to a log written to a file of the job's own."""
        handle, path = tempfile.mkstemp(prefix="surgeline-", suffix=".casa_commands.log")
        os.close(handle)
        self.logs = {COMMANDS: commands, DIVERTED: path}
        return path

    def take_commands(self) -> tuple[str, str] | None:
        """The log that the casa commands belong to, and these; None where none was diverted, or taken before."""
        if DIVERTED not in self.logs:
            return None
        path = Path(self.logs.pop(DIVERTED))
        said = path.read_text(encoding="utf-8", errors="replace")
        path.unlink()
        return self.logs[COMMANDS], said


class Tier0PipelineTask(Executable):
    """A task of the Pipeline, with a context that was saved: `cls(cls.Inputs(context, **arguments)).execute()`."""

    def __init__(self, task_cls: type[Any], task_args: Mapping[str, Any], context_path: str) -> None:
        """Make the job.

        Args:
            task_cls: the task's class.
            task_args: arguments of its Inputs.
            context_path: the file that the context was saved to.
        """
        super().__init__()
        self._cls = task_cls
        self._arguments = dict(task_args)
        self._snapshot = Snapshot.of(context_path)
        # Products are named after the stage that is under way here; a worker does not know it.
        self._stage = _naming_template().task

    def get_executable(self) -> Callable[[], Any]:
        """See Executable."""
        context = self._snapshot.load()
        context.logs[COMMANDS] = self._divert(str(Path(context.report_dir, context.logs[COMMANDS])))
        _naming_template().task = self._stage or _registered_name(self._cls)
        task = self._cls(self._cls.Inputs(context, **self._arguments))
        return lambda: task.execute()

    def get_name(self) -> str:
        """See Executable."""
        return self._cls.__name__

    def __str__(self) -> str:
        return f"{self._cls.__name__}({_as_arguments((), self._arguments)})"


class Tier0JobRequest(Executable):
    """A call of a CASA task by the Pipeline's request for it."""

    def __init__(self, creator_fn: Callable[..., Any], job_args: Mapping[str, Any], executor: Any = None) -> None:
        """Make the job.

        Args:
            creator_fn: makes the request.
            job_args: its arguments.
            executor: executes the request, and notes it in the log of casa commands; it travels without its context.
        """
        super().__init__()
        self._creator = creator_fn
        self._arguments = dict(job_args)
        self._executor = _without_context(executor)

    def get_executable(self) -> Callable[[], Any]:
        """See Executable."""
        request = self._creator(**self._arguments)
        executor = self._executor
        if executor is None:
            return lambda: request.execute()
        executor.cmdfile = self._divert(executor.cmdfile)
        return lambda: executor.execute(request, merge=False)

    def get_name(self) -> str:
        """See Executable."""
        return _name_of(self._creator)

    def __str__(self) -> str:
        return f"{_name_of(self._creator)}({_as_arguments((), self._arguments)})"


class Tier0FunctionCall(Executable):
    """A call of any function; one that is given an executor gets a copy of it without its context."""

    def __init__(
        self, fn: Callable[..., Any], *args: Any, executor: Any = None, use_pickle: bool = False, **kwargs: Any
    ) -> None:
        """Make the job.

        Args:
            fn: the function.
            *args: its arguments.
            executor: a further argument of it, by this name, if given.
            use_pickle: taken for the sake of callers: all arguments are pickled, however large.
            **kwargs: its further arguments, by name.
        """
        super().__init__()
        self._function = fn
        self._arguments = args
        self._keywords = kwargs
        self._executor = _without_context(executor)

    def get_executable(self) -> Callable[[], Any]:
        """See Executable."""
        keywords = dict(self._keywords)
        if self._executor is not None:
            self._executor.cmdfile = self._divert(self._executor.cmdfile)
            keywords["executor"] = self._executor
        return lambda: self._function(*self._arguments, **keywords)

    def get_name(self) -> str:
        """See Executable."""
        return _name_of(self._function)

    def __str__(self) -> str:
        return f"{_name_of(self._function)}({_as_arguments(self._arguments, self._keywords)})"


def _without_context(executor: Any) -> Any:
    return None if executor is None else executor.copy(exclude_context=True)


def _naming_template() -> Any:
    return import_module(f"{INFRASTRUCTURE}.filenamer").NamingTemplate


def _registered_name(cls: type[Any]) -> str | None:
    """The name under which a task is known, or the one that runs it for each of several observations; if any."""
    registry = import_module(INFRASTRUCTURE).task_registry
    try:
        name: str = registry.get_casa_task(cls)
    except KeyError:
        known = (entry.casa_task for entry in registry.task_map if getattr(entry.pipeline_class, "Task", None) is cls)
        return next(known, None)
    return name


def _name_of(function: Any) -> str:
    return str(getattr(function, "__name__", None) or type(function).__name__)


def _as_arguments(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> str:
    told = [_short(value) for value in arguments] + [f"{name}={_short(value)}" for name, value in keywords.items()]
    return ", ".join(told)


def _short(value: Any) -> str:
    if isinstance(value, str | bytes) and len(value) > 100:
        return f"{value[:60]!r}…"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:60]}…"
