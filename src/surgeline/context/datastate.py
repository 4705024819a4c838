"""The state of data that are changed in place: saved before a stage changes them, put back for another attempt."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from surgeline.errors import BadInput, DataError, WorkfolderError
from surgeline.paths import partial, write_text

_MANIFEST = "state.json"
# The ioctl of Linux that lets two files share their blocks on disk until one of them is written to.
_FICLONE = 0x40049409
_BLOCK = 64 * 1024
_SAMPLES = 16
# File systems' clocks tick every 10 ms to 2 s: what was written within so long before a file was looked at may be
# written again without its time showing it.
_LONGEST_TICK_NS = 2_000_000_000
_STORAGE_MANAGER_FILE = re.compile(r"table\.f(\d+)(?!\d)")
_DOUBT = "may have other content"

_FLAGS = ("FLAG", "FLAG_ROW")
_WEIGHTS = ("WEIGHT", "SIGMA", "WEIGHT_SPECTRUM", "SIGMA_SPECTRUM")

# Which columns of the MAIN table each task may write to, add or remove; subtables are always kept whole.
COLUMNS_CHANGED: Mapping[str, tuple[str, ...]] = {
    "applycal": ("CORRECTED_DATA", *_FLAGS, "WEIGHT", "WEIGHT_SPECTRUM"),
    "clearcal": ("CORRECTED_DATA", "MODEL_DATA"),
    "delmod": ("MODEL_DATA",),
    "fixvis": ("DATA", "CORRECTED_DATA", "MODEL_DATA", "UVW"),
    "flagdata": _FLAGS,
    "flagmanager": _FLAGS,
    "ft": ("MODEL_DATA",),
    "initweights": _WEIGHTS,
    "setjy": ("MODEL_DATA",),
    "statwt": (*_FLAGS, *_WEIGHTS),
    # When it saves its model.
    "tclean": ("MODEL_DATA",),
}


def columns_changed_by(tasks: Iterable[str]) -> tuple[str, ...] | None:
    """The MAIN columns that some tasks of casatasks may change, or None, for any, when one of them is not known."""
    columns: set[str] = set()
    for task in tasks:
        if task not in COLUMNS_CHANGED:
            return None
        columns.update(COLUMNS_CHANGED[task])
    return tuple(sorted(columns))


@dataclass(frozen=True)
class SavedState:
    """A state that was saved.

    Attributes:
        path: the data, with their whole path.
        folder: where the state is kept.
        method: "reflink", everything shares its blocks with the data; "columns", everything was copied except
            columns that are not expected to change; "copy", everything was copied.
        changes: the MAIN columns that were said to change, or None for any.
        seconds: how long it took to save.
        bytes: what it took on disk. What is shared costs nothing until the data are changed, and then at most as
            much as is changed.
    """

    path: str
    folder: str
    method: Literal["reflink", "columns", "copy"]
    changes: tuple[str, ...] | None
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Restored:
    """What it took to put a state back.

    Attributes:
        path: the data, with their whole path.
        put_back: what was changed, or may have been, or was gone; such as "my.ms/table.f3_TSM1".
        removed: what had not been there.
        seconds: how long it took.
    """

    path: str
    put_back: tuple[str, ...]
    removed: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class _Entry:
    """A file, a folder or a symbolic link as it was; `kept` where a saved state has the file's content."""

    kind: Literal["file", "folder", "link"]
    size: int = 0
    mtime_ns: int = 0
    target: str = ""
    checksum: str = ""
    kept: bool = False


@dataclass(frozen=True)
class _Tree:
    """One of the places that a state consists of: the data, and the versions of their flags.

    Attributes:
        place: where it belongs; it may be a file.
        copies: where kept files are, by the same names.
        entries: what was there, by name relative to `place`, which is "" itself; parents come before children.
            None at all when nothing was there.
        doubtful_ns: files with this or a later time may have been written again at the same time.
    """

    place: Path
    copies: Path
    entries: dict[str, _Entry]
    doubtful_ns: int


@dataclass(frozen=True)
class _Plan:
    """What has to be done to put a tree back: names to remove, to make, and to give their old time."""

    tree: _Tree
    remove: list[str]
    make: list[str]
    stamp: list[str]
    impossible: list[str]


def save(path: str, folder: str, changes: tuple[str, ...] | None) -> SavedState:
    """Save the state of an MS, another table, or any file or folder, before it is changed in place.

    Where the file system can share blocks between files, everything is kept and nothing is copied. Elsewhere files
    are copied, except those of a table's columns that are not said to change: of these only sizes, times and
    sampled checksums are kept. `<path>.flagversions` belongs to the state, and so do the table.lock files: casacore
    counts a table's rows in them.

    No process, this one included, may write to the data meanwhile, or have a table of them open: closing a lock
    file gives up the locks that the process had on it. A table is opened with casatools, but only where `changes`
    are given and blocks cannot be shared.

    Args:
        path: what to save.
        folder: where to; it appears there once it is complete. What is there already is returned as it is: it is
            the state before an attempt that was interrupted.
        changes: the columns of the MAIN table that may be changed, added or removed; None for anything at all.

    Raises:
        BadInput: `folder` lies within the data.
        DataError: the data do not exist, change meanwhile, or cannot be saved.
        WorkfolderError: `folder` cannot be written, has no space, or is something else.
    """
    started, saved_ns = time.monotonic(), time.time_ns()
    data, destination = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    if os.path.lexists(destination):
        return _saved_before(data, destination)
    if not os.path.lexists(data):
        raise DataError(f"{path} does not exist, so its state cannot be saved", "make it first")
    places = {"data": data, "flagversions": _flag_versions(data)}
    for place in places.values():
        if destination.is_relative_to(place):
            raise BadInput(f"{folder} lies within {place}, whose state it is to keep", "choose another folder")
    unfinished = partial(destination)
    way_out = "make space, or make both readable and the folder writable"
    with _in_words(f"the state of {data} cannot be saved in {destination}", way_out), _made_anew(unfinished):
        trees = {
            name: _Tree(place, unfinished / name, _scan(place), saved_ns - _LONGEST_TICK_NS)
            for name, place in places.items()
        }
        method, only_recorded = _method(trees["data"], changes)
        if method != "reflink":
            _check_space(trees.values(), only_recorded, unfinished)
        written = _keep(trees["data"], only_recorded) + _keep(trees["flagversions"], frozenset())
        state = SavedState(
            path=str(data),
            folder=str(destination),
            method=method,
            changes=changes,
            seconds=round(time.monotonic() - started, 3),
            bytes=written,
        )
        _write_manifest(unfinished, state, trees)
        unfinished.rename(destination)
    return state


def restore(saved_folder: str) -> Restored:
    """Put the data back exactly as they were saved; can be called again, also after it was killed in the middle.

    Changed files are replaced, never written to, and what had not been there is removed. A process that has a table
    of the data open goes on seeing what it had, and spoils what was put back when it writes: that all tables are
    closed is up to the caller. No CASA is needed.

    A file whose content was not kept counts as unchanged when its size and time are the same, or its size and its
    sampled checksum.

    Raises:
        DataError: there is no such state; or it cannot be put back, since something has changed that was not kept.
            Nothing has been touched then.
        WorkfolderError: the data cannot be written.
    """
    started = time.monotonic()
    state, trees = _load(saved_folder)
    way_out = "make space, or make both readable and the data writable; then run again, and it goes on from there"
    with _in_words(f"{state.path} cannot be put back as it was", way_out):
        plans = [_plan(tree) for tree in trees]
        _refuse_what_is_impossible(state, plans)
        for plan in plans:
            _carry_out(plan)
    return Restored(
        path=state.path,
        put_back=tuple(_short(plan.tree, name) for plan in plans for name in plan.make),
        removed=tuple(_short(plan.tree, name) for plan in plans for name in _topmost(plan.remove)),
        seconds=round(time.monotonic() - started, 3),
    )


def differences(saved_folder: str) -> list[str]:
    """What of the data now differs from a saved state, in words: a line for each file, folder or link.

    Nothing is changed. Files whose times leave doubt are read: whole, or only samples of those that were not kept.

    Raises:
        DataError: there is no such state.
        WorkfolderError: something cannot be read.
    """
    state, trees = _load(saved_folder)
    found = []
    with _in_words(f"{state.path} cannot be compared with its saved state", "make both readable"):
        for tree in trees:
            verdicts = _verdicts(tree, _scan(tree.place))
            differing = [
                name for name, words in verdicts.items() if words != _DOUBT or not _has_same_content(tree, name)
            ]
            for name in _topmost(differing):
                words = verdicts[name]
                found.append(f"{tree.place / name} {'has other content' if words == _DOUBT else words}")
    return found


def path_of(saved_folder: str) -> str:
    """The data that a state is of, with their whole path.

    Raises:
        DataError: there is no such state.
    """
    state, _ = _load(saved_folder)
    return state.path


def drop(saved_folder: str) -> None:
    """Remove a saved state from disk; one that is gone already is fine.

    Raises:
        WorkfolderError: the folder holds something else, or cannot be removed.
    """
    folder = Path(os.path.realpath(saved_folder))
    unfinished = partial(folder)
    with _in_words(f"the saved state {folder} cannot be removed", "make the folder that holds it writable"):
        if os.path.lexists(folder):
            if not _is_complete(folder):
                raise WorkfolderError(f"{folder} is no saved state, so it is not removed", "remove it by hand")
            shutil.rmtree(unfinished, ignore_errors=True)
            # Half a state must not look like a whole one, should removing it be interrupted.
            folder.rename(unfinished)
        if unfinished.exists():
            shutil.rmtree(unfinished)


def cost(saved_folder: str) -> int:
    """What a saved state took on disk when it was saved, in bytes; 0 where blocks are shared with the data.

    Raises:
        DataError: there is no such state.
    """
    state, _ = _load(saved_folder)
    return state.bytes


def _flag_versions(data: Path) -> Path:
    """Where CASA keeps versions of the flags of a table; it does so beside what a symbolic link leads to."""
    return Path(os.path.realpath(data.with_name(f"{data.name}.flagversions")))


def _is_complete(folder: Path) -> bool:
    return (folder / _MANIFEST).is_file()


def _saved_before(data: Path, destination: Path) -> SavedState:
    if not _is_complete(destination):
        raise WorkfolderError(f"{destination} exists and is no saved state", "remove it, or choose another folder")
    state, _ = _load(str(destination))
    if state.path != str(data):
        raise WorkfolderError(f"{destination} holds the state of {state.path}, not of {data}", "drop it first")
    return state


@contextmanager
def _in_words(what: str, way_out: str) -> Iterator[None]:
    """Tell what the operating system refuses."""
    try:
        yield
    except OSError as error:
        culprit = error.filename2 or error.filename
        cause = error.strerror or str(error)
        raise WorkfolderError(f"{what}: {culprit}: {cause}" if culprit else f"{what}: {cause}", way_out) from error


@contextmanager
def _made_anew(folder: Path) -> Iterator[None]:
    """An empty folder, without what an earlier attempt left; gone when something goes wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _scan(place: Path) -> dict[str, _Entry]:
    """What there is at a place and under it; symbolic links are not followed."""
    found = {}
    waiting = [""] if os.path.lexists(place) else []
    while waiting:
        name = waiting.pop()
        status = (place / name).lstat()
        if stat.S_ISDIR(status.st_mode):
            found[name] = _Entry("folder")
            waiting += [f"{name}/{child.name}".lstrip("/") for child in (place / name).iterdir()]
        elif stat.S_ISLNK(status.st_mode):
            found[name] = _Entry("link", target=str((place / name).readlink()))
        elif stat.S_ISREG(status.st_mode):
            found[name] = _Entry("file", size=status.st_size, mtime_ns=status.st_mtime_ns)
        else:
            raise DataError(f"{place / name} is neither a file nor a folder nor a link", "remove it")
    return dict(sorted(found.items()))


def _method(
    data: _Tree, changes: tuple[str, ...] | None
) -> tuple[Literal["reflink", "columns", "copy"], frozenset[str]]:
    """How to save the data, and the names of the files of which only the looks are recorded."""
    if _can_share_blocks(data):
        return "reflink", frozenset()
    if changes is not None and (data.place / "table.dat").is_file():
        return "columns", _files_of_other_columns(data.place, changes)
    return "copy", frozenset()


def _can_share_blocks(tree: _Tree) -> bool:
    files = {name: entry.size for name, entry in tree.entries.items() if entry.kind == "file"}
    if not files:
        return False
    largest = tree.place / max(files, key=files.__getitem__)
    with largest.open("rb") as source, tempfile.TemporaryFile(dir=tree.copies.parent) as target:
        return _share_blocks(source.fileno(), target.fileno())


def _share_blocks(source: int, target: int) -> bool:
    """Let one open file have the blocks, and so the content, of another; whether the file system can."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        # File systems refuse it in many ways. Where the reason is another, a full disk say, copying fails too.
        return False
    return True


def _files_of_other_columns(path: Path, changes: tuple[str, ...]) -> frozenset[str]:
    """The files of the storage managers that hold none of the columns that may change."""
    from casatools import table

    try:
        with closing(table()) as main:
            main.open(str(path))
            managers = main.getdminfo().values()
    except RuntimeError as error:
        raise DataError(f"{path} cannot be opened as a table: {error}", "repair it, or make it again") from error
    names = [file.name for file in path.iterdir()]
    files = {name: int(match[1]) for name in names if (match := _STORAGE_MANAGER_FILE.match(name))}
    changing = {int(manager["SEQNR"]) for manager in managers if set(changes) & set(manager["COLUMNS"])}
    if not changing <= set(files.values()):
        # A column without a file is computed from others, and there is no telling which these are.
        return frozenset()
    known = {int(manager["SEQNR"]) for manager in managers}
    return frozenset(name for name, number in files.items() if number in known - changing)


def _check_space(trees: Iterable[_Tree], only_recorded: frozenset[str], folder: Path) -> None:
    """Say beforehand when a disk would fill up, since all others who write to it would suffer too."""
    needed = sum(entry.size for tree in trees for name, entry in tree.entries.items() if name not in only_recorded)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WorkfolderError(
            f"No space left: a state takes {needed / 1e6:.1f} MB, and {folder.parent} has {free / 1e6:.1f} MB",
            "free some space, or use a file system that shares blocks between files, such as xfs or btrfs",
        )


def _keep(tree: _Tree, only_recorded: frozenset[str]) -> int:
    """Keep a tree's files and complete its entries; the bytes that were written."""
    written = 0
    for name, entry in tree.entries.items():
        place, kept = tree.place / name, tree.copies / name
        if entry.kind == "folder":
            kept.mkdir(parents=True)
        elif entry.kind == "link":
            _check_link(tree.place, place)
        elif name in only_recorded:
            tree.entries[name] = replace(entry, checksum=_sampled_checksum(place))
        else:
            kept.parent.mkdir(parents=True, exist_ok=True)
            written += _copy(place, kept)
            tree.entries[name] = replace(entry, checksum=_sampled_checksum(kept), kept=True)
        if entry.kind == "file":
            _check_unchanged(place, entry)
    return written


def _check_link(root: Path, link: Path) -> None:
    if not Path(os.path.realpath(link)).is_relative_to(root):
        raise DataError(
            f"{link} is a link that leads out of {root}, so its state cannot be saved",
            "put what it leads to in its place",
        )


def _check_unchanged(place: Path, entry: _Entry) -> None:
    status = place.stat()
    if (status.st_size, status.st_mtime_ns) != (entry.size, entry.mtime_ns):
        raise DataError(f"{place} was changed while it was being saved", "end what writes to it, then run again")


def _copy(source: Path, target: Path) -> int:
    """Copy a file with its times, sharing blocks where the file system can; the bytes that were written."""
    with source.open("rb") as reading, target.open("wb") as writing:
        shared = _share_blocks(reading.fileno(), writing.fileno())
    if not shared:
        shutil.copyfile(source, target)
    shutil.copystat(source, target)
    return 0 if shared else target.stat().st_size


def _sampled_checksum(path: Path) -> str:
    """A checksum of a file's size and of some of its blocks, the first and the last among them."""
    with path.open("rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        checksum = blake2b(str(size).encode(), digest_size=16)
        last = max(0, size - _BLOCK)
        steps = min(_SAMPLES - 1, -(-last // _BLOCK))
        for step in range(steps + 1):
            handle.seek(last * step // max(1, steps))
            checksum.update(handle.read(_BLOCK))
    return checksum.hexdigest()


def _write_manifest(unfinished: Path, state: SavedState, trees: Mapping[str, _Tree]) -> None:
    # Where the data are is told relative to the state, so that both can move, or be copied, together.
    described = {
        name: {
            "place": os.path.relpath(tree.place, state.folder),
            "doubtful_ns": tree.doubtful_ns,
            "entries": {relative: asdict(entry) for relative, entry in tree.entries.items()},
        }
        for name, tree in trees.items()
    }
    how = {name: getattr(state, name) for name in ("method", "changes", "seconds", "bytes")}
    write_text(unfinished / _MANIFEST, json.dumps({**how, "trees": described}, indent=1))


def _load(saved_folder: str) -> tuple[SavedState, list[_Tree]]:
    folder = Path(os.path.realpath(saved_folder))
    if not _is_complete(folder):
        raise DataError(f"{folder} holds no saved state", "save one before the data are changed")
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        trees = {
            name: _Tree(
                place=Path(os.path.normpath(folder / described["place"])),
                copies=folder / name,
                entries={relative: _Entry(**entry) for relative, entry in described["entries"].items()},
                doubtful_ns=described["doubtful_ns"],
            )
            for name, described in manifest["trees"].items()
        }
        changes = manifest["changes"]
        state = SavedState(
            path=str(trees["data"].place),
            folder=str(folder),
            method=manifest["method"],
            changes=None if changes is None else tuple(changes),
            seconds=manifest["seconds"],
            bytes=manifest["bytes"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the saved state {folder} cannot be read: {error}", "remove it, and make the data again"
        ) from error
    return state, list(trees.values())


def _verdicts(tree: _Tree, now: dict[str, _Entry]) -> dict[str, str]:
    """How what is there now differs from what was, in words, by name, or in doubt; without reading any file."""
    verdicts = {}
    for name in sorted(tree.entries.keys() | now.keys()):
        words = _difference(tree.entries.get(name), now.get(name), tree.doubtful_ns)
        if words:
            verdicts[name] = words
    return verdicts


def _difference(saved: _Entry | None, now: _Entry | None, doubtful_ns: int) -> str:
    if saved is None:
        return "is new"
    if now is None:
        return "is gone"
    if saved.kind != now.kind:
        return f"is a {now.kind} and was a {saved.kind}"
    if saved.target != now.target:
        return f"leads to {now.target} and led to {saved.target}"
    if saved.size != now.size:
        return f"has {now.size} bytes and had {saved.size}"
    if saved.kind == "file" and (saved.mtime_ns != now.mtime_ns or saved.mtime_ns >= doubtful_ns):
        return _DOUBT
    return ""


def _has_same_content(tree: _Tree, name: str) -> bool:
    """Whether a file of the same size has its old content, as far as that is known."""
    saved = tree.entries[name]
    if not saved.kept:
        return _sampled_checksum(tree.place / name) == saved.checksum
    with (tree.place / name).open("rb") as now, (tree.copies / name).open("rb") as kept:
        while block := now.read(16 * _BLOCK):
            if block != kept.read(16 * _BLOCK):
                return False
    return True


def _topmost(names: Iterable[str]) -> list[str]:
    """Those of some names whose folders are not among them."""
    known = set(names)
    return [name for name in sorted(known) if known.isdisjoint(_folders_of(name))]


def _folders_of(name: str) -> list[str]:
    """The folders that a name lies in, up to the root of its tree, ""."""
    if not name:
        return []
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts))]


def _plan(tree: _Tree) -> _Plan:
    now = _scan(tree.place)
    plan = _Plan(tree, [], [], [], [])
    for name, words in _verdicts(tree, now).items():
        saved = tree.entries.get(name)
        if saved is None:
            plan.remove.append(name)
        elif saved.kind == "file" and not saved.kept:
            if words == _DOUBT and _has_same_content(tree, name):
                plan.stamp.append(name)
            else:
                changed = "has other content" if words == _DOUBT else words
                plan.impossible.append(f"{tree.place / name} {changed}, and its content was not kept")
        else:
            # Files are replaced as they are; what is of another kind, or leads elsewhere, is in the way.
            if name in now and (now[name].kind, saved.kind) != ("file", "file"):
                plan.remove.append(name)
            plan.make.append(name)
            if saved.kind == "file" and not _is_intact(tree, name):
                plan.impossible.append(f"{tree.place / name} {words}, and its copy {tree.copies / name} is damaged")
    return plan


def _is_intact(tree: _Tree, name: str) -> bool:
    kept = tree.copies / name
    return kept.is_file() and _sampled_checksum(kept) == tree.entries[name].checksum


def _refuse_what_is_impossible(state: SavedState, plans: list[_Plan]) -> None:
    impossible = [words for plan in plans for words in plan.impossible]
    if not impossible:
        return
    way_out = "make the data again: run from the stage that makes them, or in a new working folder"
    if not os.path.lexists(state.path):
        raise DataError(f"{state.path} is gone, and not all of it was kept: {impossible[0]}", way_out)
    more = f"; so it is with {len(impossible) - 1} more of its files" if len(impossible) > 1 else ""
    raise DataError(f"{state.path} cannot be put back as it was: {impossible[0]}{more}", way_out)


def _carry_out(plan: _Plan) -> None:
    tree = plan.tree
    # Children before their folders; and before anything is made, since this gives space free.
    for name in sorted(plan.remove, reverse=True):
        place = tree.place / name
        if place.is_dir() and not place.is_symlink():
            place.rmdir()
        else:
            place.unlink()
    # Beside the data, so that an attempt that is killed leaves nothing in them.
    aside = tree.place.with_name(f"{tree.place.name}.restoring")
    shutil.rmtree(aside, ignore_errors=True)
    if plan.make:
        with _made_anew(aside):
            for name in plan.make:
                _make(tree, name, aside)
        aside.rmdir()
    for name in plan.stamp:
        _set_time(tree.place / name, tree.entries[name].mtime_ns)


def _make(tree: _Tree, name: str, aside: Path) -> None:
    place, entry = tree.place / name, tree.entries[name]
    if entry.kind == "folder":
        place.mkdir()
    elif entry.kind == "link":
        place.symlink_to(entry.target)
    else:
        copied = aside / "file"
        _copy(tree.copies / name, copied)
        _set_time(copied, entry.mtime_ns)
        copied.replace(place)


def _set_time(path: Path, mtime_ns: int) -> None:
    # Nobody but its owner may set a file's time, even to what it is.
    if path.stat().st_mtime_ns != mtime_ns:
        os.utime(path, ns=(mtime_ns, mtime_ns))


def _short(tree: _Tree, name: str) -> str:
    return f"{tree.place.name}/{name}" if name else tree.place.name
