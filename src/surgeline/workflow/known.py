"""The context of a working folder: where it is, and what of it a recipe makes stale."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence

from surgeline.config import Configuration
from surgeline.context.store import Context
from surgeline.paths import SessionPaths, write_text
from surgeline.workflow.recipe import Recipe
from surgeline.workflow.staleness import Past, past_of, stale_stages


def open_context(
    paths: SessionPaths,
    configuration: Configuration,
    tell: Callable[[str], None] | None = None,
    read_only: bool = False,
) -> Context:
    """Open what a working folder's session knows: in its own file, or in the database that is configured.

    Raises:
        WorkfolderError, ContextError: see `Context`.
    """
    settings = configuration.settings.context
    if settings.url is None:
        return Context(paths.context, read_only=read_only)
    # Which of the database's contexts is this folder's.
    if not paths.identifier.is_file():
        write_text(paths.identifier, uuid.uuid4().hex + "\n")
    identifier = paths.identifier.read_text(encoding="utf-8").strip()
    return Context(settings.url, identifier, settings.patience, tell, read_only)


def find_stale(
    context: Context,
    recipe: Recipe,
    needs: Mapping[str, tuple[str, ...]],
    force: Sequence[str] = (),
    start_from: str | None = None,
) -> dict[str, str]:
    """The finished stages of a context that a recipe has to run again, each with the reason.

    Raises:
        RecipeError: a stage is named that the recipe does not have.
    """
    past: dict[str, Past] = {}
    said_anew: dict[tuple[str, str], tuple[int, str]] = {}
    names = {request.name for request in recipe.stages}
    subjects = context.subjects()
    for commit in context.log():
        if commit.withdrawn_by is not None:
            continue
        said = subjects.get(commit.version, [])
        if commit.stage in names or "recipe" in commit.details:
            past[commit.stage] = past_of(commit, said)
        else:
            # Somebody else's word, by hand or by a task of another framework: no recipe takes it back.
            said_anew |= dict.fromkeys(said, (commit.version, commit.stage))
    return stale_stages(recipe, needs, past, force, start_from, said_anew)
