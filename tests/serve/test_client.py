from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from urllib.parse import urljoin

import pytest

from serve.serving import API, Fresh, an_attempt, make_product, write_some_attempts

CLIENT = Path(__file__).parent / "client.mjs"


def test_a_client_in_another_language_has_all_of_it(fresh: Fresh) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node, in which the client is written")
    product = make_product(fresh.folder, "cube.fits", bytes(range(256)) * 50)
    url = urljoin(fresh.server.url, API + fresh.path)
    with closing(fresh.begin()) as context:
        context.commit("export", [product])
        write_some_attempts(context, [an_attempt(number) for number in range(20)])
        client = subprocess.Popen([node, CLIENT, url], stdout=subprocess.PIPE, text=True)
        assert client.stdout is not None
        try:
            # What happens from now on is told while it follows.
            assert client.stdout.readline() == "following\n"
            for number in range(20, 40):
                write_some_attempts(context, [an_attempt(number)])
            context.commit("last", [])
            output, _ = client.communicate(timeout=20)
        finally:
            client.kill()
    assert client.returncode == 0
    seen = json.loads(output)
    assert seen["attempts"] == [f"job {number}" for number in range(20)]
    assert seen["same"] is True
    assert [job for kind, job in seen["told"] if kind == "attempt"] == [f"job {number}" for number in range(40)]
    assert [stage for kind, stage in seen["told"] if kind == "commit"] == ["export", "last"]
