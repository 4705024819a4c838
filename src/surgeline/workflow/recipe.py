"""A recipe: the stages of a reduction and what each needs, as YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticSerializationError

from surgeline import yamltext
from surgeline.config import Configuration
from surgeline.errors import RecipeError, in_words_of_yaml, nearest
from surgeline.paths import safe_name
from surgeline.stages.stage import StageDefinition, find_stage, stage_names
from surgeline.work.resources import Resources

PACKAGED = Path(__file__).parent.parent / "recipes"


class StageRequest(BaseModel):
    """One stage of a recipe.

    Attributes:
        task: which of the known stages it is, by its name; in Python also what `surgeline.stage` made.
        name: what it is called in this recipe; its task unless given.
        arguments: override what the heuristics would decide.
        cluster: a named cluster of the configuration.
        backend: how its jobs are dispatched, where that is not to be chosen: dask, mpi or serial.
        resources: what each of its jobs needs.
        needs: the names of stages that come before it; the stage before it in the recipe unless given.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    name: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)
    cluster: str | None = None
    backend: Literal["dask", "mpi", "serial"] | None = None
    resources: Resources = Field(default_factory=Resources)
    needs: tuple[str, ...] | None = None
    _own: StageDefinition[...] | None = PrivateAttr(None)

    @model_validator(mode="wrap")
    @classmethod
    def _of_a_stage_itself(cls, said: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        own = said.get("task") if isinstance(said, Mapping) else None
        if not isinstance(own, StageDefinition):
            return handler(said)
        if own.name in stage_names() and find_stage(own.name) is not own:
            raise ValueError(f"a known stage is called {own.name}, too: call yours otherwise")
        request = handler({**said, "task": own.name})
        request._own = own
        return request

    @property
    def definition(self) -> StageDefinition[...]:
        """What the stage does.

        Raises:
            RecipeError: no known stage has the name of its task.
        """
        return self._own or find_stage(self.task)


class Recipe(BaseModel):
    """A whole recipe, and the observations that it is run on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str = ""
    vis: tuple[str, ...] = ()
    stages: tuple[StageRequest, ...] = Field(min_length=1)

    def to_yaml(self) -> str:
        """The recipe as the YAML that it can be read from again."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_defaults=True), sort_keys=False)


def given(recipe: Recipe | Mapping[str, Any] | str | Path, vis: str | Path | Sequence[str | Path] = ()) -> Recipe:
    """A recipe that is given in Python: by a file or name, as its content, or as it is.

    Args:
        recipe: a YAML file or the name of a packaged recipe; what such a file says, as a mapping; or a `Recipe`.
        vis: observations that replace those that the recipe names, relative to the current directory.

    Raises:
        RecipeError: see `load`.
    """
    observations = tuple(map(absolute, (vis,) if isinstance(vis, str | Path) else vis))
    if isinstance(recipe, str | Path):
        return load(str(recipe), observations)
    content = dict(recipe.model_dump(exclude={"stages"}) if isinstance(recipe, Recipe) else recipe)
    if isinstance(recipe, Recipe):
        content["stages"] = recipe.stages
    content.setdefault("name", "recipe")
    return parse({**content, "vis": observations} if observations else content, f"recipe {content['name']!r}")


def absolute(reference: str | Path) -> str:
    """An observation's path from / on; what is no path, such as casadata:demo/…, as it is."""
    text = str(reference)
    return text if ":" in text.split("/")[0] else str(Path(text).expanduser().absolute())


def load(reference: str, vis: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe from a file, or a packaged one by its name.

    Args:
        reference: a path to a YAML file, or a name such as `calimage`.
        vis: observations that replace those that the recipe names.

    Raises:
        RecipeError: there is no such recipe, or it is wrong: names the file, the stage and the nearest valid names.
    """
    path = Path(reference)
    if not _is_there(path):
        packaged = PACKAGED / f"{reference}.yaml"
        if not _is_there(packaged):
            names = sorted(found.stem for found in PACKAGED.glob("*.yaml"))
            raise RecipeError(
                f"there is no recipe {reference!r}: no such file, and none of the packaged recipes",
                f"give a YAML file, or {nearest(reference, names)}",
            )
        path = packaged
    content = _content(path)
    if vis:
        content["vis"] = list(vis)
    return parse(content, str(path))


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # Longer than a name can be, or in a folder that nobody may look into.
        return False


def saved(path: Path) -> Recipe:
    """The recipe that a session left in its working folder, whose stages may have been those of a script.

    Raises:
        RecipeError: it cannot be read.
    """
    try:
        return Recipe.model_validate(_content(path))
    except ValidationError as error:
        raise RecipeError(f"{path} is no recipe", "give another working folder") from error


def _content(path: Path) -> dict[str, Any]:
    try:
        content = yamltext.load(path.read_text(encoding="utf-8"))
    # What is no text, or a date that there is not, is a ValueError.
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{path} is not YAML: {error}", "correct it; `surgeline init` writes one") from error
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}", "make it readable, or give another") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} is no recipe: it holds no `stages:`", "`surgeline init` writes one")
    content.setdefault("name", path.stem)
    return content


def parse(content: dict[str, Any], origin: str) -> Recipe:
    """Check a recipe's content, the names and arguments of its stages included.

    Raises:
        RecipeError: see `load`.
    """
    try:
        recipe = Recipe.model_validate(content)
        recipe.model_dump_json()
    except ValidationError as error:
        raise _explained(error, content, origin) from error
    except PydanticSerializationError as error:
        raise RecipeError(f"{origin} holds what is no text: {error}", "write it in UTF-8") from error
    named: list[StageRequest] = []
    for position, stage in enumerate(recipe.stages):
        where = f"{origin}: stage {position + 1} ({stage.name or stage.task})"
        try:
            _ = stage.definition
        except RecipeError as error:
            raise RecipeError(f"{where}: {error.message}", error.way_out) from error
        _check_arguments(stage, where)
        name = stage.name or stage.task
        # Or those of one would be taken for the other's.
        if any(safe_name(name) == safe_name(other.name) for other in named):
            raise RecipeError(f"{where}: another stage has the same name", "give each its own `name:`")
        named.append(stage.model_copy(update={"name": name}))
    return recipe.model_copy(update={"stages": tuple(named)})


def _check_arguments(stage: StageRequest, where: str) -> None:
    parameters = stage.definition.parameters
    try:
        parameters.model_validate(stage.arguments)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else stage.task
        if first["type"] == "extra_forbidden":
            raise RecipeError(
                f"{where}: {stage.task} has no argument {name!r}", nearest(name, parameters.model_fields)
            ) from error
        raise RecipeError(
            f"{where}: {name} = {first['input']!r}: {in_words_of_yaml(first['msg'])}", "correct the argument"
        ) from error


def _explained(error: ValidationError, content: dict[str, Any], origin: str) -> RecipeError:
    first = error.errors()[0]
    location = first["loc"]
    where = origin
    valid: type[BaseModel] = Recipe
    if len(location) > 1 and location[0] == "stages" and isinstance(location[1], int):
        stage = content["stages"][location[1]]
        name = stage.get("name") or stage.get("task") if isinstance(stage, dict) else stage
        where = f"{origin}: stage {location[1] + 1} ({name})"
        location = location[2:]
        valid = StageRequest
    key = ".".join(str(part) for part in location)
    if first["type"] == "extra_forbidden":
        fields = Resources.model_fields if location[0] == "resources" else valid.model_fields
        return RecipeError(f"{where}: unknown key {key!r}", nearest(str(location[-1]), fields))
    if first["type"] == "missing":
        return RecipeError(f"{where}: {key} is missing", "add it")
    what = f"{key} = {first['input']!r}" if key else repr(first["input"])
    return RecipeError(f"{where}: {what}: {in_words_of_yaml(first['msg'])}", "correct it")


def cluster_of(request: StageRequest, configuration: Configuration) -> str:
    """The name of the cluster that a stage runs on.

    Raises:
        RecipeError: the configuration knows no cluster of that name.
    """
    clusters = configuration.settings.clusters
    name = request.cluster or configuration.settings.dask.cluster
    if name not in clusters:
        raise RecipeError(
            f"stage {request.name!r} asks for cluster {name!r}, and there is none of that name",
            f"the configuration knows: {', '.join(sorted(clusters))}; name others under `clusters:` in config.yaml",
        )
    return name
