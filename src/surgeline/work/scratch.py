"""A worker's own disk: the folder of its jobs, and the files that it was brought, kept by their content."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from surgeline.errors import WorkfolderError
from surgeline.work.artifacts import Artifact, Digests, Item, survey
from surgeline.work.datastore import DataStore
from surgeline.work.packs import SMALL, Place, Traffic, fetch, free_space, send


class Scratch:
    """Holds the files of one job at a time; those that it was brought before need not be brought again.

    What a job changes in place is told by size and time, and is kept under its new content.
    """

    def __init__(self, folder: Path) -> None:
        """Begin with nothing: what another process left there may have been half written."""
        self._root = folder
        self.remove()
        self.folder = folder / "job"
        self._cache = folder / "cache"
        self.folder.mkdir(parents=True)
        self._cache.mkdir()
        self._digests = Digests()
        # What is in the cache: size and time of modification, those that were used last at the end.
        self._kept: dict[str, tuple[int, int]] = {}

    def bring(
        self,
        store: DataStore,
        artifacts: Iterable[Artifact],
        places: Mapping[str, Place],
        limit: int | None,
        traffic: Traffic,
    ) -> None:
        """Put what a job needs into its folder.

        Args:
            store: where it is.
            artifacts: what the job needs.
            places: where each file's content is in the store.
            limit: bytes that may be kept for later jobs, what this one needs included if it is less; None for half
                of what the disk has.
            traffic: is counted up.

        Raises:
            ClusterError: the store does not give it.
            WorkfolderError: there is no space for it.
        """
        artifacts = list(artifacts)
        needed = {item.digest: item.size for artifact in artifacts for item in artifact.files if item.size}
        missing = {digest: places[digest] for digest in needed if digest not in self._kept}
        try:
            self._make_room(needed, sum(place.size for place in missing.values()), limit)
            fetch(store, missing, self._cache, traffic)
            for digest in needed:
                self._keep(digest, self._cache / digest)
            for artifact in artifacts:
                for item in artifact.items:
                    self._lay_out(self.folder / artifact.name / item.name, item)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise WorkfolderError(
                f"the worker's disk at {self.folder} has no space for the {sum(needed.values()) / 1e9:.3g} GB "
                "that the job works on",
                "give workers a larger scratch volume, or name a folder on a larger disk",
            ) from error

    def take(
        self, store: DataStore, names: Iterable[str], places: Mapping[str, Place], traffic: Traffic
    ) -> tuple[list[Artifact], dict[str, Place]]:
        """Leave in the store what a job has made and changed.

        Args:
            store: where to.
            names: the paths of what has come of the job.
            places: contents that are in the store already.
            traffic: is counted up.

        Returns:
            what there is at each path, and where the contents are that were not in the store before.

        Raises:
            ClusterError: the store does not take it.
            DataError: it cannot be read.
        """
        artifacts = [survey(self.folder, name, self._digests) for name in names]
        new = {
            item.digest: (self.folder / artifact.name / item.name, item)
            for artifact in artifacts
            for item in artifact.files
            if item.size and item.digest not in places
        }
        sent = send(store, new, traffic)
        for digest, (path, _) in new.items():
            kept = self._cache / digest
            if digest not in self._kept:
                os.link(path, kept)
                self._keep(digest, kept)
        return artifacts, sent

    def clear(self) -> None:
        """Empty the folder of the job, and forget the files that it has written to."""
        for digest, known in list(self._kept.items()):
            found = (self._cache / digest).stat()
            if (found.st_size, found.st_mtime_ns) != known:
                self._drop(digest)
        for entry in self.folder.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def remove(self) -> None:
        """Leave nothing on the disk."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _keep(self, digest: str, path: Path) -> None:
        self._kept.pop(digest, None)
        found = path.stat()
        self._kept[digest] = found.st_size, found.st_mtime_ns

    def _drop(self, digest: str) -> None:
        (self._cache / digest).unlink()
        del self._kept[digest]

    def _make_room(self, needed: Mapping[str, int], coming: int, limit: int | None) -> None:
        """Drop what was not used for longest, until what comes fits."""
        held = sum(size for size, _ in self._kept.values())
        free = free_space(self._cache)
        if limit is None:
            limit = (free + held) // 2
        for digest, (size, _) in list(self._kept.items()):
            if held + coming <= limit and coming <= free:
                return
            if digest not in needed:
                self._drop(digest)
                held -= size
                free += size

    def _lay_out(self, path: Path, item: Item) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if item.kind == "folder":
            path.mkdir(exist_ok=True)
        elif os.path.lexists(path):
            # Part of something else that is declared, too.
            return
        elif item.kind == "link":
            path.symlink_to(item.target)
        else:
            self._put_content(path, item)
            path.chmod(item.mode | 0o600)
            os.utime(path, ns=(item.modified, item.modified))
            self._digests.is_known(path, item.digest)
            if item.size:
                self._keep(item.digest, self._cache / item.digest)

    def _put_content(self, path: Path, item: Item) -> None:
        kept = self._cache / item.digest
        if item.size == 0:
            path.touch()
        # Links cost nothing; but two names of one file have one time, and what is small may as well be copied.
        elif item.size > SMALL and kept.stat().st_nlink == 1:
            os.link(kept, path)
        else:
            shutil.copyfile(kept, path)
