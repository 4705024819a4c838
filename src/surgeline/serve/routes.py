"""The routes of the API."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request

from surgeline.serve.models import (
    Attempt,
    AttemptDetail,
    ChangePage,
    Commit,
    Environment,
    FactPage,
    Page,
    SessionDetail,
    SessionPage,
    Stages,
    Trouble,
)
from surgeline.serve.paging import part_of
from surgeline.serve.parameters import (
    LARGEST,
    Asked,
    AttemptFilter,
    FactFilter,
    NamedPaging,
    NumberedPaging,
    Versions,
)
from surgeline.serve.problems import Refused
from surgeline.serve.queries import (
    attempt_numbered,
    attempts_after,
    changes_between,
    checked_version,
    commits_after,
    environments_after,
    facts_at,
)
from surgeline.serve.sources import Sources
from surgeline.serve.summaries import detail_of, stages_of, summary_of

router = APIRouter()


@router.get("/sessions")
def sessions(request: Request, asked: Annotated[NamedPaging, Query()]) -> SessionPage:
    """Sessions by their ids."""
    sources: Sources = request.app.state.sources
    found, troubles = sources.sessions()
    following = [session for session in found if session.id > asked.cursor]
    part, following_part = part_of(request, following, asked.limit, lambda session: session.id)
    return SessionPage(
        items=[summary_of(session) for session in part],
        next=following_part,
        unreachable=[Trouble(detail=error.message, way_out=error.way_out) for error in troubles],
    )


@router.get("/sessions/{session}")
def session(session: Asked) -> SessionDetail:
    """A session: its recipe, its stages, and how it stands."""
    return detail_of(session)


@router.get("/sessions/{session}/stages")
def stages(session: Asked) -> Stages:
    """The stages of a session in the order of its recipe."""
    return Stages(items=stages_of(session))


@router.get("/sessions/{session}/commits")
def commits(request: Request, session: Asked, asked: Annotated[NumberedPaging, Query()]) -> Page[Commit]:
    """The log: every commit, in order."""
    found = session.read(lambda c, context: commits_after(c, context, asked.cursor, asked.limit + 1))
    items, following = part_of(request, found, asked.limit, lambda commit: commit.version)
    return Page(items=items, next=following)


@router.get("/sessions/{session}/attempts")
def attempts(request: Request, session: Asked, asked: Annotated[AttemptFilter, Query()]) -> Page[Attempt]:
    """Attempts of jobs, in the order in which they ended."""
    equal = asked.model_dump(include={"stage", "job", "state", "run"})
    found = session.read(lambda c, context: attempts_after(c, context, asked.cursor, asked.limit + 1, equal))
    items, following = part_of(request, found, asked.limit, lambda attempt: attempt.id)
    return Page(items=items, next=following)


@router.get("/sessions/{session}/attempts/{number}")
def attempt(session: Asked, number: Annotated[int, Path(ge=1, le=LARGEST)]) -> AttemptDetail:
    """An attempt with all that is recorded of it: call, inputs, outputs, resources, failure."""
    found = session.read(lambda c, context: attempt_numbered(c, context, number))
    if found is None:
        raise Refused(HTTPStatus.NOT_FOUND, f"there is no attempt {number}")
    return found


@router.get("/sessions/{session}/environments")
def environments(request: Request, session: Asked, asked: Annotated[NamedPaging, Query()]) -> Page[Environment]:
    """The machines and versions that attempts ran with."""
    found = session.read(lambda c, context: environments_after(c, context, asked.cursor, asked.limit + 1))
    items, following = part_of(request, found, asked.limit, lambda environment: environment.id)
    return Page(items=items, next=following)


@router.get("/sessions/{session}/facts")
def facts(request: Request, session: Asked, asked: Annotated[FactFilter, Query()]) -> FactPage:
    """The facts that hold at a version, oldest first."""
    version, found = session.read(
        lambda c, context: (
            at := checked_version(c, context, asked.version),
            facts_at(c, context, at, asked.cursor, asked.limit + 1, kind=asked.kind, subject=asked.subject),
        )
    )
    items, following = part_of(request, found, asked.limit, lambda fact: fact.id, version=version)
    return FactPage(items=items, next=following, version=version)


@router.get("/sessions/{session}/diff")
def diff(request: Request, session: Asked, asked: Annotated[Versions, Query()]) -> ChangePage:
    """What two versions say differently."""
    (before, after), found = session.read(
        lambda c, context: (
            versions := _versions(
                checked_version(c, context, asked.after),
                None if asked.before is None else checked_version(c, context, asked.before),
            ),
            changes_between(c, context, versions, asked.cursor, asked.limit + 1),
        )
    )
    part, following = part_of(request, found, asked.limit, lambda numbered: numbered[0], before=before, after=after)
    return ChangePage(items=[change for _, change in part], next=following, before=before, after=after)


def _versions(after: int, before: int | None) -> tuple[int, int]:
    return (max(0, after - 1) if before is None else before, after)
