"""One task of the Pipeline, run in the session's process with its jobs on the stage's workers."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from hashlib import blake2b
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from surgeline.adopt.engine import INFRASTRUCTURE, PIPELINE, Engine, current
from surgeline.adopt.installing import install, without_xvfb
from surgeline.adopt.keptfiles import changeable, noting_names, set_aside
from surgeline.adopt.listedimages import ListedFile, listed_files
from surgeline.adopt.qualityscores import scores_of
from surgeline.context.legacy import read_pickled_context
from surgeline.context.records import Fact, PipelineStage, QualityScore
from surgeline.errors import BadInput, DataError, JobFailed, nearest
from surgeline.paths import PIPELINE_FOLDER, partial
from surgeline.work.procedure import StageWorkers

FIRST_TASK = "h_init"
# How a traceback ends.
_TOLD_ERROR = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt): .+", re.MULTILINE)
_CONTEXTS = "its contexts are in contexts/ of the working folder: put it back, or begin anew: surgeline resume --from"


@dataclass(frozen=True)
class TaskCall:
    """A call of a task of the Pipeline.

    Attributes:
        stage: the stage that it is.
        task: its name; `h_init` makes a new context.
        arguments: what it is called with.
        project: what a new context is told of the project, by record and name.
        intents: what a new context is told that the processing is for.
        before: the stage before it; None for the first.
        version: the version of the session's context that the stage began at.
        kept: where the Pipeline's context goes, relative to the working folder.
    """

    stage: str
    task: str
    arguments: Mapping[str, Any]
    project: Mapping[str, Mapping[str, Any]]
    intents: Mapping[str, str]
    before: PipelineStage | None
    version: int
    kept: str

    def __repr__(self) -> str:
        return f"{self.task}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


@dataclass(frozen=True)
class Conducted:
    """What came of a task.

    Attributes:
        stage: what it left.
        facts: what the Pipeline's context says, all of it.
        scores: how well the task went.
        images: those that the context lists.
        moved: what an attempt that was interrupted had left, and was moved out of the way: from where, and where to.
    """

    stage: PipelineStage
    facts: tuple[Fact, ...]
    scores: tuple[QualityScore, ...]
    images: tuple[ListedFile, ...]
    moved: tuple[tuple[str, str], ...] = ()


def conduct(workers: StageWorkers, call: TaskCall) -> Conducted:
    """Run a task of the Pipeline, and keep its context; the current directory is the session's working folder.

    Args:
        workers: of the stage.
        call: the task.

    Raises:
        BadInput: no copy of the Pipeline can be imported, or it has no such task.
        DataError: the context that the stage before left is not there any more, or has been changed.
        JobFailed: the task failed; says why.
    """
    workdir = Path.cwd()
    folder = workdir / PIPELINE_FOLDER
    folder.mkdir(exist_ok=True)
    with _installed(workers) as engine, redirect_stdout(sys.stderr):
        os.chdir(folder)
        cli = import_module(f"{PIPELINE}.cli")
        moved = _begin(engine, cli, call, workdir)
        # Whatever comes of it, what is in memory is not what the stage before left any more.
        engine.holds = ""
        started = time.time()
        with noting_names(workdir, call.stage, call.version):
            context, result = _run(cli, call)
        ended = time.time()
        digest = _keep(context, workdir / call.kept)
        engine.holds = digest
        weblog = Path(PIPELINE_FOLDER, context.report_dir, "index.html")
        stage = PipelineStage(
            stage=call.stage,
            task=call.task,
            number=context.task_counter,
            began_at=call.version,
            context=call.kept,
            digest=digest,
            data=changeable(folder, Path(context.report_dir)),
            weblog=str(weblog) if (workdir / weblog).is_file() else "",
            started=started,
            ended=ended,
        )
        translated = read_pickled_context(workdir / call.kept, trusted=True)
        scores = tuple(scores_of(call.stage, result))
        return Conducted(stage, translated.facts, scores, tuple(listed_files(context, folder)), moved)


@contextmanager
def _installed(workers: StageWorkers) -> Iterator[Engine]:
    if current() is None:
        without_xvfb()
        install(workers.backend)
    engine = current()
    assert engine is not None
    with engine.on(workers):
        yield engine


def _begin(engine: Engine, cli: Any, call: TaskCall, workdir: Path) -> tuple[tuple[str, str], ...]:
    """Have the Pipeline be as the stage before left it."""
    if call.before is not None and engine.holds == call.before.digest:
        return ()
    moved = set_aside(workdir, call.before.began_at if call.before is not None else -1, call.version)
    if call.before is not None:
        kept = workdir / call.before.context
        if not kept.is_file():
            raise DataError(f"{kept}, the Pipeline's context after {call.before.stage}, is gone", _CONTEXTS)
        if _digest(kept) != call.before.digest:
            raise DataError(f"{kept} is not what stage {call.before.stage!r} left there", _CONTEXTS)
        cli.h_resume(filename=str(kept))
    return moved


def _run(cli: Any, call: TaskCall) -> tuple[Any, Any]:
    """The context after a task, and the task's result."""
    arguments = dict(call.arguments)
    if call.intents:
        arguments["processing_intents"] = _known_intents(call)
    task = _task(cli, call.task)
    if "parallel" in signature(task).parameters:
        # Most tasks give nothing to workers unless they are told to, and no procedure tells them.
        arguments.setdefault("parallel", "automatic")
    try:
        result = task(**arguments)
    except Exception as error:
        raise JobFailed(
            f"the Pipeline's task {call.task} failed: {_reason(error)}",
            f"its weblog is in {PIPELINE_FOLDER}/ of the working folder, and logs/casa-session.out has what it said",
        ) from error
    if call.task == FIRST_TASK:
        _tell_project(result, call)
        return result, None
    return import_module(f"{PIPELINE}.h.cli.utils").get_context(), result


def _reason(error: Exception) -> str:
    """The last error that an error's text tells of: the Pipeline has whole tracebacks in it; else all of the text."""
    told = _TOLD_ERROR.findall(str(error))
    return told[-1] if told else f"{type(error).__name__}: {error}"


def _task(cli: Any, name: str) -> Any:
    """A task by its name; some are in modules of their own alone."""
    if hasattr(cli, name):
        return getattr(cli, name)
    part = name.partition("_")[0]
    try:
        return getattr(import_module(f"{PIPELINE}.{part}.cli.{name}"), name)
    except (ImportError, AttributeError) as error:
        known = [known for known in vars(cli) if known.startswith(f"{part}_")]
        raise BadInput(f"this copy of the Pipeline has no task {name!r}", nearest(name, known)) from error


def _known_intents(call: TaskCall) -> dict[str, Any]:
    """Those intents that this copy of the Pipeline knows, and those that its procedure's name tells of."""
    known = import_module(f"{INFRASTRUCTURE}.executeppr").KNOWN_PROCESSING_INTENTS
    procedure = call.project.get("ProjectStructure", {}).get("recipe_name")
    told = {name: True for name, procedures in known.items() if procedure in procedures}
    return told | {name: value for name, value in call.intents.items() if name in known}


def _tell_project(context: Any, call: TaskCall) -> None:
    """Tell a new context of the project; of performance, what it wants to know."""
    wanted = vars(context.project_performance_parameters) if call.intents else {}
    performance = {name: value for name, value in call.intents.items() if name in wanted}
    for record, said in {**call.project, "PerformanceParameters": performance}.items():
        for name, value in said.items():
            context.set_state(record, name, value)


def _keep(context: Any, place: Path) -> str:
    """Keep a context in a file that appears when it is complete; the digest of what is in it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = partial(place)
    context.save(str(unfinished))
    digest = _digest(unfinished)
    unfinished.replace(place)
    return digest


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        digest = blake2b(digest_size=16)
        while block := content.read(2**20):
            digest.update(block)
    return digest.hexdigest()
