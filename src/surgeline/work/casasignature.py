"""The signatures of casatasks' tasks, read from their source.

Importing casatasks takes seconds and starts CASA. A job is made in the session's process, which may never need
CASA itself, so the names, defaults and types of a task's arguments are taken from the generated module of that
task (`casatasks/<task>.py`: its `__call__` and the `schema` in it) without running any of it.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from surgeline.errors import BadInput, nearest

# What the type names of casatasks' schemas accept, as casatasks' own validator treats them.
_EXPECTED = {
    "cBool": "True or False",
    "cInt": "an integer",
    "cFloat": "a number",
    "cStr": "a text",
    "cPath": "a path",
    "cReqPath": "a path",
    "cDict": "a dictionary",
    "cBoolVec": "a list of True or False",
    "cIntVec": "a list of integers",
    "cFloatVec": "a list of numbers",
    "cStrVec": "a list of texts",
    "cPathVec": "a list of paths",
    "cReqPathVec": "a list of paths",
    "cVariant": "anything",
}


_CONVERSIONS = {"int": int, "float": float, "bool": bool, "str": str}


@dataclass(frozen=True)
class Signature:
    """One task's arguments: their defaults (as source) and the type names that each accepts."""

    task: str
    defaults: Mapping[str, str]
    types: Mapping[str, tuple[str, ...]]

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse an argument that the task does not have, or a value of a type that it does not take.

        Raises:
            BadInput: naming the task, the argument and the nearest valid names or types.
        """
        for name, value in arguments.items():
            if name not in self.defaults:
                raise BadInput(f"{self.task} has no argument {name!r}", nearest(name, self.defaults))
            types = self.types.get(name, ())
            if types and not any(_fits(value, kind) for kind in types):
                expected = " or ".join(dict.fromkeys(_EXPECTED.get(kind, kind) for kind in types))
                raise BadInput(
                    f"{self.task}({name}={value!r}): {name} is {expected}, not {type(value).__name__}",
                    f"its default is {self.defaults[name]}",
                )

    def default_values(self) -> dict[str, Any]:
        """The defaults that are plain values."""
        found = {}
        for name, source in self.defaults.items():
            try:
                found[name] = _literal(ast.parse(source, mode="eval").body)
            except ValueError:
                continue
        return found


def _literal(node: ast.expr) -> Any:
    """The value of a default such as `[ int(-1) ]`: literals, and int, float, bool or str around one."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CONVERSIONS:
        return _CONVERSIONS[node.func.id](*(_literal(argument) for argument in node.args))
    if isinstance(node, ast.List):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    return ast.literal_eval(node)


def _fits(value: Any, kind: str) -> bool:
    import numpy as np

    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if kind.endswith("Vec"):
        single = kind.removesuffix("Vec")
        return (isinstance(value, list | tuple) and all(_fits(item, single) for item in value)) or _fits(
            value, single
        )
    if kind == "cBool":
        return isinstance(value, bool)
    if kind == "cInt":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "cFloat":
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if kind in ("cStr", "cPath", "cReqPath"):
        return isinstance(value, str)
    if kind == "cDict":
        return isinstance(value, dict)
    # cVariant, arrays and quantities take many forms that only CASA can judge.
    return True


@cache
def task_names() -> frozenset[str]:
    """The names of all tasks in the installed casatasks."""
    return frozenset(path.stem for path in _folder().glob("*.py") if not path.stem.startswith("_"))


@cache
def signature(task: str) -> Signature:
    """Read the signature of a casatasks task.

    Raises:
        BadInput: there is no such task.
    """
    if task not in task_names():
        raise BadInput(f"casatasks has no task {task!r}", nearest(task, task_names()))
    with warnings.catch_warnings():
        # The tasks' docstrings are full of escape sequences that Python knows not.
        warnings.simplefilter("ignore")
        tree = ast.parse((_folder() / f"{task}.py").read_text(encoding="utf-8"))
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "__call__")
    names = [argument.arg for argument in call.args.args if argument.arg != "self"]
    defaults = {name: ast.unparse(value) for name, value in zip(names, call.args.defaults, strict=True)}
    types: dict[str, tuple[str, ...]] = {}
    for statement in call.body:
        if (
            isinstance(statement, ast.Assign)
            and isinstance(statement.targets[0], ast.Name)
            and statement.targets[0].id == "schema"
            and isinstance(statement.value, ast.Dict)
        ):
            for key, value in zip(statement.value.keys, statement.value.values, strict=True):
                if isinstance(key, ast.Constant):
                    types[str(key.value)] = tuple(_type_names(value))
    return Signature(task, defaults, types)


def _type_names(node: ast.expr) -> list[str]:
    return [
        str(value.value)
        for part in ast.walk(node)
        if isinstance(part, ast.Dict)
        for key, value in zip(part.keys, part.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "type" and isinstance(value, ast.Constant)
    ]


@cache
def _folder() -> Path:
    found = find_spec("casatasks")
    if found is None or not found.submodule_search_locations:
        raise BadInput("casatasks is not installed", "pip install casatasks")
    return Path(found.submodule_search_locations[0])
