from __future__ import annotations

import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress

import pytest

from services.postgresql import PASSWORD, PostgreSQL
from stores import at_once, commit_many, decision, extension
from support import wait_until
from surgeline.context.attempts import Attempt, AttemptWriter, read_attempts
from surgeline.context.records import Decision, Extension
from surgeline.context.store import Context
from surgeline.errors import ContextError


class DeafProxy:
    """Stands between a client and the server; loses the answers to some of the commits, as a network may."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.to_lose = 0
        self.lost = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._port))
                threading.Thread(target=self._carry, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._carry, args=(server, client, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, asks: bool) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                if asks and b"COMMIT" in content and self.to_lose > 0:
                    self.to_lose -= 1
                    self.lost += 1
                    # The server will do it, and nobody will hear of that.
                    source.shutdown(socket.SHUT_RDWR)
                target.sendall(content)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(postgresql: PostgreSQL) -> Iterator[DeafProxy]:
    with closing(DeafProxy(postgresql.port)) as started:
        yield started


@pytest.fixture
def running(postgresql: PostgreSQL) -> Iterator[PostgreSQL]:
    """The server, for a test that may leave it stopped."""
    yield postgresql
    if not postgresql.is_running():
        postgresql.start()


def test_writers_take_turns_and_nothing_is_lost(postgresql_url: str) -> None:
    with closing(Context(postgresql_url)) as context:
        writers = [(postgresql_url, context.identifier, f"writer {number}", 50) for number in range(8)]
        with at_once(commit_many, *writers) as processes:
            versions = [process.result() for process in processes]
        assert sorted(version for own in versions for version in own) == list(range(1, 401))
        assert len(context.all(Extension)) == 400
        stages = [commit.stage for commit in context.log()]
        for number, own in enumerate(versions):
            # Each version is the one that its writer was told.
            assert [stages[version - 1] for version in own] == [f"writer {number}.{turn}" for turn in range(50)]


def test_a_session_waits_while_the_server_is_away_and_goes_on(running: PostgreSQL, postgresql_url: str) -> None:
    told: list[str] = []
    acknowledged: list[int] = []
    enough = threading.Event()

    def commit() -> None:
        while not enough.is_set():
            acknowledged.append(context.commit("stage", [extension(str(len(acknowledged)), "")]))

    with (
        closing(Context(postgresql_url, patience=60, waiting=told.append)) as context,
        ThreadPoolExecutor() as threads,
    ):
        committing = threads.submit(commit)
        try:
            for mode in ("fast", "immediate", "fast", "immediate"):
                told.clear()
                before = len(acknowledged)
                wait_until(lambda before=before: len(acknowledged) > before + 5, 60, "it commits")
                running.stop(mode)
                wait_until(lambda: told != [], 60, "it waits")
                running.start()
                wait_until(lambda: len(told) == 2, 60, "it waits no longer")
                assert told[0].startswith("waiting for the database postgresql+psycopg://surgeline:***@127.0.0.1")
                assert told[1] == "the database is back"
        finally:
            enough.set()
        committing.result()
        # Every commit is there, in order, and once.
        assert acknowledged == list(range(1, len(acknowledged) + 1))
        assert context.version == len(acknowledged)
        assert [fact.name for fact in context.all(Extension)] == [str(n) for n in range(len(acknowledged))]


def test_that_the_server_is_away_is_told_once_however_many_wait(running: PostgreSQL, postgresql_url: str) -> None:
    told: list[str] = []
    with closing(Context(postgresql_url, patience=60, waiting=told.append)) as context:
        running.stop()
        with ThreadPoolExecutor(8) as threads:
            waiting = [threads.submit(context.stages) for _ in range(8)]
            wait_until(lambda: told != [], 60, "they wait")
            running.start()
            assert [thread.result() for thread in waiting] == [[]] * 8
    assert [line.partition(" postgresql")[0] for line in told] == ["waiting for the database", "the database is back"]


def test_nothing_is_written_twice_when_an_answer_is_lost(
    postgresql: PostgreSQL, postgresql_url: str, proxy: DeafProxy
) -> None:
    url = postgresql_url.replace(str(postgresql.port), str(proxy.port))
    with closing(Context(url, patience=60)) as context:
        for number in range(6):
            proxy.to_lose = number % 3
            assert context.commit("stage", [decision(str(number))]) == number + 1
        assert [fact.what for fact in context.all(Decision)] == [str(number) for number in range(6)]
        with closing(AttemptWriter(context)) as writer:
            for number in range(6):
                proxy.to_lose = number % 3
                writer.add(Attempt("run", "stage", f"job {number}", 1, "finished", 0.5, 1.5, "w", "h", "e"), {})
                writer.flush()
        assert [attempt.job for attempt in read_attempts(context)] == [f"job {number}" for number in range(6)]
    assert proxy.lost == 12


def test_a_draft_whose_answer_was_lost_is_accepted_once(
    postgresql: PostgreSQL, postgresql_url: str, proxy: DeafProxy
) -> None:
    url = postgresql_url.replace(str(postgresql.port), str(proxy.port))
    with closing(Context(url)) as context:
        draft = context.draft("by hand")
        draft.add(decision("once"))
        proxy.to_lose = 1
        with pytest.raises(ContextError, match="cannot be reached"):
            draft.accept()
        assert draft.accept() == 1
        assert context.all(Decision) == [decision("once")]


def test_a_draft_that_is_changed_after_its_answer_was_lost_is_accepted_with_the_change(
    postgresql: PostgreSQL, postgresql_url: str, proxy: DeafProxy
) -> None:
    url = postgresql_url.replace(str(postgresql.port), str(proxy.port))
    with closing(Context(url)) as context:
        draft = context.draft("by hand")
        draft.add(extension("x", 1))
        proxy.to_lose = 1
        with pytest.raises(ContextError, match="cannot be reached"):
            draft.accept()
        draft.add(extension("y", 1))
        draft.accept()
        assert context.all(Extension) == [extension("x", 1), extension("y", 1)]


def test_a_server_that_came_back_meanwhile_is_not_even_noticed(running: PostgreSQL, postgresql_url: str) -> None:
    with closing(Context(postgresql_url)) as context:
        context.commit("before", [decision("before")])
        for mode in ("fast", "immediate"):
            running.stop(mode)
            running.start()
            assert context.all(Decision, what="before") == [decision("before")]
        running.stop()
        running.start()
        assert context.commit("after", []) == 2


def test_patience_ends(running: PostgreSQL, postgresql_url: str) -> None:
    told: list[str] = []
    with closing(Context(postgresql_url, patience=0.5, waiting=told.append)) as context:
        context.commit("before", [])
        running.stop()
        began = time.monotonic()
        with pytest.raises(ContextError) as caught:
            context.commit("during", [])
        assert 0.5 < time.monotonic() - began < 10
        for part in ("cannot be reached", str(running.port), "refused", "context.url", "surgeline resume"):
            assert part in str(caught.value)
        with pytest.raises(ContextError, match="cannot be reached"):
            context.stages()
        assert len(told) == 1
        running.start()
        assert context.commit("during", []) == 2
        assert told[1:] == ["the database is back"]
        assert context.stages() == ["before", "during"]


def test_a_server_that_starts_later_is_waited_for(running: PostgreSQL, postgresql_url: str) -> None:
    running.stop()
    waits = threading.Event()
    starting = threading.Thread(target=lambda: (waits.wait(60), running.start()))
    starting.start()
    with closing(Context(postgresql_url, patience=60, waiting=lambda _: waits.set())) as context:
        assert context.commit("stage", []) == 1
    starting.join()


def wrong_urls(port: int) -> dict[str, tuple[str, str]]:
    """URLs that are wrong, and what has to be told of each."""
    right = f"postgresql+psycopg://surgeline:{PASSWORD}@127.0.0.1:{port}/postgres"
    return {
        "database": (
            right.replace("/postgres", "/nosuch").replace("nosuch+", "postgres+"),
            '"nosuch" does not exist',
        ),
        "password": (right.replace(PASSWORD, f"{PASSWORD}!"), "password authentication failed"),
        "user": (right.replace("//surgeline", "//somebody"), '"somebody"'),
        "no password": (right.replace(f":{PASSWORD}", ""), "no password supplied"),
        "host": (right.replace("127.0.0.1", "nowhere.invalid"), "nowhere.invalid"),
        "driver": (right.replace("psycopg", "nodriver"), "pip install 'surgeline[postgres]'"),
        "no URL": ("context database", "postgresql+psycopg://user@host"),
    }


@pytest.mark.parametrize("wrong", wrong_urls(0))
def test_a_wrong_url_is_told_at_once_whatever_the_patience(postgresql: PostgreSQL, wrong: str) -> None:
    url, told = wrong_urls(postgresql.port)[wrong]
    began = time.monotonic()
    with pytest.raises(ContextError) as caught:
        Context(url, patience=600)
    assert time.monotonic() - began < 10
    assert told in str(caught.value)
    assert "context.url" in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_port_where_nobody_listens_is_told() -> None:
    with pytest.raises(ContextError, match=r"127\.0\.0\.1:1/.*refused"):
        Context("postgresql+psycopg://somebody@127.0.0.1:1/context")


def test_without_the_driver_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ContextError, match=r"psycopg[\s\S]*pip install 'surgeline\[postgres\]'"):
        Context("postgresql+psycopg://somebody@127.0.0.1/context", patience=600)


def test_contexts_of_one_database_know_nothing_of_each_other(postgresql_url: str) -> None:
    with closing(Context(postgresql_url, "one")) as one, closing(Context(postgresql_url, "other")) as other:
        assert one.commit("stage", [extension("x", 1)], key="same") == 1
        assert other.commit("stage", [extension("x", 2)], key="same") == 1
        assert other.commit("stage", [extension("y", 2)]) == 2
        one.commit("rerun", [], withdrawn=[1])
        assert (one.all(Extension), other.all(Extension)) == ([], [extension("x", 2), extension("y", 2)])
        assert [commit.withdrawn_by for commit in other.log()] == [None, None]


def test_who_only_reads_cannot_write(postgresql_url: str) -> None:
    with closing(Context(postgresql_url)) as context:
        context.commit("stage", [decision("one")])
        with closing(Context(postgresql_url, context.identifier, read_only=True)) as reader:
            assert reader.all(Decision) == [decision("one")]
            with pytest.raises(ContextError, match="read-only"):
                reader.commit("stage", [decision("two")])
        assert context.version == 1


def test_drafts_of_many_writers_are_accepted_or_refused_whole(postgresql_url: str) -> None:
    """Whoever comes first is accepted, of each round; the others are told."""
    numbers = random.Random(1)
    with closing(Context(postgresql_url)) as context:
        for turn in range(5):
            drafts = [context.draft(f"draft {number}") for number in range(3)]
            for number, draft in enumerate(drafts):
                draft.add(extension("shared", f"{turn} {number}"), extension(f"own {number}", turn))
            numbers.shuffle(drafts)
            drafts[0].accept()
            for draft in drafts[1:]:
                with pytest.raises(ContextError, match="contradicts"):
                    draft.accept()
        assert context.version == 5
