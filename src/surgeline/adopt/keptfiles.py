"""What lies in the Pipeline's folder: what its tasks may change in place, and what they made."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from surgeline.paths import PIPELINE_FOLDER, pipeline_note, pipeline_notes, set_aside_of, write_text

# What processes write as they go on, which is no state of data.
_LOGS = (".log", ".last", ".out")
_CALLS = "casacalls-"
# The commands and scripts of a reduction, to which each task adds.
_SCRIPTS = "casa_*.*"


def changeable(folder: Path, report: Path) -> tuple[str, ...]:
    """The MSs in the Pipeline's folder, and the files that tasks read and write, relative to the working folder.

    Such files are cont.dat, templates of flags, and what the Pipeline keeps of times and commands.

    Args:
        folder: the Pipeline's.
        report: the folder of its weblog, relative to its own.
    """
    return tuple(sorted(f"{PIPELINE_FOLDER}/{name}" for name in _changeable(folder, report)))


def _changeable(folder: Path, report: Path) -> Iterator[str]:
    for path in folder.iterdir():
        if path.is_dir():
            if (path / "table.dat").is_file() and (path / "ANTENNA").is_dir():
                yield path.name
        elif not path.name.startswith((".", _CALLS)) and path.suffix not in _LOGS:
            yield path.name
    for path in (folder / report).glob(_SCRIPTS):
        if path.is_file():
            yield path.relative_to(folder).as_posix()


@contextmanager
def noting_names(workdir: Path, stage: str, version: int) -> Iterator[None]:
    """A block of which it is noted what there was before it, and what after it, unless it is killed.

    Args:
        workdir: the session's working folder.
        stage: the stage whose task runs in it.
        version: the version of the session's context that the stage began at.
    """
    note = workdir / pipeline_note(stage, version)
    note.parent.mkdir(exist_ok=True)
    before = _names(workdir)
    write_text(note, json.dumps({"before": before}))
    try:
        yield
    finally:
        write_text(note, json.dumps({"before": before, "after": _names(workdir)}))


def set_aside(workdir: Path, since: int, version: int) -> tuple[tuple[str, str], ...]:
    """Move out of the way what attempts made that were interrupted, or are withdrawn: from where, and where to.

    Images and tables of the same names would be taken up where they are. What users have put there stays, unless
    they did so while, or after, a task was killed.

    Args:
        workdir: the session's working folder.
        since: attempts that began at a later version of the session's context.
        version: the version that the stage begins at which is about to run.
    """
    there = _names(workdir)
    made: set[str] = set()
    for began, note in pipeline_notes(workdir):
        if began > since:
            told = json.loads(note.read_text(encoding="utf-8"))
            made.update(set(told.get("after", there)) - set(told["before"]))
    moved = []
    for name in there:
        if name in made:
            place = workdir / set_aside_of(name, version)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(workdir / PIPELINE_FOLDER / name, place)
            moved.append((f"{PIPELINE_FOLDER}/{name}", set_aside_of(name, version)))
    return tuple(moved)


def _names(workdir: Path) -> list[str]:
    return sorted(path.name for path in (workdir / PIPELINE_FOLDER).iterdir())
