"""Files by their content, to a store and from it: small ones together, since each request takes its time."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from surgeline.errors import ClusterError, DataError
from surgeline.work.artifacts import Item, digest_of, digest_of_bytes
from surgeline.work.datastore import DataStore

# Files up to this size travel together, in packs of about that one.
SMALL = 2**20
_PACK = 8 * 2**20
# So many bytes that are not wanted are fetched rather than asking twice.
_GAP = 256 * 2**10
_AT_ONCE = 4


@dataclass(frozen=True)
class Place:
    """Where a content is in a store: which pack, from which byte, how many; and whether the pack is nothing else."""

    pack: str
    offset: int
    size: int
    alone: bool


@dataclass
class Traffic:
    """What went to a store and came from it: bytes, and requests."""

    sent: int = 0
    fetched: int = 0
    requests: int = 0

    def add(self, other: Traffic) -> None:
        """Count what another has counted."""
        self.sent += other.sent
        self.fetched += other.fetched
        self.requests += other.requests


def send(store: DataStore, files: Mapping[str, tuple[Path, Item]], traffic: Traffic) -> dict[str, Place]:
    """Leave files in a store.

    Args:
        store: where to.
        files: by their digests; each with what was seen of it.
        traffic: is counted up.

    Returns:
        where each is, by its digest.

    Raises:
        ClusterError: the store does not take them.
        DataError: a file was changed meanwhile, or cannot be read.
    """
    places: dict[str, Place] = {}
    for sent in _all_at_once([partial(_send_pack, store, pack) for pack in _packs(files)]):
        places.update(sent)
    traffic.sent += sum(place.size for place in places.values())
    traffic.requests += len({place.pack for place in places.values()})
    return places


def _packs(files: Mapping[str, tuple[Path, Item]]) -> Iterator[dict[str, tuple[Path, Item]]]:
    pack: dict[str, tuple[Path, Item]] = {}
    size = 0
    for digest, (path, item) in files.items():
        if item.size > SMALL:
            yield {digest: (path, item)}
            continue
        pack[digest] = path, item
        size += item.size
        if size >= _PACK:
            yield pack
            pack, size = {}, 0
    if pack:
        yield pack


def _send_pack(store: DataStore, files: Mapping[str, tuple[Path, Item]]) -> dict[str, Place]:
    try:
        if len(files) == 1:
            ((digest, (path, item)),) = files.items()
            name = store.put_file(path)
            found = path.stat()
            if (found.st_size, found.st_mtime_ns) != (item.size, item.modified):
                raise _changed(path)
            return {digest: Place(name, 0, item.size, alone=True)}
        content = bytearray()
        offsets = {}
        for digest, (path, _) in files.items():
            offsets[digest] = len(content)
            read = path.read_bytes()
            if digest_of_bytes(read) != digest:
                raise _changed(path)
            content += read
        name = store.put(bytes(content))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}", "make it readable") from error
    return {digest: Place(name, offset, files[digest][1].size, alone=False) for digest, offset in offsets.items()}


def _changed(path: Path) -> DataError:
    return DataError(f"{path} was changed while it was being sent", "end what writes to it, then run again")


def fetch(store: DataStore, wanted: Mapping[str, Place], folder: Path, traffic: Traffic) -> None:
    """Bring contents from a store: each appears in a folder under its digest when it is there, and checked.

    Args:
        store: where from.
        wanted: where each is there, by its digest.
        folder: where to; on the file system where the files are wanted.
        traffic: is counted up.

    Raises:
        ClusterError: the store does not give them, or gives others than were left there.
        OSError: there is no space for them.
    """
    by_pack: dict[str, dict[str, Place]] = {}
    for digest, place in wanted.items():
        by_pack.setdefault(place.pack, {})[digest] = place
    work: list[Callable[[], tuple[int, int]]] = []
    for inside in by_pack.values():
        for part in _stretches(inside):
            digest, place = next(iter(part.items()))
            if place.alone:
                work.append(partial(_fetch_file, store, digest, place, folder))
            else:
                work.append(partial(_fetch_stretch, store, part, folder))
    for size, requests in _all_at_once(work):
        traffic.fetched += size
        traffic.requests += requests


def _stretches(inside: Mapping[str, Place]) -> Iterator[dict[str, Place]]:
    """The contents of a pack that are near enough to each other to be fetched by one request."""
    stretch: dict[str, Place] = {}
    end = 0
    for digest, place in sorted(inside.items(), key=lambda found: found[1].offset):
        if stretch and place.offset > end + _GAP:
            yield stretch
            stretch = {}
        stretch[digest] = place
        end = place.offset + place.size
    if stretch:
        yield stretch


def _fetch_file(store: DataStore, digest: str, place: Place, folder: Path) -> tuple[int, int]:
    for attempt in (1, 2):
        unfinished = folder / f"{uuid.uuid4().hex}.partial"
        try:
            store.get_file(place.pack, unfinished)
            if digest_of(unfinished) == digest:
                unfinished.replace(folder / digest)
                return attempt * place.size, attempt
        finally:
            unfinished.unlink(missing_ok=True)
    raise _damaged(store)


def _fetch_stretch(store: DataStore, stretch: Mapping[str, Place], folder: Path) -> tuple[int, int]:
    begin = min(place.offset for place in stretch.values())
    end = max(place.offset + place.size for place in stretch.values())
    for attempt in (1, 2):
        content = memoryview(store.get(next(iter(stretch.values())).pack, begin, end))
        parts = {
            digest: content[place.offset - begin : place.offset - begin + place.size]
            for digest, place in stretch.items()
        }
        if all(digest_of_bytes(part) == digest for digest, part in parts.items()):
            for digest, part in parts.items():
                unfinished = folder / f"{uuid.uuid4().hex}.partial"
                unfinished.write_bytes(part)
                unfinished.replace(folder / digest)
            return attempt * (end - begin), attempt
    raise _damaged(store)


def _damaged(store: DataStore) -> ClusterError:
    return ClusterError(
        f"{store} gave other content than was left there, twice",
        "look after its disks, or name another one: clusters.NAME.data; nothing of it was used",
    )


def _all_at_once(work: Sequence[Callable[[], Any]]) -> Iterable[Any]:
    if len(work) <= 1:
        return [call() for call in work]
    with ThreadPoolExecutor(min(_AT_ONCE, len(work)), thread_name_prefix="transfer") as threads:
        return list(threads.map(lambda call: call(), work))


def free_space(folder: Path) -> int:
    """How many bytes a file system has left for this user."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
