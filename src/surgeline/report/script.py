"""The commands of a run as a script that plain CASA can run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

from surgeline.context.records import Command
from surgeline.context.view import View
from surgeline.report.units import utc
from surgeline.work.casasignature import signature, task_names

_FOLDERS = ("data", "calibration", "images", "products")
_LINE_LENGTH = 100
# Tasks that are in packages of their own.
_OTHER_TASKS = {"plotms": "casaplotms"}
_PIPELINE_STAGE = "casa_pipeline"


def commands_script(record: Mapping[str, Any], context: View) -> str:
    """The calls of all finished stages, in order, as a Python script for CASA.

    Args:
        record: what `run.json` says of the run.
        context: whose Command facts say what a stage did, where logged calls do not.
    """
    body = [
        "\n".join([_comment(f"Stage {stage['name']}"), *map(_runnable, stage_calls(stage, context))])
        for stage in record.get("stages", [])
        if stage.get("state") == "finished"
    ]
    if not body:
        body = ["# No stage has finished."]
    folders = ", ".join(f'"{folder}"' for folder in _FOLDERS)
    start = f"for folder in ({folders}):\n    os.makedirs(folder, exist_ok=True)"
    return "\n\n".join([_header(record), _imports("\n".join([start, *body])), start, *body]) + "\n"


def stage_calls(stage: Mapping[str, Any], context: View) -> list[str]:
    """What a stage of the record did, as calls without arguments that equal the task's defaults.

    Stages that know better than CASA's log what to run say so in Command facts.
    """
    told = [command.text for command in context.all(Command, stage=stage["name"])]
    logged = [
        text for job in stage.get("jobs", []) if job.get("state") == "finished" for text in job.get("commands") or ()
    ]
    return [without_defaults(text) for text in told or logged]


# Pages are made again and again while a session runs.
@lru_cache(maxsize=4096)
def without_defaults(text: str) -> str:
    """A call of a CASA task less the arguments that equal its defaults; one a line where it is long.

    Any other text is returned as it is.
    """
    call = _single_call(text)
    if call is None:
        return text.strip()
    name = ast.unparse(call.func)
    defaults = _defaults(name)
    arguments = [ast.unparse(argument) for argument in call.args]
    arguments += [ast.unparse(keyword) for keyword in call.keywords if not _is_default(keyword, defaults)]
    line = f"{name}({', '.join(arguments)})"
    if len(line) <= _LINE_LENGTH:
        return line
    return "\n".join([f"{name}(", *(f"    {argument}," for argument in arguments), ")"])


def _single_call(text: str) -> ast.Call | None:
    """The call that a text consists of, or None where it is anything else."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return None
    return tree.body if isinstance(tree.body, ast.Call) else None


@cache
def _defaults(task: str) -> Mapping[str, Any]:
    return signature(task).default_values() if task in task_names() else {}


def _is_default(keyword: ast.keyword, defaults: Mapping[str, Any]) -> bool:
    if keyword.arg is None or keyword.arg not in defaults:
        return False
    try:
        value = ast.literal_eval(keyword.value)
    except ValueError:
        return False
    default = defaults[keyword.arg]
    # To CASA, True is not 1.
    return bool(value == default) and isinstance(value, bool) == isinstance(default, bool)


def _runnable(text: str) -> str:
    """A text as it is where Python can read it, else as a comment."""
    try:
        compile(text, "commands.py", "exec")
    except (SyntaxError, ValueError):
        return _comment(f"not valid Python: {text}")
    return text


def _imports(code: str) -> str:
    """Import the tasks and the modules of the standard library that the code uses."""
    names = {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}
    modules = [f"import {name}" for name in sorted(names & sys.stdlib_module_names)]
    tasks = sorted(names & task_names())
    lines = ["\n".join(modules)]
    if tasks:
        lines.append(f"from casatasks import {', '.join(tasks)}")
        if len(lines[-1]) > _LINE_LENGTH:
            lines[-1] = "\n".join(["from casatasks import (", *(f"    {task}," for task in tasks), ")"])
    lines += [f"from {package} import {task}" for task, package in _OTHER_TASKS.items() if task in names]
    return "\n\n".join(lines)


def _header(record: Mapping[str, Any]) -> str:
    recipe = record.get("recipe") or {}
    began = utc(record.get("started"))
    versions = record.get("versions") or {}
    casa = versions.get("casatasks") or versions.get("casatools") or "unknown"
    if any(stage.get("task") == _PIPELINE_STAGE for stage in record.get("stages", [])):
        use = "For reading: the CASA Pipeline copied and wrote files between these calls, which they need."
    else:
        use = "Run it in an empty folder: python commands.py"
    return "\n".join(
        _comment(line)
        for line in (
            f"The commands of the recipe {recipe.get('name', 'unknown')}, for CASA {casa}.",
            f"Written by surgeline {record.get('surgeline', 'unknown')}; the run began {began} UTC.",
            f"Observations: {_listed(recipe.get('vis') or ())}.",
            use,
        )
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(str, names)) or "none"


def _comment(text: str) -> str:
    # Whatever the text holds, nothing of it may leave the comment's line.
    return "# " + "".join(character if character.isprintable() else " " for character in text)
