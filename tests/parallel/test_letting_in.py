"""Who may join the workers of a session: its own processes, and nobody else of this machine or of the network."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from surgeline import FunctionCall, TaskQueue
from surgeline.clusters import certificates
from surgeline.config import load
from surgeline.errors import ClusterError
from surgeline.parallel.backend import Backends


def own_address() -> str:
    """An address of this machine at which others reach it, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Nothing is sent.
            probe.connect(("192.0.2.254", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A local cluster that listens to the network."""
    folder = tmp_path_factory.mktemp("listening")
    overrides = ["backend=dask", "dask.n_workers=1", f"dask.host={own_address()}"]
    backends = Backends(load(overrides=overrides, environment={}, home=folder), folder, folder / "logs")
    yield backends.get(None)
    backends.close()


def run(backend: Any, *jobs: FunctionCall) -> list[Any]:
    with TaskQueue(backend) as queue:
        for job in jobs:
            queue.add(job)
        return [outcome.result() for outcome in queue.get_results()]


def listening(process: psutil.Process) -> set[tuple[str, int]]:
    return {tuple(found.laddr) for found in process.net_connections("inet") if found.status == "LISTEN"}


def test_whoever_has_no_key_is_refused(backend: Any) -> None:
    from distributed import Client

    address = backend._cluster.scheduler_address
    assert address.startswith("tls://")
    for asked, security in (
        (address.replace("tls", "tcp"), None),
        (address, certificates.make()),
        (address.replace("tls", "ws"), None),
    ):
        with pytest.raises((OSError, ValueError)):
            Client(asked, security=security, timeout=2, set_as_default=False)
    assert run(backend, FunctionCall(abs, -2)) == [2]


def test_a_worker_with_keys_of_another_session_does_not_join(backend: Any, tmp_path: Path) -> None:
    certificates.write(certificates.contents(certificates.make()), tmp_path)
    files = [str(tmp_path / name) for name in certificates.NAMES]
    options = [
        word for pair in zip(("--tls-ca-file", "--tls-cert", "--tls-key"), files, strict=True) for word in pair
    ]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--death-timeout", "3", "--no-nanny"]
    address = backend._cluster.scheduler_address
    for asked, given in ((address, options), (address.replace("tls", "tcp"), [])):
        tried = subprocess.run(
            [*worker, "--local-directory", str(tmp_path), *given, asked], capture_output=True, text=True, timeout=60
        )
        assert "Registered to" not in tried.stderr
    assert len(backend._client.scheduler_info(n_workers=-1)["workers"]) == 1


def test_nothing_listens_but_what_asks_for_keys_and_tells_of_health(backend: Any) -> None:
    # CASA's own server, which would listen at every address, is heard by nobody.
    [worker] = run(backend, FunctionCall(os.getpid))
    for process in (psutil.Process(), psutil.Process(worker)):
        for host, port in listening(process):
            assert host == own_address() or host.startswith("127."), (process, host, port)
            # By what anybody may ask without a key, there is but health.
            if host.startswith("127.") and own_address() != host:
                assert asked_by_http(host, port, "/health") == 200
                for path in ("/info/main/workers.html", "/json/counts.json", "/metrics", "/status", "/proxy/1/x/y"):
                    assert asked_by_http(host, port, path) == 404


def asked_by_http(host: str, port: int, path: str) -> int:
    from http.client import HTTPConnection

    connection = HTTPConnection(host, port, timeout=5)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


def test_keys_are_in_no_command_line_and_no_environment(backend: Any) -> None:
    secrets = certificates.contents(backend._cluster.security)["key.pem"].splitlines()[1:-1]
    assert secrets
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        told = " ".join(process.cmdline()) + str(process.environ())
        assert not any(secret in told for secret in secrets)


@pytest.mark.parametrize("address", ["0.0.0.0:8787", "192.0.2.1:8787", "login.example:8787"])
def test_the_dashboard_which_asks_nobody_is_for_this_machine_only(address: str) -> None:
    from surgeline.clusters.daskoptions import dashboard_options

    with pytest.raises(ClusterError, match=r"ssh -L 8787:127\.0\.0\.1:8787"):
        dashboard_options(address)
    for here in (":8787", "localhost:8787", "[::1]:8787"):
        assert not dashboard_options(here)["dashboard_address"].startswith(":")
