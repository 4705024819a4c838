"""What files and folders that travel consist of: told by names, times and digests of every byte."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path
from typing import Any, Literal

from surgeline.errors import DataError

# What CASA calls the description of an image that is joined by reference.
_JOINED = "imageconcat.json"
# File systems' clocks tick every 10 ms to 2 s: what is younger may be written again without its times showing it.
_LONGEST_TICK_NANOSECONDS = 2_000_000_000


@dataclass(frozen=True)
class Item:
    """A file, a folder or a link of an artifact.

    Attributes:
        name: relative to the artifact; empty for the artifact itself.
        kind: what it is.
        size: bytes of a file.
        modified: time of a file's last modification, in nanoseconds.
        mode: a file's permissions.
        target: what a link leads to.
        digest: BLAKE2b of a file's content.
    """

    name: str
    kind: Literal["file", "folder", "link"]
    size: int = 0
    modified: int = 0
    mode: int = 0
    target: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Artifact:
    """What is at a path: a file, or all of a folder, such as a MeasurementSet or an image.

    Attributes:
        name: the path, relative to the folder of the job.
        items: folders come before what is in them; none where nothing is.
    """

    name: str
    items: tuple[Item, ...]

    @property
    def files(self) -> list[Item]:
        return [item for item in self.items if item.kind == "file"]


class Digests:
    """Takes digests of whole files, and remembers those of files not written since. Threads may share it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, ...], str]] = {}
        self._places: dict[str, str] = {}
        self._lock = threading.Lock()

    def of(self, path: Path) -> str:
        """The digest of a file, which is read only if it may have been written since it was last.

        Raises:
            OSError: it cannot be read.
        """
        found = path.stat()
        known = self._known.get(str(path))
        if known is not None and known[0] == _identity(found):
            return known[1]
        digest = digest_of(path)
        if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _LONGEST_TICK_NANOSECONDS:
            self._remember(path, found, digest)
        return digest

    def is_known(self, path: Path, digest: str) -> None:
        """Remember the digest of a file that was just put there, and is written to by nobody yet."""
        self._remember(path, path.stat(), digest)

    def find(self, digest: str) -> Path | None:
        """A file that has this content, and was not written since that was seen."""
        place = self._places.get(digest)
        if place is None:
            return None
        try:
            found = Path(place).stat()
        except OSError:
            return None
        return Path(place) if self._known[place] == (_identity(found), digest) else None

    def _remember(self, path: Path, found: os.stat_result, digest: str) -> None:
        with self._lock:
            self._known[str(path)] = (_identity(found), digest)
            self._places[digest] = str(path)


def digest_of(path: Path) -> str:
    """The digest of a file's content."""
    with path.open("rb", buffering=0) as handle:
        return hashlib.file_digest(handle, _blake).hexdigest()


def digest_of_bytes(content: bytes | memoryview) -> str:
    """The digest of a content."""
    return hashlib.blake2b(content, digest_size=32).hexdigest()


def _blake() -> Any:
    return hashlib.blake2b(digest_size=32)


def survey(folder: Path, name: str, digests: Digests) -> Artifact:
    """What there is at a path.

    A link to something within the artifact stays a link, one that leads elsewhere counts as what it leads to. A path
    that is itself a link to something beside it stays one, too: see `referred`.

    Args:
        folder: of the job.
        name: the path, relative to it.
        digests: of files.

    Raises:
        DataError: something cannot be read, or is neither file, folder nor link.
    """
    place = folder / name
    try:
        items = tuple(_items(place, "", place, digests))
    except FileNotFoundError as error:
        if os.path.lexists(place):
            raise DataError(
                f"{error.filename or place} vanished while it was read", "let nothing else work on it"
            ) from error
        items = ()
    except OSError as error:
        raise DataError(f"{error.filename or place} cannot be read: {error.strerror}", "make it readable") from error
    return Artifact(name, items)


def _items(place: Path, name: str, root: Path, digests: Digests) -> Iterator[Item]:
    found = place.lstat()
    if stat.S_ISLNK(found.st_mode):
        target = str(place.readlink())
        if _stays(place, target, root if name else root.parent):
            yield Item(name, "link", target=target)
            return
        found = place.stat()
    if stat.S_ISDIR(found.st_mode):
        yield Item(name, "folder")
        for entry in sorted(place.iterdir()):
            yield from _items(entry, f"{name}/{entry.name}" if name else entry.name, root, digests)
    elif stat.S_ISREG(found.st_mode):
        mode = stat.S_IMODE(found.st_mode)
        yield Item(name, "file", found.st_size, found.st_mtime_ns, mode, digest=digests.of(place))
    else:
        raise OSError(errno.EINVAL, "it is neither a file, a folder nor a link", str(place))


def _stays(link: Path, target: str, root: Path) -> bool:
    """Whether a link leads to something in a folder, by a relative path."""
    place = os.path.normpath(link.parent / target)
    return not Path(target).is_absolute() and Path(place).is_relative_to(root)


def referred(folder: Path, artifact: Artifact) -> list[str]:
    """The paths that an artifact refers to by name: what a link leads to, and the parts of an image joined by
    reference. They are relative to the folder of the job, as the artifact's own.

    Raises:
        DataError: the image's description cannot be read.
    """
    beside = Path(artifact.name).parent
    for item in artifact.items:
        if not item.name and item.kind == "link":
            return [os.path.normpath(beside / item.target)]
        if item.name == _JOINED:
            parts = _parts(folder / artifact.name / _JOINED)
            # CASA writes them relative to where the image is.
            return [os.path.normpath(beside / part) for part in parts if not Path(part).is_absolute()]
    return []


def _parts(description: Path) -> Sequence[str]:
    try:
        found = json.loads(description.read_text(encoding="utf-8"))["Images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{description} does not tell which images are joined: {error}", "make the joined image again"
        ) from error
    return [str(part) for part in found]


def matching(folder: Path, patterns: Sequence[str]) -> set[str]:
    """The paths in a folder, relative to it, that there are for names or patterns such as `images/a.*`."""
    found: set[str] = set()
    for pattern in patterns:
        if has_magic(pattern):
            found.update(glob(pattern, root_dir=folder))  # noqa: PTH207 - of a pattern that may be absolute
        elif os.path.lexists(folder / pattern):
            found.add(pattern)
    return found


def _identity(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
