"""What a shell proposes when the user presses Tab; where nothing can be found out quickly, it proposes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from surgeline.paths import SessionPaths

# As workflow/recipe.py has it, which takes too long to load.
_RECIPES = Path(__file__).parent.parent / "recipes"

Completer = Callable[[typer.Context, str], list[str]]


def complete_words(words: Sequence[str]) -> Completer:
    """Propose those of some words that begin with what was typed."""

    def complete(context: typer.Context, incomplete: str) -> list[str]:
        return _beginning(incomplete, words)

    return complete


def complete_recipes(context: typer.Context, incomplete: str) -> list[str]:
    """The packaged recipes; a shell itself proposes files where none of them is meant."""
    return _beginning(incomplete, sorted(path.stem for path in _RECIPES.glob("*.yaml")))


def complete_stages(context: typer.Context, incomplete: str) -> list[str]:
    """The stages of the recipe on the line, or else of the session in the working folder."""
    given = None
    if "recipe" in context.params:
        # With an option that has no value yet, arguments are left as they are.
        given = context.params["recipe"] or next(iter(context.args), None)
    if given is None:
        return _beginning(incomplete, _stages(SessionPaths(_workdir(context)).recipe))
    packaged = _RECIPES / f"{given}.yaml"
    return _beginning(incomplete, _stages(packaged if packaged.is_file() else Path(given)))


def complete_jobs(context: typer.Context, incomplete: str) -> list[str]:
    """The jobs that have ended of the stage on the line."""
    from surgeline.errors import SurgelineError
    from surgeline.workflow.joblogs import job_names

    try:
        return _beginning(incomplete, job_names(SessionPaths(_workdir(context)), str(context.params.get("stage"))))
    except SurgelineError:
        return []


def complete_kinds(context: typer.Context, incomplete: str) -> list[str]:
    """The kinds of facts."""
    from surgeline.context.records import KINDS

    return _beginning(incomplete, sorted(KINDS))


def complete_settings(context: typer.Context, incomplete: str) -> list[str]:
    """The keys of the configuration."""
    from surgeline.config import Settings

    return _beginning(incomplete, list(_keys(Settings)))


def _keys(model: Any, prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}="


def _workdir(context: typer.Context) -> Path:
    return Path(context.params.get("workdir") or "surgeline-session").absolute()


def _stages(path: Path) -> list[str]:
    import yaml

    try:
        stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
        return [str(stage.get("name") or stage["task"]) for stage in stages]
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return []


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]
