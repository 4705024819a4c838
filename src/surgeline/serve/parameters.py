"""What requests may ask for; a parameter that there is not is refused rather than passed over."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from surgeline.serve.events import POSITION
from surgeline.serve.problems import Refused
from surgeline.serve.sources import Session, Sources

LARGEST = 2**63 - 1
# Databases have no word for NUL.
Text = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00]*$")]
EventId = Annotated[str, StringConstraints(max_length=10_000, pattern=f"^({POSITION})?$")]
Version = Annotated[int, Field(ge=0, le=2**31 - 1)]


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Paging(_Parameters):
    """Which part of a list."""

    limit: int = Field(100, ge=1, le=1000, description="How many items at most.")


class NumberedPaging(Paging):
    """Which part of a list whose items are numbered."""

    cursor: int = Field(0, ge=0, le=LARGEST, description="Where the part before ended; see `next` there.")


class NamedPaging(Paging):
    """Which part of a list whose items are sorted by name."""

    cursor: Text = Field("", description="Where the part before ended; see `next` there.")


class AttemptFilter(NumberedPaging):
    """Which attempts."""

    stage: Text | None = None
    job: Text | None = None
    state: Text | None = Field(None, description="finished, failed, cancelled or lost.")
    run: Text | None = None


class ProductFilter(NumberedPaging):
    """Which products."""

    version: Version | None = Field(None, description="As they were at this version; the newest unless given.")


class FactFilter(ProductFilter):
    """Which facts."""

    kind: Text | None = None
    subject: Text | None = Field(None, description="The values of the identifying fields, as JSON.")


class Versions(NumberedPaging):
    """Which two versions."""

    before: Version | None = Field(None, description="The one before `after` unless given.")
    after: Version | None = Field(None, description="The newest unless given.")


class FeedStart(_Parameters):
    """Where a feed begins, and whether it ends."""

    last_event_id: EventId = Field(
        "", description="After this event; the header Last-Event-ID counts more. From the beginning unless given."
    )
    follow: bool = Field(True, description="Whether to go on with what happens from now on.")


def _session(request: Request, session: Annotated[str, Path(max_length=200)]) -> Session:
    sources: Sources = request.app.state.sources
    found = sources.find(session)
    if found is None:
        raise Refused(HTTPStatus.NOT_FOUND, f"there is no session {session}", "/api/v1/sessions lists them")
    return found


Asked = Annotated[Session, Depends(_session)]
