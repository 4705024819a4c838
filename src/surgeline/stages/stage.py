"""What a stage is, and where the known ones are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, ConfigDict

from surgeline.context.draft import Draft
from surgeline.context.records import AnyFact, Fact
from surgeline.context.reference import ContextReference
from surgeline.context.view import View
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
    "self_calibrate": "self_calibrate",
    "make_images": "make_images",
    "combine_pointings": "combine_pointings",
    "moments": "moments",
    "export": "export",
}


# Entry points by which a package brings stages of its own: a task's name and the module that holds it.
_PLUGINS = "surgeline.stages"


class Parameters(BaseModel):
    """What a recipe may override of a stage; each stage has its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Stage:
    """What a stage is given: its name in the recipe, the observations, what is known, and how many workers.

    `recipe` is the recipe's name; `reference` is what its jobs may carry to ask for facts of the same version;
    `memory` is what each worker gives a job, in bytes, where that is known: work that can be cut is cut to fit it;
    `cores` is how many each of its jobs has; `gpus` is how many jobs can have a GPU at once, where that is known.
    """

    name: str
    vis: tuple[str, ...]
    context: View
    workers: int
    recipe: str = ""
    reference: ContextReference | None = None
    memory: int | None = None
    cores: int = 1
    gpus: int | None = None
    # What accepted drafts add to the stage's own commit, and take back with it.
    accepted: list[Fact] = field(default_factory=list)
    taken_back: list[tuple[type[Fact], str]] = field(default_factory=list)

    def draft(self) -> Draft:
        """A transient workspace: what it says becomes part of the stage's commit when it is accepted, or vanishes."""

        def accept(added: Sequence[Fact], removed: Sequence[tuple[type[Fact], str]], **_: object) -> int:
            self.accepted.extend(added)
            self.taken_back.extend(removed)
            return self.context.version

        return Draft(self.context, accept)

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
    """The names that a recipe's `task` may have: the standard stages, and those that installed packages bring."""
    return (*_MODULES, *(found.name for found in entry_points(group=_PLUGINS)))


@cache
def find_stage(task: str) -> StageDefinition:
    """Look a stage up by the name of its task.

    Raises:
        RecipeError: there is none of that name.
    """
    if task in _MODULES:
        module = import_module(f"surgeline.stages.{_MODULES[task]}")
    else:
        brought = [found for found in entry_points(group=_PLUGINS) if found.name == task]
        if not brought:
            raise RecipeError(f"no known stage is called {task!r}", nearest(task, stage_names()))
        module = brought[0].load()
    return StageDefinition(module.Parameters, module.run)
