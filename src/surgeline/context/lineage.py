"""What led to a file: the stages, jobs, facts and files behind it, back to what the session was given."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sqlalchemy import select

from surgeline.context.attempts import Attempt, read_attempts, read_environments
from surgeline.context.reading import rows
from surgeline.context.records import kind_called
from surgeline.context.store import Commit, Context, StoredFact
from surgeline.context.tables import facts
from surgeline.errors import ContextError, nearest


@dataclass(frozen=True)
class FileState:
    """A file as a stage left it, or as it was given to the session.

    Attributes:
        path: relative to the working folder, or absolute.
        digest: of its content; empty when it is not on record.
        version, stage: the commit that left it so; None and empty for what was given.
        altered: whether it was no longer as that commit had left it.
    """

    path: str
    digest: str
    version: int | None = None
    stage: str = ""
    altered: bool = False


@dataclass(frozen=True)
class FactRead:
    """A fact that a stage read, and the commit that had said it."""

    kind: str
    subject: str
    version: int
    stage: str


@dataclass(frozen=True)
class JobCall:
    """A job that went well: its call, the CASA tasks that it called, where and when it ran."""

    job: str
    call: str
    attempt: int
    started: float
    ended: float
    host: str
    worker: str
    environment: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Step:
    """What one stage did of all that led to a file.

    Attributes:
        version, stage, committed, withdrawn_by: of its commit.
        task, arguments, surgeline: what the stage was, and the version of Surgeline.
        recorded: whether it recorded what it read; if not, the stages that it needed stand in `follows`.
        follows: versions of commits that it needed, where nothing better is known.
        facts: what it read from the context.
        read: files that it read, and those that it changed as they were before.
        made, changed: files as it left them.
        jobs: the jobs that led on.
    """

    version: int
    stage: str
    committed: float
    withdrawn_by: int | None
    task: str
    arguments: Mapping[str, Any]
    surgeline: str
    recorded: bool
    follows: tuple[int, ...]
    facts: tuple[FactRead, ...]
    read: tuple[FileState, ...]
    made: tuple[FileState, ...]
    changed: tuple[FileState, ...]
    jobs: tuple[JobCall, ...]


@dataclass(frozen=True)
class Lineage:
    """All that led to a file.

    Attributes:
        product: the file.
        facts: what the context says of it now.
        steps: stages, the newest first.
        given: files that no stage made.
        environments: what jobs ran with, by identity.
    """

    product: FileState
    facts: tuple[StoredFact, ...]
    steps: tuple[Step, ...]
    given: tuple[FileState, ...]
    environments: Mapping[str, Any]


def lineage(context: Context, product: str, workdir: Path | None = None) -> Lineage:
    """What led to an image, product or any other file of a session.

    From the commit that left the file, it goes on to those that had left the files and said the facts that were read
    for it, and so on. A stage's jobs for other files (those that only made, or only looked at, files that other facts
    of the stage are about, such as images of other fields) are left out with what they alone read; unless a fact of
    that stage was read that is about no file, since any job may have led to that.

    Args:
        context: where it is on record.
        product: its path, relative to the working folder or with it, or an end of it that no other file has.
        workdir: the working folder.

    Raises:
        ContextError: no such file is known, or several are.
    """
    history = _History(context)
    path = history.find(product, workdir)
    state = history.state(path, "", max(history.commits, default=0))
    # Whoever is behind a commit has an earlier version: so each is met once, when all that it led to is known.
    waiting: dict[int, _Wanted] = {}
    if state.version is not None:
        waiting[state.version] = _Wanted({path})
    steps: list[Step] = []
    while waiting:
        version = max(waiting)
        step = _step(context, history, history.commits[version], waiting.pop(version))
        steps.append(step)
        for earlier, file in _behind(step, history):
            wanted = waiting.setdefault(earlier, _Wanted())
            if file:
                wanted.files.add(file)
            else:
                wanted.whole = True
    given = {(file.path, file.digest): file for step in steps for file in step.read if file.version is None}
    used = {job.environment for step in steps for job in step.jobs}
    return Lineage(
        product=state,
        facts=tuple(
            fact
            for fact in context.holding(context.version, subject=json.dumps([path]))
            if fact.kind in history.kinds_of_files
        ),
        steps=tuple(steps),
        given=tuple(given.values()),
        environments={name: body for name, body in read_environments(context).items() if name in used},
    )


@dataclass
class _Wanted:
    """What is wanted of a commit: what made these files, or the whole stage."""

    files: set[str] = field(default_factory=set)
    whole: bool = False


class _History:
    """Which commits left which files."""

    def __init__(self, context: Context) -> None:
        self.commits = {commit.version: commit for commit in context.log()}
        # The kinds of facts that are about a file each.
        self.kinds_of_files = {kind for kind in _kinds(context) if _is_of_file(kind)}
        # The files that each commit's facts are about.
        self.files_of: dict[int, set[str]] = {}
        self._left_by: dict[str, list[int]] = {}
        self._read: set[str] = set()
        spoken_of: dict[str, list[int]] = {}
        for kind, subject, version in _facts_of(context, self.kinds_of_files):
            path = self.path_in(kind, subject)
            spoken_of.setdefault(path, []).append(version)
            self.files_of.setdefault(version, set()).add(path)
        for commit in self.commits.values():
            files = _files(commit)
            self._read.update(files.read)
            for path in {**files.written, **files.changed}:
                self._left_by.setdefault(path, []).append(commit.version)
        # Of what commits made by hand left, only facts may speak.
        self._left_by = spoken_of | self._left_by

    def path_in(self, kind: str, subject: str) -> str:
        """The file that a fact is about, or empty when it is about none."""
        return str(json.loads(subject)[0]) if kind in self.kinds_of_files else ""

    def find(self, product: str, workdir: Path | None) -> str:
        """The one file that is meant.

        Raises:
            ContextError: there is none, or several.
        """
        known = self._left_by.keys() | self._read
        name = _relative(product, workdir)
        if name in known:
            return name
        found = sorted(path for path in known if path.endswith(f"/{name}"))
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
            raise ContextError(f"{product!r} may be any of {several}", "give more of its path")
        by_name: dict[str, list[str]] = {}
        for path in known:
            by_name.setdefault(Path(path).name, []).append(path)
        close = [path for near in get_close_matches(Path(name).name, by_name, cutoff=0.5) for path in by_name[near]]
        raise ContextError(
            f"the context knows no file {product!r}",
            nearest(name, close[:5]) if close else "what it knows: surgeline context show Product, or show Image",
        )

    def state(self, path: str, digest: str, base: int) -> FileState:
        """A file as who had seen a version found it; the digest is empty where he did not record it."""
        earlier = [version for version in reversed(self._left_by.get(path, ())) if version <= base]
        # What was withdrawn left nothing, unless nothing else can have: its files may have stayed.
        earlier.sort(key=lambda version: self._is_withdrawn(version, base))
        if not earlier:
            return FileState(path, digest)
        left = {version: self._digest(version, path) for version in earlier}
        version = next((version for version in earlier if digest and left[version] == digest), earlier[0])
        return FileState(
            path=path,
            digest=digest or left[version],
            version=version,
            stage=self.commits[version].stage,
            altered=bool(digest and left[version] and left[version] != digest),
        )

    def needed(self, commit: Commit) -> list[int]:
        """What a commit stood upon that recorded only the stages that it needs, or nothing: then the one before."""
        standing = {
            earlier.stage: earlier.version
            for earlier in self.commits.values()
            if earlier.version <= commit.base and not self._is_withdrawn(earlier.version, commit.base)
        }
        if "needs" in commit.details:
            return [standing[stage] for stage in commit.details["needs"] if stage in standing]
        return [max(standing.values())] if standing else []

    def _is_withdrawn(self, version: int, seen: int) -> bool:
        withdrawn_by = self.commits[version].withdrawn_by
        return withdrawn_by is not None and withdrawn_by <= seen

    def _digest(self, version: int, path: str) -> str:
        files = _files(self.commits[version])
        return files.changed.get(path) or files.written.get(path, "")


@dataclass(frozen=True)
class _Files:
    """Digests of the files that a commit recorded, by path."""

    read: Mapping[str, str]
    changed: Mapping[str, str]
    written: Mapping[str, str]


def _files(commit: Commit) -> _Files:
    recorded = commit.details.get("files", {})
    return _Files(recorded.get("read", {}), recorded.get("changed", {}), recorded.get("written", {}))


def _step(context: Context, history: _History, commit: Commit, wanted: _Wanted) -> Step:
    details, files = commit.details, _files(commit)
    run = details.get("run")
    attempts = read_attempts(context, commit.stage, run) if run else []
    finished = [attempt for attempt in attempts if attempt.state == "finished"]
    others = set() if wanted.whole else _others(finished, history.files_of.get(commit.version, set()) - wanted.files)
    leading = [attempt for attempt in finished if _leads(attempt, others)]
    left_out = _paths(attempt for attempt in finished if not _leads(attempt, others)) - _paths(leading)
    # What it read after it had made it, came from nowhere else.
    found = {path: digest for path, digest in files.read.items() if path not in files.written}
    recorded = "files" in details or "read" in details
    return Step(
        version=commit.version,
        stage=commit.stage,
        committed=commit.committed,
        withdrawn_by=commit.withdrawn_by,
        task=details.get("task", ""),
        arguments=details.get("arguments", {}),
        surgeline=details.get("surgeline", ""),
        recorded=recorded,
        follows=() if recorded else tuple(history.needed(commit)),
        facts=tuple(
            FactRead(kind, subject, version, history.commits[version].stage)
            for kind, subject, version in details.get("read", ())
            if version in history.commits and history.path_in(kind, subject) not in left_out
        ),
        read=tuple(
            history.state(path, digest, commit.base)
            for path, digest in {**dict.fromkeys(files.changed, ""), **found}.items()
            if path not in left_out
        ),
        made=_left(commit, files.written, left_out),
        changed=_left(commit, files.changed, left_out),
        jobs=tuple(_job_call(attempt) for attempt in leading),
    )


def _others(attempts: Sequence[Attempt], others: set[str]) -> set[str]:
    """Of files that are not wanted themselves, those that are not needed for what is wanted either."""
    while True:
        leading = (attempt for attempt in attempts if _leads(attempt, others) and _named(attempt, "outputs"))
        needed = others & {path for attempt in leading for path in _named(attempt, "inputs")}
        if not needed:
            return others
        others = others - needed


def _leads(attempt: Attempt, others: set[str]) -> bool:
    """Whether a job did more than to make other files, or to look at them."""
    made = _named(attempt, "outputs")
    return bool(made - others) if made else not _named(attempt, "inputs") & others


def _named(attempt: Attempt, which: str) -> set[str]:
    return {file["path"] for file in attempt.body.get(which, ())}


def _paths(attempts: Iterable[Attempt]) -> set[str]:
    return {path for attempt in attempts for which in ("inputs", "outputs") for path in _named(attempt, which)}


def _left(commit: Commit, digests: Mapping[str, str], left_out: set[str]) -> tuple[FileState, ...]:
    return tuple(
        FileState(path, digest, commit.version, commit.stage)
        for path, digest in digests.items()
        if path not in left_out
    )


def _job_call(attempt: Attempt) -> JobCall:
    return JobCall(
        job=attempt.job,
        call=attempt.body.get("call", ""),
        attempt=attempt.number,
        started=attempt.started,
        ended=attempt.ended,
        host=attempt.host,
        worker=attempt.worker,
        environment=attempt.environment,
        commands=tuple(attempt.body.get("commands", ())),
    )


def _behind(step: Step, history: _History) -> list[tuple[int, str]]:
    """The commits behind a step, each with the file that is wanted of it; empty: all of it."""
    behind = [(version, "") for version in step.follows]
    behind += [(file.version, file.path) for file in step.read if file.version is not None]
    behind += [(fact.version, history.path_in(fact.kind, fact.subject)) for fact in step.facts]
    # A record that is not in order must not lead round in circles.
    return [(version, path) for version, path in behind if version < step.version]


def _is_of_file(kind: str) -> bool:
    known = kind_called(kind)
    return known is not None and known.identity == ("path",)


def _kinds(context: Context) -> list[str]:
    """The kinds of all facts that were ever said."""
    query = select(facts.c.kind).where(facts.c.context == context.identifier).distinct()
    return [kind for (kind,) in rows(context, query)]


def _facts_of(context: Context, kinds: Iterable[str]) -> list[tuple[str, str, int]]:
    """Kind, subject and version of all facts of some kinds that were ever said, in that order."""
    query = (
        select(facts.c.kind, facts.c.subject, facts.c.version)
        .where(facts.c.context == context.identifier, facts.c.kind.in_(kinds), facts.c.body != "")
        .order_by(facts.c.id)
    )
    return [(row.kind, row.subject, row.version) for row in rows(context, query)]


def _relative(product: str, workdir: Path | None) -> str:
    """A path as the context has it: relative to the working folder where it is in there."""
    if workdir is not None:
        for whole in (os.path.abspath, os.path.realpath):
            within = os.path.relpath(whole(product), whole(workdir))
            if Path(within).parts[:1] != ("..",):
                return within
    return os.path.normpath(product)
