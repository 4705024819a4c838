from __future__ import annotations

from pathlib import Path

import pytest

from surgeline.errors import ClusterError, DataError
from surgeline.work.artifacts import Digests, Item, survey
from surgeline.work.datastore import DataStore
from surgeline.work.packs import SMALL, Place, Traffic, fetch, send

LARGE = bytes(range(256)) * (SMALL // 256) + b"and more"


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> DataStore:
    if request.param == "folder":
        (tmp_path / "store").mkdir()
        return DataStore(f"file://{tmp_path}/store", "session")
    url = request.getfixturevalue("bucket")
    return DataStore(url, "session", request.getfixturevalue("swift").options)


def files_in(folder: Path) -> dict[str, tuple[Path, Item]]:
    found = survey(folder.parent, folder.name, Digests())
    return {item.digest: (folder / item.name, item) for item in found.files}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, tuple[Path, Item]]:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(30):
        (folder / str(number)).write_text(f"small {number}")
    (folder / "large").write_bytes(LARGE)
    return files_in(folder)


def test_files_arrive_by_their_content_and_small_ones_together(
    store: DataStore, files: dict[str, tuple[Path, Item]], tmp_path: Path
) -> None:
    sent, fetched = Traffic(), Traffic()
    store.check()
    places = send(store, files, sent)
    assert sent.requests == 2
    assert sent.sent == sum(item.size for _, item in files.values())
    (tmp_path / "here").mkdir()
    fetch(store, places, tmp_path / "here", fetched)
    assert {path.name for path in (tmp_path / "here").iterdir()} == files.keys()
    for digest, (path, _) in files.items():
        assert (tmp_path / "here" / digest).read_bytes() == path.read_bytes()
    # What is wanted of a pack is fetched, not all of it.
    some = dict(list(places.items())[:3])
    (tmp_path / "some").mkdir()
    fetch(store, some, tmp_path / "some", fetched)
    assert len(list((tmp_path / "some").iterdir())) == 3
    store.remove()
    store.remove()
    with pytest.raises(ClusterError, match="has no file to be given"):
        fetch(store, places, tmp_path / "here", fetched)


@pytest.mark.parametrize("which", ["small", "large"])
def test_damaged_content_is_refused_and_nothing_of_it_is_there(
    which: str, files: dict[str, tuple[Path, Item]], tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "here").mkdir()
    store = DataStore(f"file://{tmp_path}/store", "session")
    places = send(store, files, Traffic())
    place = next(place for place in places.values() if place.alone == (which == "large"))
    pack = tmp_path / "store" / "session" / place.pack
    content = bytearray(pack.read_bytes())
    content[3] ^= 1
    pack.write_bytes(content)
    with pytest.raises(ClusterError, match="gave other content than was left there"):
        fetch(store, {d: p for d, p in places.items() if p.pack == place.pack}, tmp_path / "here", Traffic())
    assert list((tmp_path / "here").iterdir()) == []


def test_a_file_that_changes_while_it_is_sent_is_told(files: dict[str, tuple[Path, Item]], tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = DataStore(f"file://{tmp_path}/store", "session")
    for name in ("1", "large"):
        path = tmp_path / "files" / name
        path.write_bytes(b"X" + path.read_bytes()[1:])
        with pytest.raises(DataError, match="was changed while it was being sent"):
            send(store, files, Traffic())
        files = files_in(tmp_path / "files")


def test_a_full_disk_here_is_not_taken_for_the_stores(small_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = DataStore(f"file://{tmp_path}/store", "session")
    name = store.put(LARGE * 2)
    with pytest.raises(OSError, match="No space left"):
        fetch(store, {"digest": Place(name, 0, 2 * len(LARGE), alone=True)}, small_disk, Traffic())
