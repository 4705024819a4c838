from __future__ import annotations

from contextlib import closing
from pathlib import Path

from serve.serving import API, a_decision, an_attempt, make_product, serving, some_roles, write_some_attempts
from services.postgresql import PASSWORD, PostgreSQL
from support import wait_until
from surgeline.context.store import Context


def test_every_context_of_a_database_is_a_session(postgresql_url: str, tmp_path: Path) -> None:
    for name, number in (("one", 3), ("two", 40)):
        with closing(Context(postgresql_url, name)) as context:
            context.commit("import", [some_roles("my.ms", 1), *(a_decision(str(n)) for n in range(number))])
            context.commit("export", [make_product(tmp_path, "cube.fits", b"cube"), some_roles("my.ms", 2)])
            context.commit("by hand", [], withdrawn=[1])
            write_some_attempts(context, [an_attempt(n) for n in range(number)])
    with serving(postgresql_url) as server:
        sessions = server.every("/sessions?limit=1")
        assert {(session["context"], session["version"], session["state"]) for session in sessions} == {
            ("one", 3, "unknown"), ("two", 3, "unknown"),
        }  # fmt: skip
        assert PASSWORD not in server.get(f"{API}/sessions").body.decode()
        for name, number in (("one", 3), ("two", 40)):
            path = server.session(name)
            assert [stage["name"] for stage in server.json(path)["stages"]] == ["export", "by hand"]
            assert len(server.every(f"{path}/facts?version=1&limit=7")) == number + 1
            assert [fact["kind"] for fact in server.every(f"{path}/facts")] == ["Product", "Roles"]
            assert len(server.every(f"{path}/diff?before=1&after=3&limit=7")) == number + 2
            attempts = server.every(f"{path}/attempts?limit=7&state=finished")
            assert [attempt["job"] for attempt in attempts] == [f"job {n}" for n in range(number)]
            assert server.json(f"{path}/attempts/{attempts[0]['id']}")["body"] == {"call": "tclean(niter=0)"}
            assert len(server.every(f"{path}/environments?limit=2")) == 3
            assert len(server.every(f"{path}/commits?limit=2")) == 3
            events = server.get(f"{API}{path}/events?follow=false").body.decode()
            assert events.count("event: attempt") == number
            # Where its files are, the database does not say.
            (product,) = server.every(f"{path}/products")
            answer = server.get(f"{API}{path}/{product['content']}")
            assert (answer.status, answer.json["way_out"]) == (404, "serve the working folder")
        # One context's attempts are not told of another.
        foreign = server.every(f"{server.session('two')}/attempts")[0]["id"]
        assert server.get(f"{API}{server.session('one')}/attempts/{foreign}").status == 404


def test_a_working_folder_whose_context_is_in_a_database_is_one_session(postgresql_url: str, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    product = make_product(folder, "cube.fits", b"cube")
    (folder / "config.yaml").write_text(f"context:\n  url: {postgresql_url}\n")
    with serving(folder) as server:
        path = server.session("s")
        assert server.json(path)["state"] == "not begun"
        (folder / "context.id").write_text("mine\n")
        with closing(Context(postgresql_url, "mine")) as context:
            context.commit("export", [product])
        assert server.json(path)["context"] == "mine"
        assert server.get(f"{API}{path}/products/products/cube.fits").body == b"cube"


def test_a_database_that_is_away_is_told_as_such_and_the_others_go_on(
    postgresql: PostgreSQL, postgresql_url: str, tmp_path: Path
) -> None:
    (tmp_path / "s").mkdir()
    for where, name in ((postgresql_url, "far"), (tmp_path / "s" / "context.db", None)):
        with closing(Context(where, name)) as context:
            context.commit("import", [])
    with serving(postgresql_url, tmp_path / "s") as server:
        far, near = server.session("far"), server.session("s")
        postgresql.stop()
        try:
            page = server.json("/sessions")
            assert {item["name"]: item["state"] for item in page["items"]} == {"far": "unreadable", "s": "unknown"}
            (unreachable,) = page["unreachable"]
            assert "cannot be reached" in unreachable["detail"]
            assert PASSWORD not in str(page)
            assert len(server.every(f"{near}/commits")) == 1
            assert server.get(f"{API}{far}/commits").status == 503
            assert server.get(f"{API}/sessions/nobody").status == 503
        finally:
            postgresql.start()
        wait_until(lambda: server.get(f"{API}{far}/commits").status == 200, 10, "the database is back")
        assert server.get(f"{API}/sessions/nobody").status == 404
