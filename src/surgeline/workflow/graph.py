"""Which stages wait for which."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter

from surgeline.errors import RecipeError, nearest
from surgeline.workflow.recipe import Recipe


def needs(recipe: Recipe) -> Mapping[str, tuple[str, ...]]:
    """For each stage, in an order in which they can run, the stages that it waits for.

    Raises:
        RecipeError: a stage needs one that there is not, or stages need each other in a circle.
    """
    names = [stage.name for stage in recipe.stages]
    waits: dict[str, tuple[str, ...]] = {}
    for position, stage in enumerate(recipe.stages):
        before = stage.needs if stage.needs is not None else tuple(names[max(position - 1, 0) : position])
        for name in before:
            if name not in names:
                raise RecipeError(
                    f"stage {stage.name!r} needs {name!r}, and there is no such stage", nearest(name, names)
                )
        waits[stage.name] = before
    try:
        order = tuple(TopologicalSorter(waits).static_order())
    except CycleError as error:
        circle = " → ".join(reversed(error.args[1]))
        raise RecipeError(
            f"the stages need each other in a circle: {circle}", "take one of these `needs` away"
        ) from error
    return {name: waits[name] for name in order}
