"""Sessions to serve, and a server of them for all tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from serve.serving import (
    Fresh,
    Server,
    a_decision,
    an_attempt,
    begin_record,
    make_product,
    run_stage,
    serving,
    some_roles,
    write_some_attempts,
)
from surgeline.context.store import Context


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Working folders: one session that finished, one of many jobs, one damaged, one not begun."""
    root = tmp_path_factory.mktemp("served")
    good = root / "good"
    record = begin_record(good)
    cube = make_product(good, "NGC 5921 ü.fits", bytes(range(256)) * 400)
    with closing(Context(good / "context.db")) as context:
        run_stage(record, context, "import", [some_roles("my.ms", 1), a_decision("one"), a_decision("two")], 10.0)
        run_stage(record, context, "flag", [some_roles("my.ms", 1, 2)], 20.0)
        run_stage(record, context, "export", [cube, make_product(good, "list.json", b"{}", "manifest")], 30.0)
        context.commit("by hand", [], withdrawn=[2])
        write_some_attempts(context, [an_attempt(1), an_attempt(2, state="failed", rms=float("nan"))])
    record.end("finished", None)

    (root / "many").mkdir()
    with closing(Context(root / "many" / "context.db")) as context:
        stages, states = ("import", "flag", "bandpass"), ("finished", "finished", "failed", "lost")
        write_some_attempts(context, [an_attempt(n, stages[n % 3], states[n % 4]) for n in range(10_000)])

    (root / "damaged").mkdir()
    path = root / "damaged" / "context.db"
    with closing(Context(path)) as context:
        context.commit("flag", [a_decision(str(number), "yes" * 100) for number in range(500)])
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    return root


@pytest.fixture(scope="session")
def server(folders: Path) -> Iterator[Server]:
    """One server for all tests that only ask."""
    with serving(*(folders / name for name in ("good", "many", "damaged", "not begun"))) as found:
        yield found


@pytest.fixture(scope="session")
def waiting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list[Path]]]:
    """One server for all tests that begin a session while it is served, and the folders that wait for them."""
    root = tmp_path_factory.mktemp("later")
    folders = [root / f"s{number}" for number in range(30)]
    with serving(*folders) as found:
        yield found, folders


@pytest.fixture
def fresh(waiting_server: tuple[Server, list[Path]]) -> Fresh:
    """A session that has not begun."""
    server, folders = waiting_server
    folder = folders.pop()
    return Fresh(server, folder, server.session(folder.name))
