"""A procedure of the CASA Pipeline as a recipe: each of its tasks a stage."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from surgeline.adopt import copies
from surgeline.adopt.conducting import FIRST_TASK
from surgeline.adopt.procedures import Command, Procedure, load
from surgeline.config import Configuration
from surgeline.errors import BadInput, ConfigError, nearest
from surgeline.workflow.recipe import Recipe, parse

# The stage that runs a task of the Pipeline, and where an observatory's requests look for data.
_STAGE = "casa_pipeline"
_ROOT = "SCIPIPE_ROOTDIR"


def recipe_of(path: Path, vis: Sequence[str], configuration: Configuration) -> Recipe:
    """The recipe that runs a procedure, its tasks one after the other.

    Args:
        path: a procedure, or a processing request.
        vis: the observations, with their whole paths; those that a request names unless given.
        configuration: may say where the jobs of a task run.

    Raises:
        BadInput: the file is wrong, no copy of the Pipeline can be imported, or this one has not all of its tasks;
            or there are no observations.
        ConfigError: the configuration speaks of a task that there is not.
        RecipeError: what it says of a task is wrong.
    """
    procedure = load(path)
    _check_tasks(procedure, path, configuration)
    observations = tuple(vis) or tuple(_data_of(procedure, path))
    if not observations and procedure.takes_observations:
        raise BadInput("there is no observation to reduce", "give one with --vis; repeatable")
    first: dict[str, Any] = {"task": FIRST_TASK, "project": _project(procedure)}
    if procedure.intents:
        first["intents"] = dict(procedure.intents)
    stages = [_stage(FIRST_TASK, FIRST_TASK, first, configuration)]
    seen: Counter[str] = Counter()
    for command in procedure.commands:
        seen[command.task] += 1
        # What stands before it in the procedure may change without it being another stage.
        name = command.task if seen[command.task] == 1 else f"{command.task}_{seen[command.task]}"
        stages.append(_stage(name, command.task, _arguments(procedure, command, observations), configuration))
    content = {
        "name": procedure.title,
        "description": f"a procedure of the CASA Pipeline, {path.name}",
        "vis": observations,
        "stages": stages,
    }
    return parse(content, str(path))


def _stage(name: str, task: str, arguments: dict[str, Any], configuration: Configuration) -> dict[str, Any]:
    settings = configuration.settings.casa_pipeline.tasks.get(task)
    said = settings.model_dump(exclude_defaults=True) if settings is not None else {}
    return {"task": _STAGE, "name": name, "arguments": arguments, **said}


def _arguments(procedure: Procedure, command: Command, observations: tuple[str, ...]) -> dict[str, Any]:
    given = procedure.arguments_of(command, observations)
    return {"task": command.task, "arguments": given} if given else {"task": command.task}


def _project(procedure: Procedure) -> dict[str, dict[str, str]]:
    known = {record: dict(said) for record, said in procedure.project.items()}
    return known or {"ProjectStructure": {"recipe_name": procedure.title}}


def _data_of(procedure: Procedure, path: Path) -> Iterable[str]:
    """Where the data are that a request names: below the observatory's folder, or beside the request's."""
    root = os.environ.get(_ROOT)
    raw = (
        Path(root, procedure.relative_path.lstrip("/"), "rawdata") if root else path.absolute().parent / "../rawdata"
    )
    for name in procedure.data:
        found = (raw / name).resolve()
        if not found.exists():
            raise BadInput(
                f"{path} is a request for {name}, and there is no {found}",
                f"give the data with --vis, or set {_ROOT} to the folder that {procedure.relative_path!r} is in",
            )
        yield str(found)


def _check_tasks(procedure: Procedure, path: Path, configuration: Configuration) -> None:
    copy = copies.find()
    known = copy.tasks()
    for command in procedure.commands:
        if command.task not in known:
            raise BadInput(
                f"{path}: the Pipeline in {copy.package} has no task {command.task!r}", nearest(command.task, known)
            )
    for task in configuration.settings.casa_pipeline.tasks:
        if task not in known:
            raise ConfigError(
                f"casa_pipeline.tasks.{task}: the Pipeline in {copy.package} has no such task", nearest(task, known)
            )
