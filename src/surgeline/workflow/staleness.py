"""Which finished stages have to run again after a change, and why; and no others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from surgeline.context.store import Commit
from surgeline.errors import RecipeError, nearest
from surgeline.workflow.recipe import Recipe, StageRequest


@dataclass(frozen=True)
class Past:
    """What a finished stage was asked, read and left.

    Attributes:
        version: its commit.
        task, arguments, needs, vis: as the recipe had them; None where an older version did not record them.
        asked: the kinds of facts that it asked for.
        said: the kinds of facts that it said.
        read, changed, written: files.
        facts: the kinds and subjects of the facts that it read.
    """

    version: int
    task: str | None = None
    arguments: Mapping[str, Any] | None = None
    needs: tuple[str, ...] | None = None
    vis: tuple[str, ...] | None = None
    asked: frozenset[str] = frozenset()
    said: frozenset[str] = frozenset()
    read: frozenset[str] = frozenset()
    changed: frozenset[str] = frozenset()
    facts: frozenset[tuple[str, str]] = frozenset()
    written: frozenset[str] = field(default=frozenset())


def past_of(commit: Commit, said: Iterable[tuple[str, str]]) -> Past:
    """What a stage's commit records of it; `said` are the kinds and subjects that it spoke of."""
    details, files = commit.details, commit.details.get("files", {})
    needs, vis = details.get("needs"), details.get("vis")
    return Past(
        commit.version,
        task=details.get("task"),
        arguments=details.get("arguments"),
        needs=None if needs is None else tuple(needs),
        vis=None if vis is None else tuple(vis),
        asked=frozenset(details.get("asked", ())),
        said=frozenset(kind for kind, _ in said),
        read=frozenset(files.get("read", ())),
        changed=frozenset(files.get("changed", ())),
        facts=frozenset((kind, subject) for kind, subject, _ in details.get("read", ())),
        written=frozenset(files.get("written", ())),
    )


def stale_stages(
    recipe: Recipe,
    needs: Mapping[str, tuple[str, ...]],
    past: Mapping[str, Past],
    force: Sequence[str] = (),
    start_from: str | None = None,
    said_anew: Mapping[tuple[str, str], tuple[int, str]] = MappingProxyType({}),
) -> dict[str, str]:
    """The finished stages that have to run again, each with the reason.

    Args:
        recipe: as it is now.
        needs: of its stages, in an order in which they can run.
        past: the finished stages.
        force: stages that run again whatever they were.
        start_from: this stage and all after it run again.
        said_anew: kinds and subjects of facts that others than stages have said, with the version and who it was.

    Raises:
        RecipeError: a stage is named that the recipe does not have.
    """
    requests = {request.name: request for request in recipe.stages}
    order = list(needs)
    for name in (*force, *([start_from] if start_from else [])):
        if name not in requests:
            raise RecipeError(f"the recipe has no stage {name!r}", nearest(name, requests))
    reasons: dict[str, str] = {}
    for name in order:
        if name not in past:
            continue
        reason = _own_reason(requests[name], past[name], recipe, needs[name]) or _corrected(past[name], said_anew)
        if reason:
            reasons[name] = reason
    reasons.update({name: "it was asked for" for name in force if name in past})
    if start_from:
        later = order[order.index(start_from) :]
        reasons.update({name: f"everything from {start_from!r} on was asked for" for name in later if name in past})
    gone = {name: "the recipe has it no longer" for name in past if name not in requests}
    _spread(requests, needs, past, reasons, gone)
    return reasons | gone


def _own_reason(request: StageRequest, past: Past, recipe: Recipe, needs: tuple[str, ...]) -> str:
    """Why a stage itself is not what it was; empty when it is."""
    if past.task is None or past.arguments is None:
        return ""
    if request.task != past.task:
        return f"its task was {past.task}, and is {request.task}"
    names = sorted({*past.arguments, *request.arguments})
    changes = [
        f"{name}: {_shown(past.arguments, name)} → {_shown(request.arguments, name)}"
        for name in names
        if _shown(past.arguments, name) != _shown(request.arguments, name)
    ]
    if changes:
        return f"argument {', '.join(changes)}"
    if request.task == "import" and past.vis is not None and recipe.vis != past.vis:
        return f"the observations were {', '.join(past.vis)}, and are {', '.join(recipe.vis)}"
    if request.needs is not None and past.needs is not None and set(needs) != set(past.needs):
        return f"it needed {', '.join(past.needs) or 'nothing'}, and needs {', '.join(needs) or 'nothing'}"
    return ""


def _corrected(past: Past, said_anew: Mapping[tuple[str, str], tuple[int, str]]) -> str:
    """Which fact that a stage read has been said anew since, by somebody else; empty when none was."""
    for kind, subject in sorted(past.facts & said_anew.keys()):
        version, who = said_anew[kind, subject]
        if version > past.version:
            return f"it used {kind} {subject}, which {who!r} has said anew"
    return ""


def _spread(
    requests: Mapping[str, StageRequest],
    needs: Mapping[str, tuple[str, ...]],
    past: Mapping[str, Past],
    reasons: dict[str, str],
    gone: Mapping[str, str],
) -> None:
    """Add the stages that depend on what will be made anew, and those whose changes of data have to be undone."""
    order = list(needs)
    before = _all_needed(needs)
    changed = True
    while changed:
        changed = False
        for name in order:
            if name not in past or name in reasons:
                continue
            # What an unfinished stage will make, only those that wait for it can have used.
            earlier = [other for other in order[: order.index(name)] if other in past or other in before[name]]
            taken_out = [other for other in gone if past[other].version < past[name].version]
            for other in (*earlier, *taken_out):
                if reason := _depends(requests[name], past[name], other, past, reasons, gone):
                    reasons[name] = reason
                    changed = True
                    break
            else:
                for other in earlier:
                    undone = other in reasons and past[name].changed & (past[other].read | past[other].changed)
                    if undone:
                        reasons[name] = f"{other!r} runs again on {_some(undone)} as it was before this stage"
                        changed = True
                        break


def _all_needed(needs: Mapping[str, tuple[str, ...]]) -> dict[str, set[str]]:
    """For each stage all that have to run before it; `needs` are in an order in which they can run."""
    found: dict[str, set[str]] = {}
    for name, before in needs.items():
        found[name] = set(before).union(*(found[other] for other in before))
    return found


def _depends(
    request: StageRequest,
    past: Past,
    other: str,
    all_past: Mapping[str, Past],
    reasons: Mapping[str, str],
    gone: Mapping[str, str],
) -> str:
    """Why a stage runs again because an earlier one does; empty when it need not."""
    if other not in all_past:
        # Nobody knows what a stage that has never run will make.
        return f"{other!r} before it is new"
    if other not in reasons and other not in gone:
        return ""
    before = all_past[other]
    files = (past.read | past.changed) & (before.changed | before.written)
    if files:
        return f"it uses {_some(files)}, which {other!r} makes anew"
    kinds = past.asked & before.said
    if kinds:
        return f"it uses {_some(kinds)} facts, which {other!r} makes anew"
    if past.task is None or before.task is None or (request.needs is not None and other in request.needs):
        return f"it needs {other!r}, which runs again"
    return ""


def _some(names: Iterable[str]) -> str:
    found = sorted(names)
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def _shown(arguments: Mapping[str, Any], name: str) -> str:
    return repr(arguments[name]) if name in arguments else "by heuristics"
