from __future__ import annotations

import threading
from pathlib import Path

import pytest

from services.s3 import Swift
from surgeline.errors import ClusterError, ConfigError
from surgeline.work import datastore
from surgeline.work.datastore import DataStore


def test_a_store_that_is_back_soon_is_waited_for(swift: Swift, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DataStore(bucket, "session", swift.options)
    name = store.put(b"content")
    swift.end()
    back = threading.Thread(target=swift.start)
    back.start()
    try:
        assert store.get(name, 0, 7) == b"content"
    finally:
        back.join()


def test_a_store_that_stays_away_is_told_after_some_attempts(
    swift: Swift, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datastore, "_PAUSES", (0.01, 0.01))
    quick = {**swift.options, "config_kwargs": {"retries": {"max_attempts": 1}}}
    swift.end()
    try:
        with pytest.raises(ClusterError, match=f"(?s)the store {bucket} is away, or fails: in 3 attempts.*resume"):
            DataStore(bucket, "session", quick).put(b"content")
    finally:
        swift.start()


def test_who_may_not_use_a_store_is_told_so(swift: Swift, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"(?s)refuses.*read, write and remove"):
        DataStore(bucket, "session", {**swift.options, "secret": "wrong"}).check()
    with pytest.raises(ClusterError, match="bucket"):
        DataStore("s3://no-such-bucket/kept", "session", swift.options).check()
    with pytest.raises(ClusterError, match="is no folder"):
        DataStore(f"file://{tmp_path}/missing", "session").check()
    with pytest.raises(ConfigError, match="is no store"):
        DataStore("nonsense://a", "session").check()


def test_a_full_store_is_told_at_once(small_disk: Path) -> None:
    store = DataStore(f"file://{small_disk}", "session")
    with pytest.raises(ClusterError, match=r"(?s)is full\n.*free space"):
        store.put(bytes(2 * 2**20))
