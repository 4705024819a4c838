from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from serve.serving import API, Fresh, Server, a_decision, begin_record, run_stage, some_roles
from surgeline.context.records import Roles
from surgeline.paths import SessionPaths
from surgeline.workflow.workfolder import WorkfolderLock


def test_every_session_is_told_of_and_a_damaged_one_with_the_reason(server: Server, folders: Path) -> None:
    page = server.json("/sessions")
    found = {session["name"]: session for session in page["items"]}
    assert {name: session["state"] for name, session in found.items()} == {
        "good": "finished", "many": "unknown", "damaged": "unreadable", "not begun": "not begun",
    }  # fmt: skip
    assert page["next"] is None
    assert page["unreachable"] == []
    assert found["good"]["recipe"] == "calimage"
    assert found["good"]["version"] == 4
    assert found["good"]["where"] == str(folders / "good")
    assert found["good"]["unreadable"] is None
    for told in (str(folders / "damaged" / "context.db"), "malformed", "move it away"):
        assert told in found["damaged"]["unreadable"]


def test_what_needs_a_damaged_store_says_so_and_the_others_go_on(server: Server) -> None:
    damaged = server.session("damaged")
    assert server.json(damaged)["state"] == "unreadable"
    for what in ("stages", "commits", "attempts", "facts", "diff", "products", "environments"):
        answer = server.get(f"{API}{damaged}/{what}")
        assert answer.status == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert "context.db" in answer.json["detail"]
    assert len(server.every(f"{server.session('good')}/commits")) == 4


def test_a_session_tells_its_recipe_and_its_stages(server: Server) -> None:
    path = server.session("good")
    session = server.json(path)
    assert session["recipe_content"]["vis"] == ["my.ms"]
    stages = {stage["name"]: stage for stage in session["stages"]}
    assert next(iter(stages)) == "import"
    assert stages["import"] == {
        "name": "import", "task": "import", "state": "finished", "started": 10.0, "ended": 11.0, "error": None,
        "cluster": "local", "needs": [], "jobs": {}, "version": 1,
    }  # fmt: skip
    # Its commit was withdrawn: no result of it holds.
    assert stages["flag"]["version"] is None
    assert stages["bandpass"]["state"] == "waiting"
    assert server.json(f"{path}/stages")["items"] == session["stages"]


def test_without_a_record_the_context_says_which_stages_are_finished(fresh: Fresh) -> None:
    record = begin_record(fresh.folder)
    with closing(fresh.begin()) as context:
        run_stage(record, context, "import", [], 1.0)
        context.commit("rerun", [])
    (fresh.folder / "run.json").write_text('{"state": ')
    session = fresh.server.json(fresh.path)
    assert (session["state"], session["recipe"]) == ("unknown", "calimage")
    assert [(stage["name"], stage["state"]) for stage in session["stages"]] == [("import", "finished")]


def test_a_session_whose_process_is_gone_does_not_run(fresh: Fresh) -> None:
    record = begin_record(fresh.folder)
    with closing(fresh.begin()):
        record.stage("import", state="running", started=1.0)
    lock = WorkfolderLock(SessionPaths(fresh.folder))
    assert fresh.server.json(fresh.path)["state"] == "running"
    # Being served never keeps a session from having its folder.
    lock.release()
    WorkfolderLock(SessionPaths(fresh.folder)).release()
    holder = fresh.folder / "session.lock"
    holder.write_text(json.dumps({**json.loads(holder.read_text()), "process": 2**22 - 1}))
    session = fresh.server.json(fresh.path)
    assert (session["state"], session["stages"][0]["state"]) == ("interrupted", "interrupted")


def test_a_folder_may_appear_later_and_begin_anew(fresh: Fresh) -> None:
    assert fresh.server.json(fresh.path)["state"] == "not begun"
    assert fresh.server.get(f"{API}{fresh.path}/commits").status == 404
    for stage in ("first", "second"):
        with closing(fresh.begin()) as context:
            context.commit(stage, [])
            assert [commit["stage"] for commit in fresh.server.every(f"{fresh.path}/commits")] == [stage]
        shutil.rmtree(fresh.folder)
    assert fresh.server.json(fresh.path)["state"] == "not begun"


def test_ten_thousand_attempts_come_part_by_part_without_gaps(server: Server) -> None:
    path = server.session("many")
    found = server.every(f"{path}/attempts?limit=1000")
    assert [attempt["job"] for attempt in found] == [f"job {number}" for number in range(10_000)]
    assert len({attempt["id"] for attempt in found}) == 10_000
    failed = server.every(f"{path}/attempts?stage=flag&state=failed&run=run-1&limit=97")
    assert [attempt["job"] for attempt in failed] == [
        f"job {number}" for number in range(10_000) if number % 3 == 1 and number % 4 == 2
    ]
    assert [attempt["number"] for attempt in server.every(f"{path}/attempts?job=job%20777")] == [1]
    assert server.every(f"{path}/attempts?stage=nothing") == []


def test_an_attempt_is_told_with_all_that_is_recorded_of_it(server: Server) -> None:
    path = server.session("good")
    first, second = server.every(f"{path}/attempts")
    assert server.json(f"{path}/attempts/{first['id']}")["body"] == {"call": "tclean(niter=1)"}
    # JSON has no word for what is not a number.
    assert server.json(f"{path}/attempts/{second['id']}")["body"]["rms"] == "NaN"
    assert server.get(f"{API}{path}/attempts/99").status == 404
    names = [environment["id"] for environment in server.every(f"{path}/environments?limit=1")]
    assert names == [first["environment"], second["environment"]]


def test_facts_are_told_as_they_held_at_a_version(server: Server) -> None:
    path = server.session("good")
    newest = server.json(f"{path}/facts?kind=Roles")
    assert newest["version"] == 4
    # What the second commit said was withdrawn by the fourth.
    for version, target in ((1, [1]), (2, [1, 2]), (3, [1, 2]), (4, [1])):
        (fact,) = server.every(f"{path}/facts?kind=Roles&version={version}")
        assert fact["body"]["target"] == target
        assert Roles.model_validate(fact["body"]).vis == "my.ms"
    assert server.every(f"{path}/facts?version=0") == []
    assert [fact["kind"] for fact in server.every(f"{path}/facts?limit=1")] == [
        "Roles", "Decision", "Decision", "Product", "Product",
    ]  # fmt: skip
    assert len(server.every(f"{path}/facts?subject=%5B%22my.ms%22%5D")) == 1
    answer = server.get(f"{API}{path}/facts?version=5")
    assert (answer.status, answer.json["detail"]) == (404, "the context has no version 5")


def test_the_parts_of_a_list_of_facts_are_of_one_version_whatever_happens_meanwhile(fresh: Fresh) -> None:
    path = f"{fresh.path}/facts"
    with closing(fresh.begin()) as context:
        context.commit("import", [some_roles(f"{number}.ms", 1) for number in range(6)])
        first = fresh.server.json(f"{path}?limit=4")
        context.commit("again", [some_roles(f"{number}.ms", 2) for number in range(6)])
        second = fresh.server.json(path + first["next"])
    assert [fact["body"]["vis"] for fact in first["items"] + second["items"]] == [f"{n}.ms" for n in range(6)]
    assert {tuple(fact["body"]["target"]) for fact in first["items"] + second["items"]} == {(1,)}
    assert second["next"] is None


def test_the_log_tells_what_was_withdrawn_by_what(server: Server) -> None:
    commits = server.every(f"{server.session('good')}/commits?limit=1")
    assert [(commit["version"], commit["stage"]) for commit in commits] == [
        (1, "import"), (2, "flag"), (3, "export"), (4, "by hand"),
    ]  # fmt: skip
    assert [commit["withdrawn_by"] for commit in commits] == [None, 4, None, None]
    assert [commit["withdraws"] for commit in commits] == [[], [], [], [2]]


def test_two_versions_are_compared(server: Server) -> None:
    path = f"{server.session('good')}/diff"

    def compared(query: str) -> list[tuple[str, bool, bool]]:
        return [
            (change["kind"], bool(change["before"]), bool(change["after"])) for change in server.every(path + query)
        ]

    assert compared("?before=0&after=1") == [
        ("Roles", False, True), ("Decision", False, True), ("Decision", False, True),
    ]  # fmt: skip
    assert compared("?before=1&after=2") == [("Roles", True, True)]
    assert compared("?before=2&after=1") == [("Roles", True, True)]
    # What holds again because the later word was withdrawn is no difference.
    assert compared("?before=1&after=4&limit=1") == [("Product", False, True), ("Product", False, True)]
    newest = server.json(path)
    assert (newest["before"], newest["after"]) == (3, 4)
    (change,) = newest["items"]
    assert (change["before"]["body"]["target"], change["after"]["body"]["target"]) == ([1, 2], [1])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/sessions/nobody", 404),
        ("/nothing", 404),
        ("/sessions?limit=1001", 422),
        ("/sessions?limit=0", 422),
        ("/sessions?lmit=5", 422),
        ("/sessions?cursor=%00", 422),
        ("SESSION/attempts?cursor=-1", 422),
        ("SESSION/attempts?cursor=99999999999999999999", 422),
        ("SESSION/facts?version=x", 422),
        ("SESSION/attempts/0", 422),
        ("SESSION/products/nothing.fits", 404),
    ],
)
def test_problems_are_told_without_how_the_server_came_to_them(server: Server, path: str, status: int) -> None:
    answer = server.get(API + path.replace("SESSION", server.session("good")))
    assert answer.status == answer.json["status"] == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert set(answer.json) == {"type", "title", "status", "detail", "way_out"}
    assert "Traceback" not in answer.body.decode()


def test_nothing_can_be_changed(server: Server) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
        for path in ("/sessions", server.session("good"), f"{server.session('good')}/products/products/list.json"):
            answer = server.get(API + path, method)
            assert answer.status == 405
            assert "GET" in answer.headers["allow"]


def test_every_answer_tells_browsers_not_to_make_more_of_it(server: Server) -> None:
    for path in ("/", f"{API}/sessions", f"{API}/openapi.json", "/nothing"):
        headers = server.get(path, Origin="http://elsewhere.example").headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["cache-control"] == "no-store"
        assert headers["server"] is None
        assert not [name for name in headers if name.lower().startswith("access-control-")]


def test_the_page_loads_nothing_from_anywhere(server: Server) -> None:
    page = server.get("/").body.decode()
    assert re.findall(r"<(script|link|img|iframe|style)|https?://", page) == []
    for link in re.findall(r'href="([^"]+)"', page):
        assert server.get("/" + link).status == 200
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert server.get(path).status == 404
    described = {
        path.removeprefix("/").replace("{session}", "ID").replace("{path}", "PATH").replace("{sha256}", "SHA256")
        for path in server.get(f"{API}/openapi.json").json["paths"]
    }
    told = {re.sub("<.*?>", "", text) for text in re.findall(r"<dt>(.*?)</dt>", page)}
    assert {path.replace("{number}", "NUMBER") for path in described} == told


def test_a_fact_that_is_no_json_is_told_as_damage(fresh: Fresh) -> None:
    with closing(fresh.begin()) as context:
        context.commit("flag", [a_decision("one")])
    with closing(sqlite3.connect(fresh.folder / "context.db")) as database:
        database.execute("DROP TRIGGER no_update_of_facts")
        database.execute("UPDATE facts SET body = '[broken'")
        database.commit()
    assert fresh.server.get(f"{API}{fresh.path}/facts").status == 503
    assert len(fresh.server.every(f"{fresh.path}/commits")) == 1


def test_headers_alone_may_be_asked_for(server: Server) -> None:
    good = server.session("good")
    for path in (good, f"{good}/products/products/list.json", f"{good}/events", "/nothing"):
        whole = server.get(f"{API}{path}?follow=false" if path.endswith("events") else API + path)
        headers = server.get(API + path, "HEAD")
        assert (headers.status, headers.body) == (whole.status, b"")
        assert headers.headers["content-type"] == whole.headers["content-type"]
        assert headers.headers["content-length"] == whole.headers["content-length"]
