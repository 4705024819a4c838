"""A backend whose workers share no files with the session: jobs are brought theirs, and results are taken back."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from surgeline.errors import ClusterError, SurgelineError, WorkfolderError
from surgeline.parallel.selecting import Holdings, SelectedRows
from surgeline.paths import store_note, write_text
from surgeline.work.arrival import Arrival, left_behind
from surgeline.work.artifacts import Artifact, Digests, Item, matching, referred, survey
from surgeline.work.datastore import DataStore
from surgeline.work.fingerprint import Fingerprint, Fingerprints
from surgeline.work.jobs import Job
from surgeline.work.outcome import Failure, Outcome
from surgeline.work.packs import Place, Traffic, fetch, send
from surgeline.work.renaming import Renaming, declared_paths, in_value
from surgeline.work.staging import NOT_BROUGHT, BroughtJob, BroughtOutcome
from surgeline.work.taskqueue import Backend, Deliver

# Outcomes whose files are taken back at the same time.
_TAKEN_AT_ONCE = 4
_NAME = "surgeline-data-"


@dataclass
class _Given:
    """A job that was given to workers, or is about to be."""

    job: Job
    deliver: Deliver
    renaming: Renaming
    # What it was sent with, what of that matched its patterns, and what that is of which it was sent some rows.
    sent: Mapping[str, Artifact] = field(default_factory=dict)
    found: frozenset[str] = frozenset()
    whole: Mapping[str, Fingerprint] = field(default_factory=dict)
    ticket: str = ""
    cancelled: bool = False

    def withdrawn(self) -> bool:
        """Whether it was cancelled, which may happen at any time."""
        return self.cancelled


@dataclass
class _Known:
    """What is in the store, and what of it is where in the session's folder."""

    digests: Digests = field(default_factory=Digests)
    places: dict[str, Place] = field(default_factory=dict)


class Bringing:
    """Sends jobs to a backend with what they declare that they work on, and puts what comes of them in its place.

    Each content goes to the store once, and to each worker once as long as that keeps it. A job that fails changes
    nothing here. The store has a folder for the session, which is removed when it ends, or by the next one.
    """

    def __init__(
        self,
        backend: Backend,
        store: DataStore,
        folder: Path,
        logs: Path,
        limit: int | None = None,
        reachable: Iterable[str] = (),
        tell: Callable[[str], None] | None = None,
    ) -> None:
        """Remove what a session that was killed has left in the store, and see whether it can be used.

        Args:
            backend: whose workers have folders of their own.
            store: where files are left for each other; see `own_store`.
            folder: what relative paths of jobs are relative to here.
            logs: where the session leaves a note of what has to be removed.
            limit: how many bytes a worker may keep for later jobs; None for half of its disk.
            reachable: folders that workers have under the same path; what is there is not brought.
            tell: called with what a user wants to know.

        Raises:
            ClusterError: the store cannot be used.
            ConfigError: there is no such store, or its package is not installed.
        """
        self.name = backend.name
        # What the session itself sent and fetched, and what its workers did.
        self.traffic = Traffic()
        self.traffic_of_workers = Traffic()
        self._backend = backend
        self._store = store
        self._folder = folder
        self._limit = limit
        self._reachable = tuple(reachable)
        self._tell = tell or (lambda _: None)
        self._known = _Known()
        self._fingerprints = Fingerprints()
        self._rows = SelectedRows(folder, self._leave, self._tell)
        self._holdings = Holdings()
        self._given: dict[str, _Given] = {}
        self._lock = threading.Lock()
        for note in sorted(logs.glob(store_note(Path(), f"{_NAME}*").name)):
            if not _is_held(note):
                _remove_leftovers(note, store, folder, self._tell)
        self._note = store_note(logs, store.name)
        write_text(self._note, json.dumps({"url": store.url, "name": store.name}))
        # As long as somebody has it locked, what is left there is in use.
        self._hold = self._note.open()
        fcntl.flock(self._hold, fcntl.LOCK_EX)
        try:
            store.check()
        except BaseException:
            self._note.unlink()
            self._hold.close()
            raise
        self._senders = ThreadPoolExecutor(1, thread_name_prefix="send-data")
        self._takers = ThreadPoolExecutor(_TAKEN_AT_ONCE, thread_name_prefix="take-data")

    @property
    def workers(self) -> int:
        return self._backend.workers

    @property
    def environments(self) -> Mapping[str, Mapping[str, Any]]:
        return self._backend.environments

    def submit(self, job: Job, deliver: Deliver, urgent: bool = True) -> str:
        """Queue a job; it goes to a worker when what it works on has gone to the store."""
        ticket = uuid.uuid4().hex
        given = self._given[ticket] = _Given(job, self._once(ticket, deliver), self._renaming(job))
        self._senders.submit(self._send, given, urgent)
        return ticket

    def exec_everywhere(self, job: Job) -> list[Outcome]:
        """Run a job once on each worker that there is, while nothing else runs there."""
        given = _Given(job, lambda _: None, self._renaming(job))
        outcomes = self._backend.exec_everywhere(self._brought(given))
        return [self._taken_back(given, outcome) for outcome in outcomes]

    def running(self, ticket: str) -> bool:
        """Whether a worker has been given the job."""
        given = self._given.get(ticket)
        return given is not None and bool(given.ticket) and self._backend.running(given.ticket)

    def cancel(self, tickets: Iterable[str]) -> None:
        """Stop jobs, those whose files are on their way, too."""
        concerned = [given for ticket in tickets if (given := self._given.get(ticket))]
        with self._lock:
            for given in concerned:
                given.cancelled = True
            sent = [given.ticket for given in concerned if given.ticket]
        self._backend.cancel(sent)

    def close(self) -> None:
        """Stop the workers, and remove what was left in the store; what cannot be, the next session removes."""
        for given in list(self._given.values()):
            given.cancelled = True
        self._backend.close()
        self._senders.shutdown()
        self._takers.shutdown()
        if self._hold.closed:
            return
        try:
            self._store.remove()
        except ClusterError as error:
            self._tell(f"what the session left in {self._store} could not be removed: {error}")
        else:
            self._note.unlink()
        self._hold.close()

    def _once(self, ticket: str, deliver: Deliver) -> Deliver:
        def delivered(outcome: Outcome) -> None:
            del self._given[ticket]
            deliver(outcome)

        return delivered

    def _renaming(self, job: Job) -> Renaming:
        return Renaming(declared_paths(job.declared), self._reachable)

    # What follows runs in threads of its own.

    def _send(self, given: _Given, urgent: bool) -> None:
        try:
            if given.withdrawn():
                given.deliver(_failed(given.job, "cancelled", "it was cancelled before it began"))
                return
            brought = self._brought(given)
            with self._lock:
                # Not while others are cancelled: each job is either sent or not.
                given.ticket = self._backend.submit(brought, partial(self._receive, given), urgent)
                cancelled = given.withdrawn()
        except SurgelineError as error:
            kind = "cancelled" if given.withdrawn() else NOT_BROUGHT
            given.deliver(_failed(given.job, kind, str(error)))
            return
        except Exception as error:  # noqa: BLE001 - it is this job's outcome, whatever it is
            given.deliver(_failed(given.job, NOT_BROUGHT, f"{type(error).__name__}: {error}"))
            return
        if cancelled:
            self._backend.cancel([given.ticket])

    def _brought(self, given: _Given) -> BroughtJob:
        """The job with what it works on, which is in the store from now on."""
        declared = given.job.declared
        given.found = frozenset(map(given.renaming.there, matching(self._folder, declared.keeps)))
        wanted = [*map(given.renaming.there, (*declared.reads, *declared.changes)), *given.found]
        # What it changes or keeps it has to find whole.
        others = {*map(given.renaming.there, (*declared.changes, *declared.writes)), *given.found}
        selects = {given.renaming.there(path): selection for path, selection in declared.selects.items() if selection}
        selects = {name: selection for name, selection in selects.items() if name not in others}
        whole: dict[str, Fingerprint] = {}
        artifacts: dict[str, Artifact] = {}
        while wanted:
            name = wanted.pop()
            if name in artifacts or Path(name).is_absolute():
                continue
            path = self._path(given.renaming, name)
            look = partial(survey, path.parent, path.name, self._known.digests)
            if name in selects:
                found = self._rows.of(path, look, selects[name], self._share_on_workers, given.withdrawn)
                # Where a job finds some rows, it is told of as if it had found all.
                whole[name] = replace(self._fingerprints.of(path), path=name)
            else:
                found = look()
            artifacts[name] = replace(found, name=name)
            wanted += [_beside(name, other) for other in referred(path.parent, found)]
        given.sent, given.whole = artifacts, whole
        places = self._left_in_store(given.renaming, artifacts.values())
        renamed = given.renaming.job(given.job).declare(mends=())
        return BroughtJob(renamed, renamed.declared, self._store, tuple(artifacts.values()), places, self._limit)

    def _share_on_workers(self, artifact: Artifact) -> float:
        return self._holdings.share(artifact, self._backend.workers)

    def _path(self, renaming: Renaming, name: str) -> Path:
        """Where something is here that the job names so."""
        return self._folder / renaming.back(name)

    def _left_in_store(self, renaming: Renaming, artifacts: Iterable[Artifact]) -> dict[str, Place]:
        """Where each file of artifacts is in the store, after those are there that were not."""
        files = {}
        for artifact in artifacts:
            path = self._path(renaming, artifact.name)
            files.update({item.digest: (path / item.name, item) for item in artifact.files if item.size})
        self._leave(files)
        return {digest: self._known.places[digest] for digest in files}

    def _leave(self, files: Mapping[str, tuple[Path, Item]]) -> None:
        """Leave files in the store that are not there, by their digests."""
        missing = {digest: found for digest, found in files.items() if digest not in self._known.places}
        traffic = Traffic()
        self._known.places.update(send(self._store, missing, traffic))
        self._count(traffic)

    def _receive(self, given: _Given, outcome: Outcome) -> None:
        # Not in the thread that collects what the workers give.
        self._takers.submit(self._take_back, given, outcome)

    def _take_back(self, given: _Given, outcome: Outcome) -> None:
        try:
            taken = self._taken_back(given, outcome)
        except Exception as error:  # noqa: BLE001 - it is this job's outcome, whatever it is
            taken = _failed(given.job, NOT_BROUGHT, f"{type(error).__name__}: {error}")
        given.deliver(taken)

    def _taken_back(self, given: _Given, outcome: Outcome) -> Outcome:
        """What came of a job, after its files are here, as if it had run here."""
        if not isinstance(outcome, BroughtOutcome):
            return outcome
        with self._lock:
            self.traffic_of_workers.add(outcome.traffic)
        self._holdings.add(outcome.worker, (*given.sent.values(), *outcome.artifacts))
        changes: dict[str, Any] = {"call": str(given.job)}
        if outcome.ok and given.cancelled:
            changes |= {"value": None, "failure": Failure("cancelled", "it was cancelled")}
        elif outcome.ok:
            try:
                self._put_in_place(given, outcome)
            except (SurgelineError, OSError) as error:
                message = f"what it made could not be taken back: {error}"
                changes |= {"value": None, "failure": Failure(NOT_BROUGHT, message)}
        return replace(_brought_home(outcome, given, str(self._folder.absolute())), **changes)

    def _put_in_place(self, given: _Given, outcome: BroughtOutcome) -> None:
        made = {given.renaming.there(path) for path in given.job.declared.writes}
        come = {artifact.name for artifact in outcome.artifacts}
        gone = [Artifact(name, ()) for name in given.found - come]
        with self._lock:
            self._known.places.update(outcome.places)
        for artifact in (*outcome.artifacts, *gone):
            if given.sent.get(artifact.name) == artifact:
                continue
            path = self._path(given.renaming, artifact.name)
            arrival = Arrival(artifact, path, artifact.name in made, self._known.digests)
            wanted = arrival.digests
            arrival.begin()
            try:
                traffic = Traffic()
                places = {digest: self._known.places[digest] for digest in wanted}
                fetch(self._store, places, arrival.folder, traffic)
                self._count(traffic)
                arrival.complete()
            finally:
                shutil.rmtree(arrival.folder, ignore_errors=True)

    def _count(self, traffic: Traffic) -> None:
        with self._lock:
            self.traffic.add(traffic)


def own_store(url: str, options: Mapping[str, Any]) -> DataStore:
    """A folder for this session, and no other, in a store; nothing is done there yet.

    Args:
        url: where the store is, such as `s3://bucket/folder`.
        options: what fsspec needs to reach it.
    """
    return DataStore(url, f"{_NAME}{uuid.uuid4().hex[:8]}", dict(options))


def _is_held(note: Path) -> bool:
    """Whether a session that lives has left a note."""
    with note.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _remove_leftovers(note: Path, store: DataStore, folder: Path, tell: Callable[[str], None]) -> None:
    """Remove what a session that was killed has left, here and in the store."""
    for path in left_behind(folder):
        shutil.rmtree(path, ignore_errors=True)
    try:
        left = json.loads(note.read_text(encoding="utf-8"))
        old = replace(store, url=str(left["url"]), name=str(left["name"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkfolderError(
            f"{note} does not tell what was left in a store: {error}", "remove it, and what is left there by hand"
        ) from error
    if not old.name.startswith(_NAME) or "/" in old.name:
        raise WorkfolderError(f"{note} names {old.name!r}, which no session leaves", "remove the note")
    try:
        old.remove()
    except ClusterError as error:
        # No reason not to go on with a store that may be another one.
        tell(f"what a session that was killed left in {old} could not be removed: {error}")
        return
    note.unlink()
    tell(f"what a session that was killed left in {old} is removed")


def _brought_home(outcome: BroughtOutcome, given: _Given, folder: str) -> Outcome:
    """An outcome with the paths in it as they are here, where the session's folder is."""
    renaming = given.renaming
    rename = renaming.home(outcome.folder, folder)

    def text(said: str) -> str:
        return renaming.text_home(said, outcome.folder, folder)

    failure = outcome.failure
    return outcome.plain(
        value=in_value(outcome.value, rename),
        failure=failure and Failure(failure.kind, text(failure.message), text(failure.traceback)),
        commands=tuple(map(text, outcome.commands)),
        log=tuple(map(text, outcome.log)),
        inputs=_with_paths_back((given.whole.get(found.path, found) for found in outcome.inputs), renaming),
        outputs=_with_paths_back(outcome.outputs, renaming),
    )


def _with_paths_back(fingerprints: Iterable[Fingerprint], renaming: Renaming) -> tuple[Fingerprint, ...]:
    return tuple(replace(found, path=renaming.back(found.path)) for found in fingerprints)


def _beside(name: str, other: str) -> str:
    """What something at a name calls `other`, as its job calls it."""
    return os.path.normpath(Path(name).parent / other)


def _failed(job: Job, kind: str, message: str) -> Outcome:
    return Outcome(job.declared.name, str(job), failure=Failure(kind, message))
