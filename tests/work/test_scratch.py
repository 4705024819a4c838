from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from surgeline.errors import WorkfolderError
from surgeline.work.artifacts import Artifact, Digests, survey
from surgeline.work.datastore import DataStore
from surgeline.work.packs import SMALL, Place, Traffic, send
from surgeline.work.scratch import Scratch

LARGE = bytes(2 * SMALL)


class Sender:
    """A session's folder, and what of it is in a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "session"
        (folder / "store").mkdir()
        self.folder.mkdir()
        self.store = DataStore(f"file://{folder}/store", "session")
        self.places: dict[str, Place] = {}

    def send(self, name: str, content: bytes) -> Artifact:
        (self.folder / name).write_bytes(content)
        found = survey(self.folder, name, Digests())
        files = {item.digest: (self.folder / name, item) for item in found.files if item.size}
        self.places |= send(self.store, files, Traffic())
        return found


@pytest.fixture
def sender(tmp_path: Path) -> Sender:
    return Sender(tmp_path)


@pytest.fixture
def bring(sender: Sender) -> Callable[..., int]:
    """Brings artifacts; gives how many bytes were fetched for that."""

    def bring(scratch: Scratch, *artifacts: Artifact, limit: int | None = None) -> int:
        traffic = Traffic()
        scratch.bring(sender.store, artifacts, sender.places, limit, traffic)
        return traffic.fetched

    return bring


def test_what_was_brought_before_is_not_brought_again(
    sender: Sender, bring: Callable[..., int], tmp_path: Path
) -> None:
    scratch = Scratch(tmp_path / "scratch")
    large, small, empty = sender.send("large", LARGE), sender.send("small", b"small"), sender.send("empty", b"")
    os.utime(sender.folder / "small", ns=(5, 5))
    assert bring(scratch, large, small, empty) == len(LARGE) + 5
    assert {path.name: path.stat().st_size for path in scratch.folder.iterdir()} == {
        "large": len(LARGE),
        "small": 5,
        "empty": 0,
    }
    assert (scratch.folder / "large").stat().st_mtime_ns == (sender.folder / "large").stat().st_mtime_ns
    scratch.clear()
    assert list(scratch.folder.iterdir()) == []
    assert bring(scratch, large, small) == 0
    assert (scratch.folder / "large").read_bytes() == LARGE


@pytest.mark.parametrize("content", [LARGE, b"small"], ids=["large", "small"])
def test_what_a_job_wrote_to_is_not_what_the_next_one_finds(
    content: bytes, sender: Sender, bring: Callable[..., int], tmp_path: Path
) -> None:
    scratch = Scratch(tmp_path / "scratch")
    sent = sender.send("data", content)
    bring(scratch, sent)
    with (scratch.folder / "data").open("r+b") as handle:
        handle.write(b"!")
    scratch.clear()
    bring(scratch, sent)
    assert (scratch.folder / "data").read_bytes() == content


@pytest.mark.parametrize("content", [LARGE, b"small"], ids=["large", "small"])
def test_what_a_job_changed_is_sent_and_known_from_then_on(
    content: bytes, sender: Sender, bring: Callable[..., int], tmp_path: Path
) -> None:
    scratch = Scratch(tmp_path / "scratch")
    bring(scratch, sender.send("data", content), sender.send("other", b"other"))
    with (scratch.folder / "data").open("r+b") as handle:
        handle.write(b"!")
    traffic = Traffic()
    (changed, _), places = scratch.take(sender.store, ["data", "other"], sender.places, traffic)
    assert traffic.sent == len(content)
    scratch.clear()
    sender.places |= places
    assert bring(scratch, changed) == 0
    assert (scratch.folder / "data").read_bytes() == b"!" + content[1:]


def test_the_same_content_twice_may_be_changed_once(
    sender: Sender, bring: Callable[..., int], tmp_path: Path
) -> None:
    scratch = Scratch(tmp_path / "scratch")
    assert bring(scratch, sender.send("a", LARGE), sender.send("b", LARGE)) == len(LARGE)
    with (scratch.folder / "a").open("r+b") as handle:
        handle.write(b"!")
    assert (scratch.folder / "b").read_bytes() == LARGE


def test_what_was_not_used_for_longest_makes_room(sender: Sender, bring: Callable[..., int], tmp_path: Path) -> None:
    scratch = Scratch(tmp_path / "scratch")
    first, second, third = (sender.send(name, name.encode() + LARGE) for name in "abc")
    size = len(LARGE) + 1
    for artifact in (first, second, first, third):
        bring(scratch, artifact, limit=2 * size + 10)
        scratch.clear()
    assert bring(scratch, first, limit=2 * size + 10) == 0
    scratch.clear()
    assert bring(scratch, second, limit=2 * size + 10) == size


def test_a_disk_that_is_too_small_is_told(sender: Sender, bring: Callable[..., int], small_disk: Path) -> None:
    scratch = Scratch(small_disk / "scratch")
    with pytest.raises(WorkfolderError, match=r"(?s)no space for the .* GB.*larger"):
        bring(scratch, sender.send("data", LARGE))


def test_a_new_process_trusts_nothing_that_was_left(tmp_path: Path) -> None:
    (tmp_path / "scratch" / "cache").mkdir(parents=True)
    (tmp_path / "scratch" / "cache" / "half").touch()
    scratch = Scratch(tmp_path / "scratch")
    assert [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()] == []
    scratch.remove()
    assert not (tmp_path / "scratch").exists()
