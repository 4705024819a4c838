"""What a file, a folder or a casacore table holds, told by digests that are cheap enough to take at every stage.

Two digests answer two questions. Neither knows anything of CASA: they see what is on disk, not what a process that
has a table open still holds back.

`digest` is of the content alone: names, sizes, bytes, and the text of links inside a folder; no times, no owners, no
`table.lock`, no HISTORY of an MS. Any copy has the digest of its original.

- Different digests: the content differs. Bytes count, not their meaning: casacore leaves bytes that it does not use
  as they happen to be, and tasks write the time into images and FITS headers, so that the same work done
  twice hardly ever has the same digest.
- The same digest, and `exact`: the content is the same, for every byte was read. This holds for files up to 64 MB and
  folders up to 16 MB.
- The same digest, not `exact`: names and sizes are the same, and so is every byte of the smallest files, up to 16 MB
  together (the flags of about 1 GB of visibilities, which take a 64th of their size). Of each file larger than
  those, 64 blocks of 64 kB were read, so a change is always seen where it covers a 32nd of the file in one piece,
  nearly always where it is spread over the file (an antenna, a channel), and hardly ever where it is a few bytes:
  with a chance of 4 MB to the file's size, 1 in 2,500 for 10 GB. For those, see `state`.

`state` is of names, sizes, times of modification and the text of links: it tells whether anything was written since.

- The same path and state: nothing was written meanwhile, not one bit of any file of whatever size. What can hide a
  write that keeps sizes: setting the time back (`cp -p`, `rsync -t`, `tar` over what was there), two writes within
  one tick of the file system's clock (some milliseconds on local disks, up to seconds elsewhere), a memory mapping
  that is not flushed, and the few seconds that a network file system takes to tell other machines.
- Different states: something was written, perhaps with the same content, or this is a copy: compare the digests.

Links inside a folder, and tables that name other tables (a virtual concatenation, a selection), count by the names
that they hold: what those names lead to has a fingerprint of its own. A path that is itself a link is followed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from surgeline.errors import DataError

_WHOLE_FILE = 64 * 2**20
_WHOLE_FOLDER = 16 * 2**20
_BLOCK = 64 * 2**10
# casacore writes the one when a table is only read, and some tasks tell the other that they read an MS.
_NOT_CONTENT = frozenset({"table.lock", "HISTORY"})
_BLOCKS = 64
# A later write within the tick of a file system's clock would not show in a state as young as this. A time with a
# part of a second tells of a clock that ticks a hundred times a second at least.
_FINE_TICK_NANOSECONDS, _COARSE_TICK_NANOSECONDS = 20_000_000, 2_000_000_000


@dataclass(frozen=True)
class Fingerprint:
    """What a path held when it was looked at; the module says what each digest guarantees.

    Attributes:
        path: as it was given.
        kind: file, table (a folder with a table.dat), folder or missing.
        size: of all files together, in bytes.
        files: how many files and links there are.
        digest: of the content; `sha256:` and the hash of the whole file, as sha256sum gives it, or `sampled:` and a
            hash of what was read. Empty for what is missing.
        state: of sizes and times of modification. Empty for what is missing.
        exact: whether every byte was read.
        seconds: how long taking it lasted.
    """

    path: str
    kind: str
    size: int
    files: int
    digest: str
    state: str
    exact: bool
    seconds: float = field(compare=False)


class Fingerprints:
    """Takes fingerprints and remembers them: what was not written since costs no more than looking at its times.

    Whoever makes it owns what it remembers, one fingerprint a path; threads may share it.
    """

    def __init__(self) -> None:
        self._known: dict[Path, Fingerprint] = {}

    def of(self, path: str | Path) -> Fingerprint:
        """The fingerprint of a path, read again only where its state changed.

        What was modified less than two seconds ago is read each time, since its state cannot be relied on yet.

        Raises:
            DataError: something there cannot be read.
        """
        started = time.perf_counter()
        listing = _listing(Path(path))
        place = Path(path).resolve()
        known = self._known.get(place)
        if known is not None and (known.kind, known.state) == (listing.kind, listing.state):
            return replace(known, path=str(path), seconds=time.perf_counter() - started)
        found = _read(path, listing, started)
        if listing.settled:
            self._known[place] = found
        return found


def fingerprint(path: str | Path) -> Fingerprint:
    """Take the fingerprint of a file, folder or casacore table; reads up to 16 MB, and 4 MB of each file beyond.

    Nothing may write there meanwhile: the state is taken first, so that a write would show in the next one.

    Raises:
        DataError: something there cannot be read, or is neither file, folder nor link.
    """
    started = time.perf_counter()
    return _read(path, _listing(Path(path)), started)


def same_content(a: Fingerprint, b: Fingerprint) -> bool:
    """Whether two fingerprints are of the same content, wherever it is; what is missing has none.

    True is certain where both are `exact`; False always is.
    """
    return a.digest == b.digest != ""


@dataclass(frozen=True)
class _Entry:
    """A file, or a link with its text; the name is relative to the folder, and empty for a file by itself."""

    name: str
    path: Path
    size: int = 0
    modified: int = 0
    link: Path | None = None


@dataclass(frozen=True)
class _Listing:
    """What is at a path, before anything of it is read; `settled` means that any later write will change `state`."""

    kind: str
    entries: tuple[_Entry, ...]
    state: str
    settled: bool


def _listing(path: Path) -> _Listing:
    now = time.time_ns()
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            entries = tuple(sorted(_entries(path, ""), key=lambda entry: entry.name))
            kind = "table" if any(entry.name == "table.dat" for entry in entries) else "folder"
        else:
            entries, kind = (_file("", path, status),), "file"
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.exists():
            raise _unreadable(path, error) from error
        return _Listing("missing", (), "", True)
    except OSError as error:
        raise _unreadable(path, error) from error
    youngest = max((entry.modified for entry in entries), default=0)
    tick = _FINE_TICK_NANOSECONDS if youngest % 1_000_000_000 else _COARSE_TICK_NANOSECONDS
    state = _hash((*_identity(entry), b"%d" % entry.modified) for entry in entries)
    return _Listing(kind, entries, state, now - youngest > tick)


def _entries(folder: Path, prefix: str) -> Iterator[_Entry]:
    with os.scandir(folder) as items:
        for item in items:
            name, path = prefix + item.name, Path(item.path)
            if item.name in _NOT_CONTENT:
                continue
            if item.is_symlink():
                yield _Entry(name, path, link=path.readlink())
            elif item.is_dir():
                yield from _entries(path, f"{name}/")
            else:
                yield _file(name, path, item.stat())


def _file(name: str, path: Path, status: os.stat_result) -> _Entry:
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is neither a file, a folder nor a link", "move it elsewhere: it holds no data")
    return _Entry(name, path, status.st_size, status.st_mtime_ns)


def _read(path: str | Path, listing: _Listing, started: float) -> Fingerprint:
    """Read what a listing names, and make the fingerprint."""
    digest, exact = "", True
    try:
        if listing.kind == "file":
            (entry,) = listing.entries
            exact = entry.size <= _WHOLE_FILE
            digest = f"sha256:{_sha256(entry.path)}" if exact else f"sampled:{_hash([_content(entry, exact)])}"
        elif listing.kind != "missing":
            whole = _read_whole(listing.entries)
            contents = (_content(entry, entry.name in whole) for entry in listing.entries)
            digest, exact = f"sampled:{_hash(contents)}", len(whole) == len(listing.entries)
    except OSError as error:
        raise _unreadable(Path(path), error) from error
    return Fingerprint(
        path=str(path),
        kind=listing.kind,
        size=sum(entry.size for entry in listing.entries),
        files=len(listing.entries),
        digest=digest,
        state=listing.state,
        exact=exact,
        seconds=time.perf_counter() - started,
    )


def _read_whole(entries: Iterable[_Entry]) -> set[str]:
    """The names of those that are read from end to end: the smallest, and what sampling would read all of."""
    whole, left = set(), _WHOLE_FOLDER
    for entry in sorted(entries, key=lambda entry: (entry.size, entry.name)):
        left -= entry.size
        if left >= 0 or entry.size <= _BLOCKS * _BLOCK:
            whole.add(entry.name)
    return whole


def _identity(entry: _Entry) -> tuple[bytes, bytes, bytes]:
    link = b"" if entry.link is None else os.fsencode(entry.link)
    return os.fsencode(entry.name), link, b"%d" % entry.size


def _content(entry: _Entry, whole: bool) -> tuple[bytes, ...]:
    if entry.link is not None:
        return (*_identity(entry), b"")
    digest = hashlib.blake2b(digest_size=32)
    with entry.path.open("rb", buffering=0) as handle:
        if whole:
            hashlib.file_digest(handle, lambda: digest)
        else:
            for offset in _offsets(entry.size):
                digest.update(os.pread(handle.fileno(), _BLOCK, offset))
    return (*_identity(entry), digest.digest())


def _offsets(size: int) -> list[int]:
    """Where blocks begin: one in each of 64 equal stretches of a file, the first and the last at its ends."""
    stretch = size // _BLOCKS
    # Tiles repeat along a file: blocks at equal distances could all hit the same channels. Multiples of the golden
    # ratio spread them over the stretches.
    shift = [(stretch - _BLOCK) * (number * 40503 % 65536) // 65536 for number in range(_BLOCKS)]
    return [0, *(number * stretch + shift[number] for number in range(1, _BLOCKS - 1)), size - _BLOCK]


def _hash(records: Iterable[tuple[bytes, ...]]) -> str:
    """One hash of many records; the length of each part stands before it, so that no two lists look alike."""
    digest = hashlib.blake2b(digest_size=32)
    for record in records:
        for part in record:
            digest.update(b"%d:" % len(part) + part)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb", buffering=0) as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{error.filename or path} cannot be read: {error.strerror}",
        "make it readable, and let nothing move or remove it meanwhile, then run again",
    )
