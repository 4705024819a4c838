from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from surgeline.errors import DataError
from surgeline.simulate import Simulation, simulate
from surgeline.work.fingerprint import Fingerprint, Fingerprints, fingerprint, same_content

MEGABYTE = 2**20
LONG_AGO = (10**18, 10**18)


def write(path: Path, content: bytes = b"", size: int = 0) -> Path:
    """A file with some bytes at its beginning, and holes up to its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        handle.write(content)
        handle.truncate(max(size, len(content)))
    return path


def overwrite(path: Path, offset: int, content: bytes, keep_time: bool = False) -> None:
    """Write into a file in place; its time of modification changes, or is set back."""
    status = path.stat()
    with path.open("r+b") as handle:
        handle.seek(offset)
        handle.write(content)
    later = status.st_mtime_ns if keep_time else status.st_mtime_ns + 10**9
    os.utime(path, ns=(status.st_atime_ns, later))


def age(path: Path) -> None:
    for file in [path, *path.rglob("*")]:
        os.utime(file, ns=LONG_AGO, follow_symlinks=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "my.image" / "table.dat", b"columns")
    write(tmp_path / "my.image" / "table.f0", b"pixels")
    write(tmp_path / "my.image" / "logtable" / "table.dat", b"history")
    return tmp_path / "my.image"


def test_a_file_has_the_hash_that_sha256sum_gives(tmp_path: Path) -> None:
    content = os.urandom(3 * MEGABYTE)
    found = fingerprint(write(tmp_path / "x.fits", content))
    assert found.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert (found.path, found.kind, found.size, found.files) == (str(tmp_path / "x.fits"), "file", len(content), 1)
    assert found.exact
    assert 0 < found.seconds < 10


def test_a_file_up_to_64_megabytes_is_read_whole_and_a_larger_one_is_not(tmp_path: Path) -> None:
    whole = fingerprint(write(tmp_path / "whole", size=64 * MEGABYTE))
    larger = fingerprint(write(tmp_path / "larger", size=64 * MEGABYTE + 1))
    assert (whole.digest.partition(":")[0], whole.exact) == ("sha256", True)
    assert (larger.digest.partition(":")[0], larger.exact) == ("sampled", False)


@pytest.mark.parametrize("offset", [0, 65535, -1, -65536])
def test_both_ends_of_a_large_file_are_read(tmp_path: Path, offset: int) -> None:
    path = write(tmp_path / "large", size=100 * MEGABYTE)
    before = fingerprint(path)
    overwrite(path, offset % path.stat().st_size, b"\x01", keep_time=True)
    assert not same_content(fingerprint(path), before)


def test_a_piece_of_a_32nd_of_a_large_file_is_noticed_wherever_it_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "large", size=100 * MEGABYTE)
    before = fingerprint(path)
    piece = 100 * MEGABYTE // 32
    for offset in range(0, 100 * MEGABYTE - piece, 7 * MEGABYTE + 12345):
        overwrite(path, offset, b"\x01" * piece, keep_time=True)
        assert not same_content(fingerprint(path), before), offset
        overwrite(path, offset, b"\x00" * piece, keep_time=True)
    assert fingerprint(path) == before


def test_one_channel_of_all_tiles_of_a_large_file_is_noticed(tmp_path: Path) -> None:
    # Tiles of 1 MB, 16 channels after each other, as many times as there are: a period that sampling could share.
    path = write(tmp_path / "large", size=256 * MEGABYTE)
    before = fingerprint(path)
    for channel in range(16):
        for tile in range(256):
            overwrite(path, tile * MEGABYTE + channel * 65536, b"\x01" * 65536, keep_time=True)
        after = fingerprint(path)
        assert not same_content(after, before), channel
        before = after


def test_what_sampling_misses_shows_in_the_state(tmp_path: Path) -> None:
    path = write(tmp_path / "large", size=100 * MEGABYTE)
    before = fingerprint(path)
    missed = 0
    for offset in range(1_000_000, 100_000_000, 9_876_543):
        overwrite(path, offset, b"\x01")
        after = fingerprint(path)
        missed += same_content(after, before)
        assert after.state != before.state
        before = after
    assert missed > 0


def test_what_is_missing_is_the_same_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("nowhere")
    write(tmp_path / "file")
    for name in ("nothing", "dangling", "file/below"):
        found = fingerprint(tmp_path / name)
        assert (found.kind, found.size, found.files, found.digest, found.state) == ("missing", 0, 0, "", "")
        assert not same_content(found, found)


def test_folders_and_tables_are_told_apart(folder: Path) -> None:
    table = fingerprint(folder)
    assert (table.kind, table.size, table.files, table.exact) == ("table", 20, 3, True)
    assert table.digest.startswith("sampled:")
    assert fingerprint(folder.parent).kind == "folder"
    (folder / "empty").mkdir()
    assert fingerprint(folder / "empty").kind == "folder"
    assert same_content(fingerprint(folder), table)


def test_a_copy_has_the_digest_of_its_original_whatever_its_times(folder: Path) -> None:
    original = fingerprint(folder)
    copy = shutil.copytree(folder, folder.parent / "copy")
    age(copy)
    assert same_content(fingerprint(copy), original)
    assert fingerprint(copy).state != original.state


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte": lambda folder: overwrite(folder / "table.f0", 2, b"X"),
    "a byte of a subtable": lambda folder: overwrite(folder / "logtable" / "table.dat", 0, b"H"),
    "a file more, though empty": lambda folder: write(folder / "table.f1"),
    "a file less": lambda folder: (folder / "table.f0").unlink(),
    "another name": lambda folder: (folder / "table.f0").rename(folder / "table.f1"),
    "another place": lambda folder: (folder / "table.f0").rename(folder / "logtable" / "table.f0"),
    "a longer file": lambda folder: write(folder / "table.f0", b"pixels\0"),
    "a link": lambda folder: (folder / "ANTENNA").symlink_to("../other/ANTENNA"),
    "names that look like others": lambda folder: write(folder / os.fsdecode(b"\xff\n1:")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_noticed(folder: Path, change: str) -> None:
    before = fingerprint(folder)
    CHANGES[change](folder)
    after = fingerprint(folder)
    assert not same_content(after, before)
    assert after.state != before.state


def test_the_lock_files_do_not_count(folder: Path) -> None:
    before = fingerprint(folder)
    write(folder / "table.lock", b"process 1")
    (folder / "HISTORY").mkdir(exist_ok=True)
    write(folder / "HISTORY" / "table.f0", b"fluxscale has read this")
    write(folder / "logtable" / "table.lock", b"process 1")
    assert fingerprint(folder) == before


def test_links_count_by_what_they_say_and_a_link_that_is_asked_for_is_followed(folder: Path) -> None:
    link = folder / "ANTENNA"
    link.symlink_to("../first.ms/ANTENNA")
    before = fingerprint(folder)
    write(folder.parent / "first.ms" / "ANTENNA" / "table.dat", b"antennas")
    assert fingerprint(folder) == before
    link.unlink()
    link.symlink_to("../second.ms/ANTENNA")
    assert not same_content(fingerprint(folder), before)
    (folder.parent / "link").symlink_to(folder)
    assert same_content(fingerprint(folder.parent / "link"), fingerprint(folder))


def test_the_flags_beside_large_data_are_read_whole(tmp_path: Path) -> None:
    data = write(tmp_path / "my.ms" / "table.f1_TSM1", size=400 * MEGABYTE)
    flags = write(tmp_path / "my.ms" / "table.f2_TSM1", size=6 * MEGABYTE)
    before = fingerprint(tmp_path / "my.ms")
    assert not before.exact
    for offset in (0, 1_234_567, 6 * MEGABYTE - 1):
        overwrite(flags, offset, b"\x01", keep_time=True)
        after = fingerprint(tmp_path / "my.ms")
        assert not same_content(after, before)
        before = after
    overwrite(data, 0, b"\x01", keep_time=True)
    assert not same_content(fingerprint(tmp_path / "my.ms"), before)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(DataError, match=r"loop cannot be read: .*links"):
        fingerprint(loop)


def test_what_is_no_file_is_refused_rather_than_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with pytest.raises(DataError, match="pipe is neither a file"):
        fingerprint(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder.parent / "socket"))
        with pytest.raises(DataError, match="socket is neither a file"):
            fingerprint(folder.parent / "socket")


def test_a_known_path_is_read_again_only_when_its_state_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(folder)
    fingerprints = Fingerprints()
    first = fingerprints.of(folder)
    assert first == fingerprint(folder)
    # Behind its back: only who reads again would see this.
    overwrite(folder / "table.f0", 0, b"X", keep_time=True)
    assert fingerprints.of(folder) == first
    monkeypatch.chdir(folder.parent)
    assert fingerprints.of(folder.name).digest == first.digest
    assert fingerprints.of(folder.name).path == folder.name
    overwrite(folder / "table.f0", 0, b"X")
    assert fingerprints.of(folder) == fingerprint(folder) != first
    assert Fingerprints().of(folder) == fingerprint(folder)


def test_a_link_that_leads_elsewhere_is_another_path(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, name.encode())
        age(tmp_path / name)
    fingerprints = Fingerprints()
    found = []
    for name in ("a", "b"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(name)
        found.append(fingerprints.of(tmp_path / "link"))
    assert not same_content(*found)


def test_what_was_just_written_is_read_each_time(folder: Path) -> None:
    # Within one tick of the file system's clock a second write would leave the same state.
    fingerprints = Fingerprints()
    first = fingerprints.of(folder)
    overwrite(folder / "table.f0", 0, b"X", keep_time=True)
    second = fingerprints.of(folder)
    assert second.state == first.state
    assert not same_content(second, first)


def test_what_went_and_came_back_is_found(folder: Path) -> None:
    age(folder)
    fingerprints = Fingerprints()
    first = fingerprints.of(folder)
    away = folder.rename(folder.parent / "away")
    assert fingerprints.of(folder).kind == "missing"
    away.rename(folder)
    assert fingerprints.of(folder) == first


@pytest.fixture(scope="module")
def simulated(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fingerprint") / "vla.ms"
    simulate(path, Simulation(antennas=4, channels=4, integration_seconds=30.0, target_scans=1))
    return path


@pytest.fixture
def vis(simulated: Path, tmp_path: Path) -> Path:
    return shutil.copytree(simulated, tmp_path / "my.ms")


def opened(path: Path, writable: bool = False) -> Any:
    from casatools import table

    tool = table()
    tool.open(str(path), nomodify=not writable)
    return tool


def change(path: Path, column: str, how: Callable[[np.ndarray], object] = lambda values: None) -> Fingerprint:
    """Read a column, change its values in place, write it, and take the fingerprint of the table."""
    tool = opened(path, writable=True)
    values = tool.getcol(column)
    how(values)
    tool.putcol(column, values)
    tool.close()
    return fingerprint(path)


def test_copies_of_a_measurement_set_are_the_same(simulated: Path, tmp_path: Path) -> None:
    original = fingerprint(simulated)
    assert (original.kind, original.exact) == ("table", True)
    assert same_content(fingerprint(shutil.copytree(simulated, tmp_path / "copied.ms")), original)
    tool = opened(simulated)
    tool.copy(str(tmp_path / "by_casa.ms"), deep=True).close()
    tool.close()
    assert same_content(fingerprint(tmp_path / "by_casa.ms"), original)


def test_reading_a_measurement_set_changes_nothing(vis: Path) -> None:
    before = fingerprint(vis)
    for writable in (False, True):
        tool = opened(vis, writable)
        tool.getcol("DATA")
        tool.close()
    assert fingerprint(vis) == before


@pytest.mark.parametrize("column", ["DATA", "FLAG", "TIME"])
def test_a_column_rewritten_with_the_same_values_has_the_same_digest(vis: Path, column: str) -> None:
    before = fingerprint(vis)
    after = change(vis, column)
    assert same_content(after, before)
    assert after.state != before.state


def test_one_flag_is_noticed_and_so_is_its_way_back(vis: Path) -> None:
    def flip(flags: np.ndarray) -> None:
        flags[1, 2, 17] ^= True

    before = fingerprint(vis)
    flipped = change(vis, "FLAG", flip)
    assert not same_content(flipped, before)
    back = change(vis, "FLAG", flip)
    assert same_content(back, before)
    assert len({before.state, flipped.state, back.state}) == 3


def test_the_least_change_of_one_visibility_is_noticed(vis: Path) -> None:
    def nudge(data: np.ndarray) -> None:
        data.real[0, 3, 40] = np.nextafter(np.float32(data.real[0, 3, 40]), np.float32(np.inf), dtype=np.float32)

    before = fingerprint(vis)
    assert not same_content(change(vis, "DATA", nudge), before)


def test_a_subtable_belongs_to_its_table(vis: Path) -> None:
    def rename(names: np.ndarray) -> None:
        names[0] = "ea99"

    before = fingerprint(vis)
    change(vis / "ANTENNA", "NAME", rename)
    assert not same_content(fingerprint(vis), before)
