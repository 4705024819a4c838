from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from surgeline.errors import DataError
from surgeline.work.artifacts import Digests, matching, referred, survey


def make(folder: Path) -> Path:
    (folder / "a.ms" / "ANTENNA").mkdir(parents=True)
    (folder / "a.ms" / "table.dat").write_bytes(b"main")
    (folder / "a.ms" / "ANTENNA" / "table.dat").write_bytes(b"antennas")
    return folder / "a.ms"


def test_a_copy_is_told_to_be_the_same_and_a_change_is_seen(tmp_path: Path) -> None:
    table = make(tmp_path / "here")
    make(tmp_path / "there")
    digests = Digests()
    one, other = (survey(tmp_path / name, "a.ms", digests) for name in ("here", "there"))
    assert [(item.name, item.digest) for item in one.items] == [(item.name, item.digest) for item in other.items]
    assert [item.name for item in one.items] == ["", "ANTENNA", "ANTENNA/table.dat", "table.dat"]
    (table / "table.dat").write_bytes(b"MAIN")
    changed = survey(tmp_path / "here", "a.ms", digests)
    assert [item.name for item in changed.items if item not in one.items] == ["table.dat"]


def test_a_file_is_not_read_again_until_it_may_have_been_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    digests = Digests()
    digest = digests.of(path)
    digests.is_known(path, "as it was said")
    assert digests.of(path) == "as it was said"
    assert digests.find("as it was said") == path
    os.utime(path, ns=(1, 1))
    assert digests.of(path) == digest
    assert digests.find("as it was said") is None


def test_links_that_stay_are_links_and_others_are_what_they_lead_to(tmp_path: Path) -> None:
    table = make(tmp_path / "here")
    (tmp_path / "elsewhere").write_bytes(b"on another disk")
    (table / "table.f0").symlink_to(tmp_path / "elsewhere")
    (table / "same").symlink_to("table.dat")
    (tmp_path / "here" / "b.ms").symlink_to("a.ms")
    digests = Digests()
    kinds = {item.name: item.kind for item in survey(tmp_path / "here", "a.ms", digests).items}
    assert (kinds["table.f0"], kinds["same"]) == ("file", "link")
    link = survey(tmp_path / "here", "b.ms", digests)
    assert [item.target for item in link.items] == ["a.ms"]
    assert referred(tmp_path / "here", link) == ["a.ms"]


def test_the_parts_of_a_joined_image_are_known(tmp_path: Path) -> None:
    image = tmp_path / "images" / "cube.image"
    image.mkdir(parents=True)
    parts = ["./cube.parts/0-1.own.image", "./cube.parts/2-3.own.image"]
    (image / "imageconcat.json").write_text(json.dumps({"Images": parts}))
    found = referred(tmp_path, survey(tmp_path, "images/cube.image", Digests()))
    assert found == ["images/cube.parts/0-1.own.image", "images/cube.parts/2-3.own.image"]
    (image / "imageconcat.json").write_text("{}")
    with pytest.raises(DataError, match="does not tell which images are joined"):
        referred(tmp_path, survey(tmp_path, "images/cube.image", Digests()))


def test_what_is_not_there_has_nothing_and_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert survey(tmp_path, "nothing", Digests()).items == ()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="neither a file, a folder nor a link"):
        survey(tmp_path, "pipe", Digests())


def test_patterns_find_what_begins_alike(tmp_path: Path) -> None:
    for name in ("a.image", "a.psf", "ab.image", "other"):
        (tmp_path / name).touch()
    assert matching(tmp_path, ["a.*", "other", "missing"]) == {"a.image", "a.psf", "other"}
    assert matching(tmp_path, [f"{tmp_path}/a.p*"]) == {f"{tmp_path}/a.psf"}
