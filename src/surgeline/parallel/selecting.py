"""Of large MeasurementSets, copies of those rows that jobs read, made on the session's side."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from surgeline.errors import DataError
from surgeline.paths import arriving
from surgeline.work.artifacts import Artifact, Digests, Item, survey
from surgeline.work.packs import free_space
from surgeline.work.rows import NO_COPY
from surgeline.work.selection import Selection

# Of a smaller one all is sent in less time than a process with CASA takes to start (2 s at 1 Gbit/s).
SMALLEST = 256 * 2**20
# Where workers have so much of it already, sending the rest costs less than copies do, of which they have nothing.
_MOSTLY_THERE = 0.75
# How often it is looked whether a copy is still wanted.
_LOOK_SECONDS = 0.2
# What casacore writes when a table is only read.
_LOCK = "table.lock"
Leave = Callable[[Mapping[str, tuple[Path, Item]]], None]


class Holdings:
    """Remembers what workers were brought and have made; some of it they may have dropped since."""

    def __init__(self) -> None:
        """Begin with none."""
        self._contents: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def add(self, worker: str, artifacts: Iterable[Artifact]) -> None:
        """A worker has had the files of some artifacts."""
        digests = {item.digest for artifact in artifacts for item in artifact.files}
        with self._lock:
            self._contents.setdefault(worker, set()).update(digests)

    def share(self, artifact: Artifact, workers: int) -> float:
        """How much of an artifact's main table so many workers have, from 0 to 1."""
        files = [item for item in artifact.items if _is_of_main_table(item)]
        with self._lock:
            there = sum(item.size for digests in self._contents.values() for item in files if item.digest in digests)
        return there / max(1, sum(item.size for item in files)) / max(1, workers)


class SelectedRows:
    """Makes copies of selected rows, leaves them in the store, and remembers what they consist of.

    A copy is on this disk only until it is in the store. Its subtables are those of the whole.
    """

    def __init__(self, folder: Path, leave: Leave, tell: Callable[[str], None]) -> None:
        """Make nothing yet.

        Args:
            folder: where copies are made, under names of what is arriving: what a killed session left is removed
                as that is.
            leave: leaves files in the store.
            tell: called with what a user wants to know.
        """
        self._folder = folder
        self._leave = leave
        self._tell = tell
        # The files of each copy's main table; None where the whole is sent.
        self._known: dict[tuple[Selection, tuple[tuple[str, str], ...]], tuple[Item, ...] | None] = {}

    def of(
        self,
        path: Path,
        look: Callable[[], Artifact],
        selection: Selection,
        share: Callable[[Artifact], float],
        withdrawn: Callable[[], bool],
    ) -> Artifact:
        """What to bring of an MS: a copy of the selected rows, or all of it where a copy does not pay.

        Args:
            path: the MS.
            look: says what there is of it now.
            selection: the rows that are read.
            share: how much of it workers have already, from 0 to 1.
            withdrawn: whether nobody wants it any more.

        Raises:
            ClusterError: the store does not take the copy.
            DataError: the MS was changed meanwhile, or nobody wants the copy any more.
        """
        whole = look()
        content = _content(whole)
        if (selection, content) not in self._known:
            if not _may_pay(whole) or share(whole) > _MOSTLY_THERE:
                return whole
            files = self._made(path, selection, withdrawn)
            # CASA may have written locks; and nothing else may have been written.
            whole = look()
            if _content(whole) != content:
                raise DataError(
                    f"{path} was changed while rows of it were copied", "end what writes to it, then run again"
                )
            self._known[selection, content] = files
        copied = self._known[selection, content]
        if copied is None:
            return whole
        return replace(whole, items=(*(item for item in whole.items if not _is_of_main_table(item)), *copied))

    def _made(self, path: Path, selection: Selection, withdrawn: Callable[[], bool]) -> tuple[Item, ...] | None:
        """The files of the main table of a copy, which are in the store from now on; None if there is no copy."""
        folder = arriving(self._folder / f"rows-{uuid.uuid4().hex}").absolute()
        folder.mkdir()
        try:
            if not self._ran(path, folder / path.name, selection, withdrawn):
                return None
            found = survey(folder, path.name, Digests())
            items = tuple(item for item in found.items if _is_of_main_table(item))
            self._leave({item.digest: (folder / path.name / item.name, item) for item in items if item.size})
            return items
        finally:
            shutil.rmtree(folder)

    def _ran(self, path: Path, copy: Path, selection: Selection, withdrawn: Callable[[], bool]) -> bool:
        """Whether a copy has been made."""
        command = [sys.executable, "-m", "surgeline.work.rows", str(path.absolute()), str(copy)]
        output = copy.parent / "output"
        with output.open("wb") as said:
            process = subprocess.Popen(
                [*command, selection.field, selection.spw],
                cwd=copy.parent,
                # It ends when this process does, whichever way.
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
            )
            with process:
                while True:
                    try:
                        code = process.wait(_LOOK_SECONDS)
                        break
                    except subprocess.TimeoutExpired:
                        if withdrawn():
                            process.kill()
        if withdrawn():
            raise DataError(f"rows of {path} are not wanted any more", "run again")
        if code not in (0, NO_COPY):
            last = output.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
            free = free_space(copy.parent)
            self._tell(
                f"rows of {path} could not be copied, so that all of it is sent (exit code {code}, "
                f"{free / 1e9:.3g} GB free): {last or 'it said nothing'}"
            )
        return code == 0


def _may_pay(whole: Artifact) -> bool:
    """Whether an artifact is a large MS in one piece; a multi-MS has its rows in others."""
    names = {item.name for item in whole.items}
    size = sum(item.size for item in whole.items if _is_of_main_table(item))
    return {"table.dat", "DATA_DESCRIPTION", "FIELD"} <= names and "SUBMSS" not in names and size >= SMALLEST


def _is_of_main_table(item: Item) -> bool:
    return item.kind == "file" and "/" not in item.name


def _content(whole: Artifact) -> tuple[tuple[str, str], ...]:
    return tuple((item.name, item.digest) for item in whole.items if Path(item.name).name != _LOCK)
