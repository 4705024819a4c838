"""What the API answers with."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import BaseModel, Field

Item = TypeVar("Item")


class Problem(BaseModel):
    """Why a request cannot be answered (RFC 9457), with a way out."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    way_out: str = ""


class Page(BaseModel, Generic[Item]):
    """Part of a list."""

    items: list[Item]
    next: str | None = Field(description="Where the next part is, relative to this one; null: this was the last.")


class Trouble(BaseModel):
    """Why something cannot be read now."""

    detail: str
    way_out: str


class SessionSummary(BaseModel):
    """A session in a few words. Times are Unix times, in seconds."""

    id: str
    name: str
    where: str = Field(description="Its working folder, or the database that holds its context.")
    state: str = Field(
        description="running, finished, failed or interrupted; not begun: there is no store yet; unreadable: its "
        "store cannot be read; unknown: nothing tells."
    )
    context: str | None = Field(description="The identifier of its context.")
    recipe: str | None = Field(description="The recipe's name.")
    version: int = Field(description="The newest version of its context.")
    created: float | None = Field(description="When its context was begun.")
    committed: float | None = Field(description="When the newest version was committed.")
    started: float | None = Field(description="When it was first run.")
    ended: float | None = Field(description="When its latest run ended.")
    error: str | None = Field(description="Why its latest run failed.")
    unreadable: str | None = Field(description="Why its store cannot be read.")


class SessionPage(Page[SessionSummary]):
    """Part of the list of sessions, and what keeps others from being told."""

    unreachable: list[Trouble]


class Stage(BaseModel):
    """A stage of a session."""

    name: str
    task: str
    state: str = Field(description="waiting, running, finished, failed or interrupted.")
    started: float | None
    ended: float | None
    error: str | None
    cluster: str | None
    needs: list[str]
    jobs: dict[str, int] = Field(description="How many of its jobs ended in which state, in its latest run.")
    version: int | None = Field(description="The commit of its result that holds.")


class SessionDetail(SessionSummary):
    """A session."""

    recipe_content: dict[str, Any] = Field(description="The whole recipe.")
    host: str | None
    backend: str | None
    workers: int | None
    stages: list[Stage]
    position: str = Field(description="The feed of events goes on from here, as its `last_event_id`.")


class RunState(BaseModel):
    """How a session's run stands."""

    state: str
    started: float | None
    ended: float | None
    error: str | None


class Stages(BaseModel):
    """The stages of a session in the order of its recipe."""

    items: list[Stage]


class Commit(BaseModel):
    """A commit: a stage's accepted result, or a change by hand."""

    version: int
    stage: str
    base: int = Field(description="The version that its maker had seen.")
    committed: float
    details: dict[str, Any]
    withdrawn_by: int | None = Field(description="The version that says that it holds no longer.")
    withdraws: list[int] = Field(description="The commits of which it says that they hold no longer.")


class Attempt(BaseModel):
    """An attempt of a job."""

    id: int
    run: str
    stage: str
    job: str
    number: int
    state: str
    started: float
    ended: float
    worker: str
    host: str
    environment: str = Field(description="The identity of the machine and versions that it ran with.")


class AttemptDetail(Attempt):
    """An attempt of a job with all that is recorded of it."""

    body: dict[str, Any]


class Fact(BaseModel):
    """A fact, as it is stored."""

    id: int
    kind: str
    subject: str = Field(description="What it is about: the values of its identifying fields, as JSON.")
    schema_version: int
    version: int = Field(description="The commit that said it.")
    stage: str
    body: dict[str, Any]


class FactPage(Page[Fact]):
    """Part of the facts that hold at a version."""

    version: int


class Change(BaseModel):
    """What two versions say differently of one subject; null: nothing."""

    kind: str
    subject: str
    before: Fact | None
    after: Fact | None


class ChangePage(Page[Change]):
    """Part of the difference between two versions."""

    before: int
    after: int


class ProductFile(BaseModel):
    """A file for people."""

    path: str
    kind: str
    size: int
    sha256: str
    version: int
    stage: str
    content: str = Field(description="Where its content is.")


class Environment(BaseModel):
    """A machine and the versions that attempts ran with."""

    id: str
    body: dict[str, Any]
