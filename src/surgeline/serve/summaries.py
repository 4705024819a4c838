"""Sessions in a few words, and one in all that is known of it as a whole."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from surgeline.serve.events import Position, position_after
from surgeline.serve.models import SessionDetail, SessionSummary, Stage
from surgeline.serve.queries import holding_commits, latest_attempt, state_of
from surgeline.serve.reading import NotBegun, Unreadable
from surgeline.serve.record import Record
from surgeline.serve.sources import Session
from surgeline.serve.stages import merged_stages


def summary_of(session: Session) -> SessionSummary:
    """A session in a few words, also where its store cannot be read."""
    return SessionSummary.model_validate(detail_of(session).model_dump(include=set(SessionSummary.model_fields)))


def detail_of(session: Session) -> SessionDetail:
    """A session as a whole, also where its store cannot be read."""
    # First: what it calls finished has been committed by then.
    record = session.read_record()
    recipe = session.record.recipe() if session.record else {}
    name = recipe.get("name")
    told: dict[str, Any] = {
        "id": session.id,
        "name": session.name,
        "where": session.where,
        "state": record.state,
        "recipe": None if name is None else str(name),
        "recipe_content": recipe,
        **record.model_dump(include={"started", "ended", "error", "host", "backend", "workers"}),
        "context": None,
        "version": 0,
        "created": None,
        "committed": None,
        "unreadable": None,
        "stages": merged_stages(record, {}),
        "position": str(Position()),
    }
    try:
        told |= session.read(lambda connection, context: _of_store(record, connection, context))
    except NotBegun:
        told["state"] = "not begun"
    except Unreadable as error:
        told |= {"state": "unreadable", "unreadable": f"{error.message}; {error.way_out}"}
    return SessionDetail.model_validate(told)


def stages_of(session: Session) -> list[Stage]:
    """The stages of a session in the order of its recipe.

    Raises:
        Unreadable: its store cannot be read.
    """
    record = session.read_record()
    try:
        return merged_stages(record, session.read(holding_commits))
    except NotBegun:
        return merged_stages(record, {})


def _of_store(record: Record, connection: Connection, context: str) -> dict[str, Any]:
    state = state_of(connection, context)
    stages = merged_stages(record, holding_commits(connection, context))
    position = position_after(record, stages, context, state.version, latest_attempt(connection, context))
    return {"context": context, **state._asdict(), "stages": stages, "position": str(position)}
