"""What a stage is, and where the known ones are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from pydantic import BaseModel, ConfigDict

from surgeline.context.records import Fact
from surgeline.context.store import AnyFact, Context
from surgeline.errors import DataError, RecipeError, nearest
from surgeline.work.procedure import Procedure

_MODULES = {
    "import": "import_data",
    "flag": "flag",
    "set_model": "set_model",
    "bandpass": "bandpass",
    "gaincal": "gaincal",
    "fluxscale": "fluxscale",
    "applycal": "applycal",
    "continuum_subtract": "continuum_subtract",
    "plan_images": "plan_images",
    "make_images": "make_images",
    "moments": "moments",
    "export": "export",
}


class Parameters(BaseModel):
    """What a recipe may override of a stage; each stage has its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Stage:
    """What a stage is given: its name in the recipe, the observations, what is known, and how many workers."""

    name: str
    vis: tuple[str, ...]
    context: Context
    workers: int

    def known(self, kind: type[AnyFact], /, **equal: Any) -> list[AnyFact]:
        """The facts of a kind that earlier stages committed, oldest first."""
        return self.context.all(kind, **equal)

    def required(self, kind: type[AnyFact], /, **equal: Any) -> AnyFact:
        """The latest fact of a kind.

        Raises:
            DataError: no earlier stage has committed one.
        """
        fact = self.context.last(kind, **equal)
        if fact is None:
            of = ", ".join(f"{name} {value}" for name, value in equal.items())
            raise DataError(
                f"stage {self.name!r} needs {kind.__name__} facts{' of ' + of if of else ''}, "
                "and no stage before it made any",
                "put the stage that makes them before it in the recipe",
            )
        return fact


@dataclass(frozen=True)
class StageDefinition:
    """A known stage: its parameters and its procedure."""

    parameters: type[Parameters]
    run: Callable[[Stage, Any], Procedure[list[Fact]]]


def stage_names() -> tuple[str, ...]:
    """The names that a recipe's `task` may have."""
    return tuple(_MODULES)


@cache
def find_stage(task: str) -> StageDefinition:
    """Look a stage up by the name of its task.

    Raises:
        RecipeError: there is none of that name.
    """
    if task not in _MODULES:
        raise RecipeError(f"no known stage is called {task!r}", nearest(task, _MODULES))
    module = import_module(f"surgeline.stages.{_MODULES[task]}")
    return StageDefinition(module.Parameters, module.run)
