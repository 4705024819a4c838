"""Keeps the state of data before a stage changes them in place, and puts it back for another attempt."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgeline.context import datastate
from surgeline.context.store import Commit
from surgeline.errors import DataError
from surgeline.paths import SessionPaths, safe_name, saved_state
from surgeline.work.fingerprint import fingerprint
from surgeline.work.jobs import FunctionCall, Job, JobRequest


class StageData:
    """The data that one run of a stage changes in place: each is saved before the first job that changes it."""

    def __init__(self, stage: str, number: int) -> None:
        """Begin.

        Args:
            stage: its name.
            number: which commit of the stage this run is to end in, from 1.
        """
        self._stage = stage
        self._number = number
        self._lock = threading.Lock()
        # The columns that each state of a path keeps; each keeps those of the states before it, too, which jobs
        # that come later may change again. None for all.
        self._kept: dict[str, list[frozenset[str] | None]] = {}
        # What jobs were given to change since the latest of its states.
        self._given: set[str] = set()

    def jobs_before(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs that save what a batch of jobs is going to change and is not saved yet."""
        columns: dict[str, frozenset[str] | None] = {}
        for job in jobs:
            for path in job.declared.changes:
                changed = _columns(job)
                known = columns.get(path, frozenset())
                columns[path] = None if changed is None or known is None else known | changed
        saving: list[Job] = []
        with self._lock:
            for path, changed in columns.items():
                kept = self._kept.setdefault(path, [])
                latest = kept[-1] if kept else frozenset()
                if kept and (latest is None or (changed is not None and latest >= changed)):
                    continue
                if changed is not None and latest is not None:
                    changed |= latest
                kept.append(changed)
                self._given.discard(path)
                folder = saved_state(self._stage, self._number, path, len(kept))
                names = None if changed is None else tuple(sorted(changed))
                saving.append(
                    FunctionCall(datastate.save, path, folder, names).declare(
                        name=f"keep {path} as it is", reads=[path], keeps=[folder, f"{path}.flagversions"]
                    )
                )
        return saving

    def truly_changed(self, paths: SessionPaths, job: FunctionCall) -> FunctionCall:
        """A job that ended and could not tell before what it would change: what it did change, it now says."""
        same = []
        for path in job.declared.changes:
            folder = paths.workdir / saved_state(self._stage, self._number, path, 1)
            if folder.is_dir() and not datastate.differences(str(folder)):
                same.append(path)
        changed = [path for path in job.declared.changes if path not in same]
        return job.declare(changes=changed, reads=[*job.declared.reads, *same])

    def with_way_back(self, jobs: Sequence[Job]) -> list[Job]:
        """A batch of jobs whose data are saved: where a job finds them as they were saved, it may be begun again."""
        number = Counter(path for job in jobs for path in job.declared.changes)
        found = []
        with self._lock:
            for job in jobs:
                changes = job.declared.changes
                if changes and all(number[path] == 1 and path not in self._given for path in changes):
                    job = job.declare(mends=[FunctionCall(datastate.restore, self._latest(path)) for path in changes])
                found.append(job)
            self._given.update(number)
        return found

    def _latest(self, path: str) -> str:
        return saved_state(self._stage, self._number, path, len(self._kept[path]))


def _columns(job: Job) -> frozenset[str] | None:
    """The columns that a job may change of what it changes; None for anything."""
    columns = datastate.columns_changed_by([job.task]) if isinstance(job, JobRequest) else None
    return None if columns is None else frozenset(columns)


@dataclass(frozen=True)
class _Kept:
    """A saved state: the stage and commit before which it was saved, and the order in which it was."""

    folder: Path
    stage: str
    number: int
    turn: int
    when: float


def take_over(paths: SessionPaths, log: Sequence[Commit], stage: str, number: int, changes: Iterable[str]) -> None:
    """Have states that were kept for stages which then changed nothing be those before this stage, if they still are.

    So what may be changed by each of many stages, and is by few, is copied for these alone.

    Args:
        paths: of the session.
        log: the context's commits.
        stage: the stage that is about to run.
        number: which commit of the stage this run is to end in.
        changes: what it may change.
    """
    numbers = _versions(log)
    names = {str(Path(paths.workdir, name).resolve()): name for name in changes}
    latest: dict[str, _Kept] = {}
    for kept in sorted(_all_kept(paths), key=lambda state: (state.when, state.turn)):
        name = names.get(datastate.path_of(str(kept.folder)))
        if name is not None:
            latest[name] = kept
    for name, kept in latest.items():
        commit = numbers.get((kept.stage, kept.number))
        if commit is None or commit.withdrawn_by is not None or name in commit.details["files"]["changed"]:
            continue
        if not datastate.differences(str(kept.folder)):
            place = paths.workdir / saved_state(stage, number, name, 1)
            place.parent.mkdir(parents=True, exist_ok=True)
            kept.folder.rename(place)


def put_back(paths: SessionPaths, log: Sequence[Commit], tell: Callable[[str], None]) -> None:
    """Undo what interrupted attempts and withdrawn stages changed in place, the last change first.

    Can be called again, also after it was killed in the middle.

    Raises:
        DataError: something cannot be put back; says what differs, and what to do.
    """
    numbers = _versions(log)
    names = {safe_name(commit.stage): commit.stage for commit in log}
    undone = []
    for kept in _all_kept(paths):
        commit = numbers.get((kept.stage, kept.number))
        if commit is None or commit.withdrawn_by is not None:
            undone.append(kept)
    for kept in sorted(undone, key=lambda state: (state.when, state.turn), reverse=True):
        before = names.get(kept.stage, kept.stage)
        try:
            restored = datastate.restore(str(kept.folder))
        except DataError as error:
            raise DataError(
                f"the data cannot be put back as they were before stage {before!r}: {error.message}",
                "mend that, or begin again from the stage that made them: surgeline run … --from import",
            ) from error
        if restored.put_back or restored.removed:
            tell(f"{_relative(paths, restored.path)} is put back as it was before {before}")
    for kept in undone:
        datastate.drop(str(kept.folder))


def check_can_be_undone(paths: SessionPaths, log: Sequence[Commit], stages: Mapping[str, str]) -> None:
    """See whether the data that stages changed in place can be put back as they were, before anything is touched.

    Args:
        paths: of the session.
        log: the context's commits.
        stages: those that are to run again.

    Raises:
        DataError: what they were before is not kept.
    """
    kept = {(state.stage, state.number) for state in _all_kept(paths)}
    made_anew: set[str] = set()
    holding = [commit for commit in log if commit.withdrawn_by is None and commit.stage in stages]
    for commit in holding:
        files = commit.details.get("files", {})
        changed = set(files.get("changed", ())) - made_anew
        number = sum(other.stage == commit.stage and other.version <= commit.version for other in log)
        if changed and (safe_name(commit.stage), number) not in kept:
            raise DataError(
                f"stage {commit.stage!r} is to run again, and {', '.join(sorted(changed))} is not kept as it was "
                "before it",
                "begin from the stage that made it: surgeline run … --from import (see session.keep_states)",
            )
        made_anew.update(files.get("written", ()))


def check_untouched(paths: SessionPaths, log: Iterable[Commit]) -> None:
    """See whether the data are as the stages that hold left them.

    Raises:
        DataError: something else has changed them since.
    """
    left: dict[str, tuple[str, str, str]] = {}
    for commit in log:
        if commit.withdrawn_by is None:
            files, states = commit.details.get("files", {}), commit.details.get("states", {})
            for path, digest in {**files.get("written", {}), **files.get("changed", {})}.items():
                left[path] = (commit.stage, digest, states.get(path, ""))
    for path, (stage, digest, state) in left.items():
        place = paths.workdir / path
        # Products are for people to do with as they like.
        if not path.startswith("data/") or not place.exists():
            continue
        found = fingerprint(place)
        if found.state != state and found.digest != digest:
            raise DataError(
                f"{path} is not what stage {stage!r} left: something else has changed it since",
                f"put it back as it was, or make it anew: surgeline resume --workdir {paths.workdir} --from "
                "the stage that made it",
            )


def drop_states(paths: SessionPaths, stage: str) -> None:
    """Forget what the data were before a stage."""
    for kept in _all_kept(paths):
        if kept.stage == safe_name(stage):
            datastate.drop(str(kept.folder))


def cost(paths: SessionPaths) -> dict[str, int]:
    """How many states are kept, and what they take on disk, in bytes."""
    kept = _all_kept(paths)
    return {"number": len(kept), "bytes": sum(datastate.cost(str(state.folder)) for state in kept)}


def set_aside(paths: SessionPaths, commits: Iterable[Commit]) -> None:
    """Move products and pictures of withdrawn stages out of the way of those that replace them."""
    for commit in commits:
        for name in commit.details.get("files", {}).get("written", ()):
            path = paths.workdir / name
            if name.startswith(("products/", "pictures/")) and path.is_file():
                kept = paths.replaced / str(commit.version) / name
                kept.parent.mkdir(parents=True, exist_ok=True)
                path.replace(kept)


def _versions(log: Iterable[Commit]) -> dict[tuple[str, int], Commit]:
    """The commits by stage, as in file names, and number."""
    found: dict[tuple[str, int], Commit] = {}
    counts: dict[str, int] = {}
    for commit in log:
        counts[commit.stage] = counts.get(commit.stage, 0) + 1
        found[safe_name(commit.stage), counts[commit.stage]] = commit
    return found


def _all_kept(paths: SessionPaths) -> list[_Kept]:
    found = []
    for folder in sorted(paths.states.glob("*/*")):
        manifest = folder / "state.json"
        if folder.name.endswith(".partial") or not manifest.is_file():
            continue
        stage, _, number = folder.parent.name.rpartition(".")
        turn = re.match(r"(\d+)\.", folder.name)
        if stage and number.isdigit() and turn:
            found.append(_Kept(folder, stage, int(number), int(turn[1]), manifest.stat().st_mtime))
    return found


def _relative(paths: SessionPaths, path: str) -> str:
    return str(Path(path).relative_to(paths.workdir)) if Path(path).is_relative_to(paths.workdir) else path
