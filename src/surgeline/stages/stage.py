"""What a stage is, and where the known ones are."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, update_wrapper, wraps
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Concatenate, Generic, ParamSpec, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from surgeline.context.draft import Draft
from surgeline.context.records import AnyFact, Fact
from surgeline.context.reference import ContextReference
from surgeline.context.view import View
from surgeline.errors import BadInput, DataError, RecipeError, nearest
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
    "casa_pipeline": "casa_pipeline",
}


# Entry points by which a package brings stages of its own: a task's name, and what `stage` made.
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


Asked = ParamSpec("Asked")
_Run = Callable[[Stage, Any], Procedure[list[Fact]]]


class StageDefinition(Generic[Asked]):
    """A known stage, as `stage` makes it; called, it is the function that it was made from.

    Attributes:
        parameters: what a recipe may say of it.
        run: its procedure, given the stage and its parameters.
    """

    __name__: str

    def __init__(
        self,
        function: Callable[Concatenate[Stage, Asked], Procedure[list[Fact]] | Procedure[None]],
        parameters: type[Parameters],
        call: Callable[[Stage, Any], Procedure[list[Fact]] | Procedure[None]],
    ) -> None:
        """Of a function, and of what calls it with parameters that have been checked."""
        update_wrapper(self, function)
        self._function = function
        self.parameters = parameters
        self.run = _with_facts(function, call)

    @property
    def name(self) -> str:
        """What it is called where it is not an installed package that names it."""
        return self.__name__

    def __call__(
        self, given: Stage, /, *arguments: Asked.args, **keywords: Asked.kwargs
    ) -> Procedure[list[Fact]] | Procedure[None]:
        """The procedure alone: for a stage that has this one as a part, by `yield from`."""
        return self._function(given, *arguments, **keywords)

    def __repr__(self) -> str:
        return f"<stage {self.name}({', '.join(map(str, self.parameters.model_fields))})>"


def stage(
    function: Callable[Concatenate[Stage, Asked], Procedure[list[Fact]] | Procedure[None]],
) -> StageDefinition[Asked]:
    """Make a stage of a generator function, as a decorator.

    The function is given the `Stage`. It yields batches of jobs, which run on workers, is sent their values in the
    same order, and returns the facts that it found out, if any. Its further parameters are what a recipe may say,
    with their types and defaults; where there are many, they are one parameter whose type is a class of `Parameters`.

    What is defined in a script or a notebook can be run there, and its jobs may call functions that are defined
    beside it. A package names it among its entry points `surgeline.stages`.

    Raises:
        BadInput: it is no generator function, has no parameter for the stage, or a type in it is not there.
    """
    name = getattr(function, "__name__", repr(function))
    if not inspect.isgeneratorfunction(function):
        raise BadInput(f"{name} is no stage: it yields no jobs", "a stage is a function with `yield [job, …]` in it")
    of_stage, *asked = inspect.signature(function).parameters.values() or (None,)
    if of_stage is None:
        raise BadInput(f"{name} takes no stage", f"begin it with: def {name}(stage: Stage")
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise BadInput(
            f"stage {name}: {error}, which is the type of something",
            "import it where the stage is defined, not for type checkers alone",
        ) from error
    kinds = [hints.get(parameter.name, Any) for parameter in asked]
    if len(kinds) == 1 and isinstance(kinds[0], type) and issubclass(kinds[0], Parameters):
        return StageDefinition(function, kinds[0], cast(Any, function))
    fields: Any = {
        parameter.name: (kind, ... if parameter.default is parameter.empty else parameter.default)
        for parameter, kind in zip(asked, kinds, strict=True)
    }
    parameters = create_model(name, __base__=Parameters, __module__=function.__module__, **fields)
    return StageDefinition(function, parameters, lambda given, said: cast(Any, function)(given, **dict(said)))


def _with_facts(function: Callable[..., Any], call: Callable[[Stage, Any], Any]) -> _Run:
    """The procedure of a stage's function; it returns facts where that returns nothing."""

    @wraps(function)
    def run(given: Stage, parameters: Any) -> Procedure[list[Fact]]:
        found: list[Fact] | None = yield from call(given, parameters)
        return found or []

    return run


def stage_names() -> tuple[str, ...]:
    """The names that a recipe's `task` may have: the standard stages, and those that installed packages bring."""
    return (*_MODULES, *(found.name for found in entry_points(group=_PLUGINS)))


@cache
def find_stage(task: str) -> StageDefinition[...]:
    """Look a stage up by the name of its task.

    Raises:
        RecipeError: there is none of that name, or what a package brings by it is no stage.
    """
    if task in _MODULES:
        found = import_module(f"surgeline.stages.{_MODULES[task]}").run
    else:
        brought = [found for found in entry_points(group=_PLUGINS) if found.name == task]
        if not brought:
            raise RecipeError(
                f"no known stage is called {task!r}",
                f"{nearest(task, stage_names())}; one that a script or a notebook defined is known there alone",
            )
        found = brought[0].load()
        if not isinstance(found, StageDefinition):
            raise RecipeError(
                f"stage {task!r} is {brought[0].value}, which is no stage",
                "have the package's entry point name a function with the decorator @surgeline.stage",
            )
    assert isinstance(found, StageDefinition)
    return found
