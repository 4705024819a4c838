from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin

import pytest

from serve.serving import API, Server

HOOKS = """
import schemathesis

@schemathesis.hook
def map_query(context, query):
    # A feed that is followed has no end.
    return {**(query or {}), "follow": False} if context.operation.path.endswith("/events") else query
"""


def test_the_api_does_what_its_description_says(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("schemathesis", reason="schemathesis, which tries what a description says, is not installed")
    session = server.session("good").rpartition("/")[2]
    (tmp_path / "hooks.py").write_text(HOOKS)
    (tmp_path / "schemathesis.toml").write_text(f"""
hooks = "hooks"

# What a damaged store is told with.
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]

[[operations]]
include-path-regex = "/products/.path.$"
parameters = {{ session = "{session}", path = "products/list.json" }}

[[operations]]
include-path-regex = "/events$"
parameters = {{ session = "{session}", follow = false }}
""")
    url = urljoin(server.url, f"{API}/openapi.json")
    arguments = ["--checks", "all", "--max-examples", "6", "--seed", "1", "--request-timeout", "5", "--no-color"]
    answer = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "run", url, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "Tested: 13" in answer.stdout
