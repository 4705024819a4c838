"""Puts what comes back from a worker where the session has its files: checked, and then by renaming."""

from __future__ import annotations

import os
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from surgeline.errors import DataError
from surgeline.paths import arriving
from surgeline.work.artifacts import Artifact, Digests, Item, digest_of, survey


class Arrival:
    """What there will be at one path.

    What the job made whole appears there at once. Of what it changed, those files are replaced that differ, when all
    of them have come.
    """

    def __init__(self, artifact: Artifact, path: Path, whole: bool, digests: Digests) -> None:
        """See what is there already.

        Args:
            artifact: what is to be there.
            path: where.
            whole: whether nothing of what is there stays.
            digests: of the session's files.

        Raises:
            DataError: what is there cannot be read.
        """
        self._artifact = artifact
        self._path = path
        self._digests = digests
        self._now = {item.name: item for item in survey(path.parent, path.name, digests).items}
        folders = [items[0].kind == "folder" for items in (list(self._now.values()), artifact.items) if items]
        self._anew = whole or folders != [True, True]
        # How many names still want each content.
        self._wanted: Counter[str] = Counter()
        self.folder = arriving(path)

    @property
    def digests(self) -> set[str]:
        """The contents that have to come: those that no file here has."""
        made = [item for item in self._changed() if item.size and self._is_made(item)]
        return {item.digest for item in made if not self._here(item)}

    def begin(self) -> None:
        """Make the folder that contents come to."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def complete(self) -> None:
        """Put all in its place; what had to come is in `folder`, under its digest.

        Raises:
            DataError: a file here, whose content was wanted in another place, was changed meanwhile.
        """
        self._wanted = Counter(item.digest for item in self._changed() if self._is_made(item))
        try:
            if not self._artifact.items:
                _remove(self._path)
            elif self._anew:
                self._put_anew()
            else:
                self._put_changed()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _changed(self) -> list[Item]:
        """The items that are not here as they are to be."""
        return [item for item in self._artifact.items if self._anew or self._now.get(item.name) != item]

    def _here(self, item: Item) -> Path | None:
        return self._digests.find(item.digest)

    def _put_anew(self) -> None:
        made = self.folder / "whole"
        for item in self._artifact.items:
            self._make(made / item.name, item)
        if self._path.is_dir() and not self._path.is_symlink():
            old = self.folder / "old"
            self._path.rename(old)
        made.rename(self._path)
        for item in self._artifact.files:
            self._digests.is_known(self._path / item.name, item.digest)

    def _put_changed(self) -> None:
        made = {}
        for item in self._changed():
            if item.kind != "folder" and self._is_made(item):
                made[item] = self.folder / uuid.uuid4().hex
                self._make(made[item], item)
        kept = {item.name for item in self._artifact.items}
        for name in sorted(self._now.keys() - kept, reverse=True):
            _remove(self._path / name)
        for item in self._changed():
            place = self._path / item.name
            if item.kind == "folder":
                place.mkdir(exist_ok=True)
            elif item in made:
                if place.is_dir() and not place.is_symlink():
                    shutil.rmtree(place)
                made[item].replace(place)
            else:
                os.utime(place, ns=(item.modified, item.modified))
            if item.kind == "file":
                self._digests.is_known(place, item.digest)

    def _is_made(self, item: Item) -> bool:
        """Whether an item is made from its content; what was only touched keeps it."""
        now = self._now.get(item.name)
        same = now is not None and (now.kind, now.digest, now.target) == (item.kind, item.digest, item.target)
        return self._anew or not same

    def _make(self, path: Path, item: Item) -> None:
        if item.kind == "folder":
            path.mkdir()
        elif item.kind == "link":
            path.symlink_to(item.target)
        else:
            come = self.folder / item.digest
            if come.exists():
                # Several names may have the same content.
                self._wanted[item.digest] -= 1
                if self._wanted[item.digest]:
                    shutil.copyfile(come, path)
                else:
                    come.replace(path)
            elif item.size == 0:
                path.touch()
            elif (here := self._here(item)) is not None:
                shutil.copyfile(here, path)
                if digest_of(path) != item.digest:
                    raise DataError(f"{here} was changed while it was copied", "end what writes to it")
            else:
                raise DataError(f"the content of {self._path / item.name} has gone from here", "run again")
            path.chmod(item.mode | 0o600)
            os.utime(path, ns=(item.modified, item.modified))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def left_behind(folder: Path) -> Iterator[Path]:
    """What a session that was killed had not yet put in its place."""
    yield from folder.rglob(arriving(Path("*")).name)
