from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from surgeline.work.arrival import Arrival, left_behind
from surgeline.work.artifacts import Digests, digest_of, survey


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content)
    return folder


def arrive(there: Path, here: Path, whole: bool = False, digests: Digests | None = None) -> list[str]:
    """Put what is at one path to another; gives the contents that had to come."""
    arrival = Arrival(survey(there.parent, there.name, Digests()), here, whole, digests or Digests())
    wanted = arrival.digests
    arrival.begin()
    come = []
    for path in sorted(there.rglob("*")) if there.is_dir() else [there] * there.exists():
        if path.is_file() and not path.is_symlink() and (digest := digest_of(path)) in wanted:
            come.append(path.read_text())
            shutil.copyfile(path, arrival.folder / digest)
    arrival.complete()
    assert list(left_behind(here.parent)) == []
    return come


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file()}


def test_what_is_new_appears_whole(tmp_path: Path) -> None:
    there = write(tmp_path / "there" / "a.ms", data="data", copy="data", empty="")
    (there / "link").symlink_to("data")
    here = tmp_path / "here" / "data" / "a.ms"
    arrive(there, here)
    assert contents(here) == {"data": "data", "copy": "data", "empty": "", "link": "data"}
    assert (here / "link").is_symlink()
    assert (here / "data").stat().st_mtime_ns == (there / "data").stat().st_mtime_ns


def test_of_what_changed_only_that_comes_which_differs(tmp_path: Path) -> None:
    here = write(tmp_path / "here" / "a.ms", same="same", changed="old", gone="gone")
    there = write(tmp_path / "there" / "a.ms", same="same", changed="new", added="added")
    before = (here / "same").stat().st_ino
    assert arrive(there, here) == ["added", "new"]
    assert contents(here) == {"same": "same", "changed": "new", "added": "added"}
    # It has the times that its worker saw, and was not written.
    assert (here / "same").stat().st_ino == before
    assert (here / "same").stat().st_mtime_ns == (there / "same").stat().st_mtime_ns


def test_what_was_made_whole_has_nothing_of_what_was_there(tmp_path: Path) -> None:
    here = write(tmp_path / "here" / "image", old="old")
    there = write(tmp_path / "there" / "image", new="new")
    arrive(there, here, whole=True)
    assert contents(here) == {"new": "new"}


@pytest.mark.parametrize("before", ["file", "folder"])
def test_a_file_takes_the_place_of_whatever_was_there(before: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    write(here / "x" if before == "folder" else here, x="old")
    there = write(tmp_path / "there", x="new") / "x"
    arrive(there, here / "x")
    assert (here / "x").read_text() == "new"


def test_what_was_removed_is_removed(tmp_path: Path) -> None:
    here = write(tmp_path / "here" / "a", x="x")
    arrive(tmp_path / "there" / "a", here)
    assert not here.exists()


def test_what_is_here_under_another_name_does_not_come(tmp_path: Path) -> None:
    digests = Digests()
    original = write(tmp_path / "here", original="content") / "original"
    digests.is_known(original, digest_of(original))
    there = write(tmp_path / "there" / "kept", copy="content")
    assert arrive(there, tmp_path / "here" / "kept", digests=digests) == []
    assert contents(tmp_path / "here" / "kept") == {"copy": "content"}


def test_until_all_has_come_nothing_changes(tmp_path: Path) -> None:
    here = write(tmp_path / "here" / "a.ms", x="old")
    there = write(tmp_path / "there" / "a.ms", x="new")
    arrival = Arrival(survey(there.parent, "a.ms", Digests()), here, False, Digests())
    arrival.begin()
    (arrival.folder / "half").touch()
    assert contents(here) == {"x": "old"}
    assert [path.name for path in left_behind(tmp_path)] == [".a.ms.arriving"]
