"""How the Pipeline's jobs get to workers, and what they find there."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import cloudpickle

from surgeline.adopt.engine import INFRASTRUCTURE, PIPELINE, Engine, current, needed, pipeline_exception
from surgeline.adopt.executables import Executable
from surgeline.errors import BadInput, ClusterError
from surgeline.work.jobs import FunctionCall
from surgeline.work.outcome import Outcome


@dataclass(frozen=True)
class Surroundings:
    """What a job of the Pipeline wants to find where it runs.

    Attributes:
        home: the folder that the Pipeline is imported from.
        paths: where else Python modules may be.
        folder: the current directory, as the client had it when it made the job.
        everywhere: the calls that the worker has to have made before.
    """

    home: str
    paths: tuple[str, ...]
    folder: str
    everywhere: tuple[bytes, ...]

    @classmethod
    def of(cls, engine: Engine) -> Surroundings:
        """As they are in this process now."""
        paths = tuple(str(Path(path).absolute()) for path in sys.path)
        return cls(engine.home, paths, str(Path.cwd()), tuple(engine.everywhere.values()))

    def enter(self) -> None:
        """Make this process a worker of the Pipeline, unless it is its client, or a worker already.

        Raises:
            BadInput: it has another copy of the Pipeline, or none, or no such folder.
        """
        engine = current()
        if engine is None:
            # Not before: this process may never be given a job of the Pipeline.
            from surgeline.adopt.installing import install_in_worker

            sys.path += [path for path in self.paths if path not in sys.path and Path(path).exists()]
            engine = install_in_worker(self.home, Path(self.folder))
        if engine.home != self.home:
            raise BadInput(
                f"this worker has a copy of the Pipeline from {engine.home}, and the session one from {self.home}",
                "open a backend for each copy",
            )
        if engine.backend is None:
            self._repeat(engine)
        self.enter_folder()

    def enter_folder(self) -> None:
        """Go to the client's folder.

        Raises:
            BadInput: it is not there.
        """
        if not Path(self.folder).is_dir():
            raise BadInput(
                f"{self.folder} is not there on this worker", "run the Pipeline on a filesystem that workers share"
            )
        os.chdir(self.folder)

    def _repeat(self, engine: Engine) -> None:
        for pickled in self.everywhere:
            if pickled not in engine.everywhere.values():
                _, function, arguments, keywords = cloudpickle.loads(pickled)
                function(*arguments, **keywords)
        engine.everywhere = {str(number): pickled for number, pickled in enumerate(self.everywhere)}


@dataclass(frozen=True, repr=False)
class Travelling:
    """A job on its way; what it is made of is unpickled where the Pipeline can be imported.

    Attributes:
        told: the job as the call that it is.
        pickled: an Executable.
        surroundings: what it wants to find.
    """

    told: str
    pickled: bytes
    surroundings: Surroundings

    def __repr__(self) -> str:
        return self.told


@dataclass(frozen=True)
class Returned:
    """What came of a job: its value, and its casa commands with the log that they belong to, if it made any."""

    value: Any
    commands: tuple[str, str] | None


def perform(job: Travelling) -> Returned:
    """Do a job of the Pipeline, on its worker."""
    job.surroundings.enter()
    executable: Executable = cloudpickle.loads(job.pickled)
    naming = import_module(f"{INFRASTRUCTURE}.filenamer").NamingTemplate
    before = naming.task
    try:
        value = executable.get_executable()()
    finally:
        naming.task = before
        commands = executable.take_commands()
    return Returned(value, commands)


def say(job: Travelling) -> Any:
    """Evaluate or run a line of Python that the Pipeline sends to its servers, as these do; gives its value."""
    job.surroundings.enter()
    line, parameters = cloudpickle.loads(job.pickled)
    names = {"os": os, "sys": sys, PIPELINE: import_module(PIPELINE), **parameters}
    try:
        code = compile(line, "<command>", "eval")
    except SyntaxError:
        exec(compile(line, "<command>", "exec"), names)  # nosec B102  # what the Pipeline itself would run
        return None
    return eval(code, names)  # nosec B307  # what the Pipeline itself would run


class Sent:
    """A job that has been sent to the backend.

    Attributes:
        call: the job as the call that it is.
    """

    def __init__(self, executable: Executable) -> None:
        """Send it.

        Raises:
            BadInput: Surgeline is not installed any more.
            PipelineException: it cannot be pickled.
        """
        engine = needed()
        self._queue = engine.queue()
        self._outcome: Outcome | None = None
        self.call = str(executable)
        try:
            travelling = Travelling(self.call, cloudpickle.dumps(executable), Surroundings.of(engine))
            self._queue.add(FunctionCall(perform, travelling).declare(name=executable.get_name()))
        except ClusterError as error:
            raise pipeline_exception()(str(error)) from error
        except Exception as error:
            raise pipeline_exception()(f"{self.call} cannot travel to a worker: {error}") from error

    def outcome(self) -> Outcome:
        """What came of it, when it has ended."""
        if self._outcome is None:
            (self._outcome,) = self._queue.get_results()
        return self._outcome

    def cancel(self) -> None:
        """Stop it."""
        self._queue.cancel()


def everywhere(
    engine: Engine, function: Callable[..., Any], arguments: tuple[Any, ...], keywords: Mapping[str, Any]
) -> None:
    """Call a function once on each worker, and before any job on those that come later.

    Raises:
        PipelineException: it failed on a worker; says where and why.
    """
    engine.remember(function, arguments, keywords)
    send_everywhere(engine, FunctionCall(Surroundings.enter, Surroundings.of(engine)).declare(name=_name(function)))


def send_everywhere(engine: Engine, job: FunctionCall) -> list[Outcome]:
    """Run a job once on each worker that there is.

    Raises:
        PipelineException: it failed on a worker; says where and why.
    """
    assert engine.backend is not None
    outcomes = engine.backend.exec_everywhere(job)
    failed = [outcome for outcome in outcomes if not outcome.ok]
    if failed:
        raise pipeline_exception()(why(failed[0], job.declared.name))
    return outcomes


def why(outcome: Outcome, call: str) -> str:
    """Which job failed, where and why.

    Args:
        outcome: what came of it.
        call: the job as the call that it is.
    """
    assert outcome.failure is not None
    where = f" on {outcome.worker} ({outcome.host}, process {outcome.process})" if outcome.worker else ""
    lost = "".join(f"\nlost before: {loss.worker}: {loss.how}" for loss in outcome.losses)
    said = f"\n{outcome.failure.traceback}" if outcome.failure.traceback else ""
    return f"{outcome.job} failed{where}: {outcome.failure.message}\nit was {call}{lost}{said}"


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", None) or type(function).__name__)
