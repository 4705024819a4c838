from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from serve.serving import (
    API,
    Fresh,
    Server,
    a_decision,
    an_attempt,
    begin_record,
    run_stage,
    serving,
    write_some_attempts,
)
from support import wait_until
from surgeline.serve import events
from surgeline.serve.sources import Sources


@dataclass
class Event:
    """An event as a client is told it."""

    id: str
    kind: str
    data: Any

    @property
    def name(self) -> str:
        told = {"attempt": "job", "commit": "version", "stage": "name", "session": "state", "unreadable": "detail"}
        return f"{self.kind} {self.data[told[self.kind]]}"


@dataclass
class Feed:
    """An open feed, read line by line."""

    answer: http.client.HTTPResponse

    def __iter__(self) -> Iterator[Event | str]:
        """Events, and what else is told, as its line."""
        fields: dict[str, str] = {}
        while line := self.answer.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if line == "\n" and "data" in fields:
                yield Event(fields.get("id", ""), fields["event"], json.loads(fields["data"]))
            elif line != "\n" and name not in ("id", "event", "data"):
                yield line.strip()
            fields = {} if line == "\n" else {**fields, name: value}

    def take(self, number: int) -> list[Event]:
        """The next so many events."""
        found: list[Event] = []
        while len(found) < number:
            found += [event for event in [next(iter(self))] if isinstance(event, Event)]
        return found


@contextmanager
def following(server: Server, path: str, query: str = "", **headers: str) -> Iterator[Feed]:
    with closing(http.client.HTTPConnection(*server.address, timeout=15)) as connection:
        connection.request(
            "GET", f"{API}{path}/events{query}", headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        answer = connection.getresponse()
        assert (answer.status, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        yield Feed(answer)


def told_until_now(server: Server, path: str, after: str = "") -> list[Event]:
    """All that a feed tells until it has no more."""
    query = f"&last_event_id={after}" if after else ""
    with following(server, path, f"?follow=false{query}") as feed:
        return [event for event in feed if isinstance(event, Event)]


def test_a_feed_tells_all_that_happened_and_goes_on_anywhere(server: Server) -> None:
    path = server.session("good")
    told = told_until_now(server, path)
    assert [event.name for event in told] == [
        "attempt job 1", "attempt job 2", "commit 1", "commit 2", "commit 3", "commit 4",
        *(f"stage {stage['name']}" for stage in server.json(f"{path}/stages")["items"]), "session finished",
    ]  # fmt: skip
    assert len({event.id for event in told}) == len(told)
    # After any event come those that came after it, no more and no less.
    for place, event in enumerate(told):
        assert [later.name for later in told_until_now(server, path, event.id)] == [
            later.name for later in told[place + 1 :]
        ]
    # What is told of the session itself is a position too.
    assert server.json(path)["position"] == told[-1].id


def test_ten_thousand_attempts_are_told_in_order(server: Server) -> None:
    began = time.monotonic()
    told = told_until_now(server, server.session("many"))
    assert [event.data["job"] for event in told] == [f"job {number}" for number in range(10_000)]
    assert time.monotonic() - began < 10


def test_a_position_that_is_none_is_refused_in_the_header_and_ignored_for_another_context(server: Server) -> None:
    path = server.session("good")
    assert server.get(f"{API}{path}/events", Last_Event_ID="nonsense").status == 422
    assert server.get(f"{API}{path}/events?last_event_id=nonsense").status == 422
    other = told_until_now(server, server.session("many"))[-1].id
    assert told_until_now(server, path, other)[0].name == "attempt job 1"


def test_a_client_that_comes_back_misses_nothing_and_is_told_nothing_twice(fresh: Fresh) -> None:
    record, server, path = begin_record(fresh.folder), fresh.server, fresh.path
    with closing(fresh.begin()) as context:
        told, last = [], ""
        names = [stage["name"] for stage in server.json(f"{path}/stages")["items"]]
        for number, name in enumerate(names):
            write_some_attempts(context, [an_attempt(10 * number + job, name) for job in range(3)])
            run_stage(record, context, name, [a_decision(name)], 10.0 * number)
            # Each time it is told a few events, and goes away in the middle.
            headers = {"Last_Event_ID": last} if last else {}
            with following(server, path, **headers) as feed:
                for event in feed.take(2):
                    told.append(event)
                    last = event.id
        record.end("finished", None)
        with following(server, path, Last_Event_ID=last) as feed:
            while told[-1].kind != "session" or told[-1].data["state"] != "finished":
                told += feed.take(1)
    assert [event.data["job"] for event in told if event.kind == "attempt"] == [
        f"job {10 * number + job}" for number in range(len(names)) for job in range(3)
    ]
    assert [event.data["version"] for event in told if event.kind == "commit"] == list(range(1, len(names) + 1))
    finished = [event.data["name"] for event in told if event.kind == "stage" and event.data["state"] == "finished"]
    assert finished == names
    assert len({event.id for event in told}) == len(told)


def test_what_happens_is_told_as_it_happens(fresh: Fresh) -> None:
    with following(fresh.server, fresh.path) as feed:
        record = begin_record(fresh.folder)
        with closing(fresh.begin()) as context:
            record.stage("import", state="running", started=1.0)
            while feed.take(1)[0].data != {
                **fresh.server.json(f"{fresh.path}/stages")["items"][0],
                "state": "running",
            }:
                pass
            began = time.monotonic()
            context.commit("import", [])
            while feed.take(1)[0].name != "commit 1":
                pass
            assert time.monotonic() - began < 2


def test_a_store_that_cannot_be_read_for_a_while_is_told_as_such_once(fresh: Fresh) -> None:
    store = fresh.folder / "context.db"
    with closing(fresh.begin()) as context:
        context.commit("import", [])
    with following(fresh.server, fresh.path) as feed:
        assert feed.take(1)[0].name == "commit 1"
        whole = store.read_bytes()
        (fresh.folder / "damaged").write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
        (fresh.folder / "damaged").replace(store)
        (event,) = feed.take(1)
        assert (event.kind, event.id) == ("unreadable", "")
        assert str(store) in event.data["detail"]
        time.sleep(1)
        (fresh.folder / "whole").write_bytes(whole)
        (fresh.folder / "whole").replace(store)
        with closing(fresh.begin()) as context:
            context.commit("flag", [])
        assert feed.take(1)[0].name == "commit 2"


def test_a_feed_costs_little_while_nothing_happens_and_ends_with_its_client(fresh: Fresh) -> None:
    process = psutil.Process(fresh.server.process.pid)

    def connections() -> int:
        return len([one for one in process.net_connections() if one.status in ("ESTABLISHED", "CLOSE_WAIT")])

    fresh.begin().close()
    with following(fresh.server, fresh.path) as feed:
        assert next(iter(feed)) == "retry: 1000"
        assert connections() == 1
        before = process.cpu_times()
        time.sleep(2)
        after = process.cpu_times()
        assert after.user + after.system - before.user - before.system < 0.3
    wait_until(lambda: connections() == 0, 2, "the connection is closed")


def test_a_feed_in_which_nothing_happens_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_SECONDS_BETWEEN_HEARTBEATS", 0.1)
    (session,), _ = Sources([tmp_path]).sessions()
    lines: list[str] = []

    async def listen() -> list[str]:
        async for line in events.feed(session, events.Position(), True, lambda: len(lines) == 3):
            lines.append(line)
        return lines

    assert asyncio.run(listen()) == ["retry: 1000\n\n", ": nothing new\n\n", ": nothing new\n\n"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_well_though_feeds_are_open(tmp_path: Path, number: int) -> None:
    with serving(tmp_path / "s") as server:
        path = server.session("s")
        with following(server, path) as one, following(server, path) as other:
            assert [next(iter(feed)) for feed in (one, other)] == ["retry: 1000"] * 2
            began = time.monotonic()
            assert server.stop(number) == 0
            assert time.monotonic() - began < 3
            assert list(one) == list(other) == []
        assert server.rest == []
        # And the port is free again.
        with closing(socket.socket()) as probe:
            assert probe.connect_ex(server.address) != 0
