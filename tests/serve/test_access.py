from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serve.serving import API, Server, serving
from surgeline.errors import BadInput
from surgeline.serve.start import find_token, serve

TOKEN = "correct-horse-battery-staple"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", "localhost:80", "[::1]:80"])
def test_this_machine_asks_by_the_names_that_it_has(server: Server, host: str) -> None:
    assert server.get("/", Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "localhost.", "", "[::1", "::1", "127.0.0.2",
     "localhost:80:80", "localhost@evil.example", "localhost evil", "0.0.0.0"],
)  # fmt: skip
def test_a_page_whose_name_was_bound_to_this_machine_is_refused(server: Server, host: str) -> None:
    for path in ("/", f"{API}/sessions", f"{API}/openapi.json", "/nothing"):
        answer = server.get(path, Host=host)
        assert answer.status == 421
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_request_without_a_name_is_refused(server: Server) -> None:
    with socket.create_connection(server.address) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 421 " in client.recv(1000)


def test_elsewhere_a_token_is_made_and_told_once(tmp_path: Path) -> None:
    with serving(tmp_path / "s", host="0.0.0.0") as server:
        assert len(server.told) == 3
        token = server.told[0].removeprefix("token: ")
        assert len(token) >= 32
        assert server.get(f"{API}/sessions", Host="any.example", Authorization=f"Bearer {token}").status == 200
        assert server.get(f"{API}/sessions", Authorization=f"bearer  {token}").status == 200
        wrong = ["", token, f"Basic {token}", "Bearer", "Bearer ", f"Bearer {token}x", f"Bearer {token[:-1]}",
                 f"Bearer {token} {token}", f"Bearer \xff{token}"]  # fmt: skip
        for path in ("/", f"{API}/sessions", f"{API}/openapi.json", f"{API}/sessions/x/events", "/nothing"):
            assert server.get(path).status == 401
            assert server.get(f"{path}?token={token}").status == 401
            for given in wrong:
                answer = server.get(path, Authorization=given)
                assert answer.status == 401
                assert answer.headers["www-authenticate"] == "Bearer"
        described = server.get(f"{API}/openapi.json", Authorization=f"Bearer {token}").json
        assert described["security"] == [{"token": []}]


def test_a_token_from_the_environment_counts_on_this_machine_too(tmp_path: Path) -> None:
    with serving(tmp_path / "s", SURGELINE_SERVE_TOKEN=TOKEN) as server:
        assert len(server.told) == 2
        assert TOKEN not in "".join(server.told)
        assert server.get("/").status == 401
        assert server.get("/", Authorization=f"Bearer {TOKEN}").status == 200
        assert server.get("/", Authorization=f"Bearer {TOKEN}", Host="evil.example").status == 421


def test_a_token_in_a_file_counts_more(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert find_token(file, {"SURGELINE_SERVE_TOKEN": "another"}) == TOKEN
    assert find_token(None, {"SURGELINE_SERVE_TOKEN": "another"}) == "another"
    assert find_token(None, {"SURGELINE_SERVE_TOKEN": ""}) is None
    file.write_text("\n")
    for wrong in (file, tmp_path / "nothing", tmp_path):
        with pytest.raises(BadInput, match=str(wrong)):
            find_token(wrong, {})
    with pytest.raises(BadInput, match="5 characters"):
        serve([], token="short")


@pytest.mark.parametrize(("host", "token"), [("0.0.0.0", None), ("127.0.0.1", TOKEN)])
def test_without_a_token_only_this_machine_is_served(host: str, token: str | None) -> None:
    with pytest.raises(BadInput, match="only on this machine"):
        serve([], host, 0, token, everybody_here=True)


def test_here_too_a_token_is_made_unless_everybody_may_ask(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "surgeline.cli", "serve", "--port", "0", str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "SURGELINE_SERVE_TOKEN"}
    for further, kinds in (([], ["token", "for one browser", "serving at http"]),
                           (["--without-token"], ["serving at http"])):  # fmt: skip
        with subprocess.Popen([*command, *further], stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            told = [process.stdout.readline() for _ in kinds]
            process.terminate()
        assert [line.partition(":")[0] for line in told] == kinds


def test_one_browser_may_come_by_a_link_once(tmp_path: Path) -> None:
    with serving(tmp_path / "s", SURGELINE_SERVE_TOKEN=TOKEN) as server:
        link = "/" + server.told[0].removeprefix("for one browser: ").removeprefix(server.url)
        assert server.get(link, method="HEAD").status == 401
        assert server.get(link + "x").status == server.get("/enter").status == 403
        came = server.get(link)
        assert came.status == 200
        cookie, *attributes = (came.headers["set-cookie"] or "").split("; ")
        assert {attribute.lower() for attribute in attributes} == {"httponly", "path=/", "samesite=strict"}
        assert server.get("/sessions", Cookie=cookie).status == 200
        assert server.get(f"{API}/sessions", Cookie=f"other=1; {cookie}").status == 200
        for wrong in (f"{cookie}x", cookie[:-1], cookie.partition("=")[0] + "=", f"surgeline={TOKEN}"):
            assert server.get("/sessions", Cookie=wrong).status == 401
        # Whoever finds the link later, as in a history, does not get in.
        assert server.get(link).status == 403
        assert server.stop() == 0
        another = server.rest.pop()
        assert another.startswith("for one browser: ") and link not in another


def test_who_asks_too_fast_has_to_wait(tmp_path: Path) -> None:
    with serving(tmp_path / "s", SURGELINE_SERVE_TOKEN=TOKEN) as server:
        statuses = [server.get("/", Authorization=f"Bearer {number}").status for number in range(130)]
        assert set(statuses) == {401, 429}
        told = server.get("/", Authorization=f"Bearer {TOKEN}")
        assert told.status == 429 and int(told.headers["retry-after"] or 0) >= 1


def test_requests_have_no_bodies(server: Server) -> None:
    assert server.get("/", Content_Length="1").status == 413
    assert server.get("/", Transfer_Encoding="chunked").status == 413
    with socket.create_connection(server.address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000)
        assert b" 400 " in client.recv(1000)


def test_a_port_that_is_taken_is_told_as_such(server: Server) -> None:
    for host, port in (("127.0.0.1", server.address[1]), ("no.such.host.invalid", 0), ("127.0.0.1", 99_999)):
        with pytest.raises(BadInput, match="cannot be listened on") as caught:
            serve([], host, port)
        assert str(port) in str(caught.value)


def test_a_source_that_is_no_database_is_told_without_its_password() -> None:
    for url in ("postgresql+nothing://me:hush@host/name", "mysql://me:hush@host/name", "sqlite:///x.db", "://",
                "postgresql+psycopg://me:hush@host:port/name"):  # fmt: skip
        with pytest.raises(BadInput, match=r"postgresql\+psycopg://") as caught:
            serve([url], port=0)
        assert "hush" not in str(caught.value)


def test_without_fastapi_the_way_to_have_it_is_told() -> None:
    code = """
import sys
sys.modules["fastapi"] = None
from surgeline.errors import BadInput
from surgeline.serve.start import serve
try:
    serve([])
except BadInput as error:
    print(error)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "fastapi" in answer.stdout
    assert "pip install 'surgeline[serve]'" in answer.stdout


def test_nothing_of_it_is_imported_before_it_is_wanted() -> None:
    code = "import sys; import surgeline.cli, surgeline.serve.start; print('fastapi' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "False\n"
