"""A server in a process of its own, on a free port, over sessions that are made the way sessions make them."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from surgeline.context.attempts import Attempt, write_attempts
from surgeline.context.records import Decision, Fact, Product, Roles
from surgeline.context.store import Context
from surgeline.paths import SessionPaths, write_text
from surgeline.workflow import recipe as recipes
from surgeline.workflow.graph import needs
from surgeline.workflow.record import RunRecord

SERVE = """
import sys
from pathlib import Path
from surgeline.serve.start import find_token, serve
token = find_token(None)
here = token is None and sys.argv[1] == "127.0.0.1"
serve(sys.argv[2:], sys.argv[1], 0, token, lambda text: print(text, flush=True), everybody_here=here)
"""
API = "/api/v1"


@dataclass
class Answer:
    """An answer of the server."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Server:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    told: list[str]
    rest: list[str] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.port is not None
        return "127.0.0.1", parts.port

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask for a path exactly as it is written; header names have underscores for hyphens."""
        with closing(http.client.HTTPConnection(*self.address, timeout=20)) as connection:
            connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())

    def json(self, path: str) -> Any:
        """What the API says at a path."""
        answer = self.get(API + path)
        assert answer.status == 200, answer.body
        return answer.json

    def every(self, path: str) -> list[Any]:
        """All items of a list, part by part."""
        items, path = [], API + path
        while True:
            answer = self.get(path)
            assert answer.status == 200, answer.body
            items += answer.json["items"]
            if answer.json["next"] is None:
                return items
            path = urljoin(path, answer.json["next"])

    def session(self, name: str) -> str:
        """The path of the session of a name, below the API's."""
        found = [session["id"] for session in self.every("/sessions") if session["name"] == name]
        assert len(found) == 1
        return f"/sessions/{found[0]}"

    def stop(self, number: int = signal.SIGTERM, seconds: float = 10) -> int:
        """End it by a signal; what it wrote is in `rest` then."""
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=seconds)
        self.rest += output.splitlines()
        return self.process.returncode


@dataclass
class Fresh:
    """A session that is served and has not begun: its folder is not there, and its path below the API's."""

    server: Server
    folder: Path
    path: str

    def begin(self) -> Context:
        """Begin its context."""
        self.folder.mkdir(exist_ok=True)
        return Context(self.folder / "context.db")


@contextmanager
def serving(*sources: Path | str, host: str = "127.0.0.1", **environment: str) -> Iterator[Server]:
    """Serve sessions for a while, and see that nothing went wrong in the server meanwhile."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, host, *map(str, sources)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    told: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        told.append(line.strip())
        if line.startswith("serving at "):
            break
    try:
        assert told and told[-1].startswith("serving at "), told
        server = Server(process, told[-1].removeprefix("serving at "), told)
        yield server
        if process.poll() is None:
            assert server.stop() == 0
        assert server.rest == []
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def a_decision(what: str, value: str = "yes") -> Decision:
    """A fact that stands beside all others."""
    return Decision(stage="flag", what=what, value=value, reason="because")


def some_roles(vis: str, *target: int) -> Roles:
    """A fact of which the latest holds."""
    return Roles(vis=vis, flux=(0,), bandpass=(0,), phase=(1,), target=target, reason="by intent")


def an_attempt(number: int, stage: str = "import", state: str = "finished", **body: Any) -> Attempt:
    """An attempt of a job."""
    return Attempt(
        run="run-1",
        stage=stage,
        job=f"job {number}",
        number=1,
        state=state,
        started=1_760_000_000.0 + number,
        ended=1_760_000_001.0 + number,
        worker=f"worker-{number % 4}",
        host="node-1",
        environment=f"environment-{number % 3}",
        body={"call": f"tclean(niter={number})", **body},
    )


def write_some_attempts(context: Context, attempts: list[Attempt]) -> None:
    """Have attempts written, with their environments."""
    write_attempts(context, [(one, {"python": "3.11", "name": one.environment}) for one in attempts], set())


def make_product(folder: Path, name: str, content: bytes, kind: str = "cube") -> Product:
    """A file of a session, and the fact that names it."""
    path = folder / "products" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Product(path=f"products/{name}", kind=kind, size=len(content), sha256=hashlib.sha256(content).hexdigest())


def begin_record(folder: Path) -> RunRecord:
    """Begin a session's folder: its recipe and its record."""
    paths = SessionPaths(folder)
    paths.make()
    recipe = recipes.load("calimage", ("my.ms",))
    write_text(paths.recipe, recipe.to_yaml())
    record = RunRecord(paths, recipe, dict(needs(recipe)), "local", ())
    record.save()
    return record


def run_stage(record: RunRecord, context: Context, name: str, facts: list[Fact], now: float) -> None:
    """What a session does when it runs a stage."""
    record.stage(name, state="running", started=now)
    context.commit(name, facts)
    record.stage(name, state="finished", ended=now + 1)
