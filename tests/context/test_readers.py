"""Contexts that are only read: beside a session that writes, where nothing may be written, and what is no context."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from stores import PROCESSES, at_once, commit_until_killed, decision, pair, read_pairs
from support import ordinary_user
from surgeline.context import database
from surgeline.context.records import Decision
from surgeline.context.store import Context
from surgeline.errors import ContextError, WorkfolderError


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that other users may enter, too, and nobody but its owner may write."""
    made = Path(tempfile.mkdtemp(prefix="surgeline-readers-", dir="/tmp"))
    made.chmod(0o755)
    try:
        yield made
    finally:
        made.chmod(0o755)
        shutil.rmtree(made)


def read_while_committing(where: str | Path, readers: int) -> None:
    with closing(Context(where)) as context:
        version = context.commit("stage", pair(1))
        with at_once(read_pairs, *[(where, context.identifier, 4)] * readers) as processes:
            while not all(process.done() for process in processes):
                assert context.commit("stage", pair(version + 1)) == version + 1
                version += 1
            seen = [process.result() for process in processes]
    assert all(own == sorted(own) for own in seen)
    assert len({number for own in seen for number in own}) > 3, "the session hardly committed while they read"


def test_64_processes_read_a_file_while_a_session_commits(tmp_path: Path) -> None:
    read_while_committing(tmp_path / "context.db", 64)


def test_processes_read_a_file_on_a_network_while_a_session_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is no log, since those who read and write have no memory in common."""
    monkeypatch.setattr(database, "_filesystem", lambda path: "nfs")
    read_while_committing(tmp_path / "context.db", 16)


def test_processes_read_postgresql_while_a_session_commits(postgresql_url: str) -> None:
    read_while_committing(postgresql_url, 16)


def test_a_file_is_read_where_nothing_may_be_written_and_nothing_is_left_there(folder: Path) -> None:
    path = folder / "context.db"
    with closing(Context(path)) as context:
        context.commit("import", [decision("one")])
    before = path.read_bytes()
    path.chmod(0o444)
    folder.chmod(0o555)
    for read_only in (True, False):
        with ordinary_user(), closing(Context(path, read_only=read_only)) as reader:
            assert reader.all(Decision) == [decision("one")]
            assert reader.identifier == context.identifier
            with pytest.raises(WorkfolderError, match="readonly"):
                reader.commit("flag", [])
    assert [entry.name for entry in folder.iterdir()] == ["context.db"]
    assert path.read_bytes() == before


def test_a_reader_leaves_nothing_behind_that_would_be_in_its_owners_way(folder: Path) -> None:
    path = folder / "context.db"
    with closing(Context(path)) as context:
        context.commit("import", [decision("one")])
    folder.chmod(0o777)
    with ordinary_user(), closing(Context(path, read_only=True)) as reader:
        assert reader.all(Decision) == [decision("one")]
    assert [entry.name for entry in folder.iterdir()] == ["context.db"]


def test_a_reader_that_may_write_nothing_follows_a_session(folder: Path) -> None:
    """It is there before the session, while it runs, and after it has ended."""
    path = folder / "context.db"
    Context(path).close()
    with ExitStack() as reading:
        with ordinary_user():
            reader = reading.enter_context(closing(Context(path, read_only=True)))
            assert reader.version == 0
        with closing(Context(path)) as session:
            for number in range(1, 4):
                session.commit("stage", [decision(str(number))])
                with ordinary_user():
                    assert reader.version == number
                    assert len(reader.all(Decision)) == number
        with ordinary_user():
            assert reader.version == 3
            with closing(Context(path, read_only=True)) as late:
                assert late.all(Decision) == [decision(str(number)) for number in range(1, 4)]


def test_what_a_killed_session_committed_is_read_where_nothing_may_be_written(folder: Path) -> None:
    path = folder / "context.db"
    acknowledged, ours = PROCESSES.Pipe(duplex=False)
    session = PROCESSES.Process(target=commit_until_killed, args=(path, 1, ours))
    session.start()
    ours.close()
    while acknowledged.recv() < 10:
        pass
    assert session.pid is not None
    os.kill(session.pid, signal.SIGKILL)
    session.join()
    assert Path(f"{path}-wal").exists()
    folder.chmod(0o555)
    with ordinary_user(), closing(Context(path, read_only=True)) as reader:
        assert reader.version >= 10
        assert len(reader.log()) == reader.version


def no_context(path: Path, what: str) -> None:
    """Make a file that is none."""
    if what == "text":
        path.write_text("not a database at all")
    elif what == "another program's":
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE readings (value REAL)")
    elif what == "empty":
        path.touch()
    elif what == "cut off":
        with closing(Context(path)) as context:
            context.commit("import", [decision(str(number)) for number in range(1000)])
        os.truncate(path, 20000)


@pytest.mark.parametrize("what", ["missing", "empty", "text", "another program's", "cut off"])
def test_what_is_no_context_is_told_and_left_as_it_is(tmp_path: Path, what: str) -> None:
    path = tmp_path / "context.db"
    no_context(path, what)
    before = path.read_bytes() if path.exists() else None
    with (
        pytest.raises((ContextError, WorkfolderError)) as caught,
        closing(Context(path, read_only=True)) as context,
    ):
        context.every()
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.exists() else None) == before
    assert [entry for entry in tmp_path.iterdir() if entry != path] == []


def test_another_programs_database_is_left_as_it_is_by_who_would_write_too(tmp_path: Path) -> None:
    path = tmp_path / "context.db"
    no_context(path, "another program's")
    with pytest.raises(ContextError, match=r"another program's database.*readings"):
        Context(path)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT name FROM sqlite_master").fetchall() == [("readings",)]


@pytest.mark.parametrize("name", ["with space", "50%25", "a#b", "what?mode=rw", "a&b;c", "umläut"])
def test_a_working_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "context.db"
    path.parent.mkdir()
    with closing(Context(path)) as context:
        context.commit("import", [decision("one")])
    assert path.is_file()
    with closing(Context(path, read_only=True)) as reader:
        assert reader.all(Decision) == [decision("one")]
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == sorted(["context.db", name])
