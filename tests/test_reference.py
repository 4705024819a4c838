"""What the reference of the Python interface lists says what its users have to know."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from support import ROOT
from surgeline import errors

LISTED = re.findall(r"^::: (surgeline[\w.]*)$", (ROOT / "docs" / "reference" / "python.md").read_text(), re.MULTILINE)


def found(name: str) -> Any:
    """The object of a dotted name."""
    module, _, attribute = name.rpartition(".")
    try:
        return import_module(name)
    except ModuleNotFoundError:
        return getattr(import_module(module), attribute)


def functions(documented: Any) -> Iterator[tuple[str, Any, str]]:
    """What is listed, where it is a function, or else its methods; and what is said of each."""
    if inspect.isfunction(documented):
        yield documented.__name__, documented, inspect.getdoc(documented) or ""
        return
    for name, member in vars(documented).items():
        function = getattr(member, "__func__", member)
        if not inspect.isfunction(function) or (name.startswith("_") and name != "__init__"):
            continue
        of_class = inspect.getdoc(documented) or ""
        yield name, function, f"{of_class}\n{inspect.getdoc(function) or ''}"


def is_told(error: str, told: str) -> bool:
    """Whether an error is named, or one that it is a kind of."""
    kinds = getattr(errors, error).__mro__ if hasattr(errors, error) else ()
    return any(kind in told for kind in (error, *(kind.__name__ for kind in kinds[:-3])))


@pytest.mark.parametrize("name", LISTED)
def test_what_is_public_has_a_docstring(name: str) -> None:
    documented = found(name)
    assert (inspect.getdoc(documented) or "").strip()
    assert documented.__doc__, f"{name} has only what it inherits"


@pytest.mark.parametrize("name", LISTED)
def test_every_parameter_is_told_of_and_every_error_that_is_raised(name: str) -> None:
    documented = found(name)
    if inspect.ismodule(documented) or (inspect.isclass(documented) and issubclass(documented, Exception)):
        return
    missing = []
    for function, where, told in functions(documented):
        # What dataclasses and pydantic write has no text; their fields are told of by their class.
        if not where.__code__.co_filename.startswith(str(ROOT)):
            continue
        written = ast.parse(textwrap.dedent(inspect.getsource(where))).body[0]
        assert isinstance(written, ast.FunctionDef)
        arguments = [*written.args.posonlyargs, *written.args.args, *written.args.kwonlyargs]
        parameters = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
        missing += [f"{function}: {given}" for given in parameters if not re.search(rf"\b{given}\b", told)]
        raised = {
            node.exc.func.id
            for node in ast.walk(written)
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name)
        }
        missing += [f"{function} raises {error}" for error in sorted(raised) if not is_told(error, told)]
    assert missing == []
