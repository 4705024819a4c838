"""A private object store that speaks S3, for the tests: OpenStack Swift, in a temporary folder, on this machine only.

Swift is a real object store, with its own proxy, account, container and object servers. It comes from PyPI (`swift`).
"""

from __future__ import annotations

import getpass
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.daemons import Daemons
from services.ports import free_port, is_listened_on

KEY, SECRET = "test:tester", "testing"
BUCKET = "observations"
_RINGS = ("account", "container", "object")

_PROXY = """
[DEFAULT]
bind_port = {port}
{common}
[pipeline:main]
pipeline = catch_errors cache listing_formats s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
# On a busy machine a server may be slow to answer, and there is no other disk to turn to meanwhile.
conn_timeout = 30
node_timeout = 60
error_suppression_limit = 1000000
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:cache]
use = egg:swift#memcache
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""
_SERVER = """
[DEFAULT]
bind_port = {port}
devices = {folder}/srv
mount_check = false
# It would take nothing where a hundredth of a large disk is all that is free.
fallocate_reserve = 0
{common}
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""


class Swift(Daemons):
    """One disk, one copy of everything, and the servers that a store needs."""

    def __init__(self, programs: Path, host: str = "127.0.0.1") -> None:
        """Make an empty store.

        Args:
            programs: the folder of swift-proxy-server and the others.
            host: the address at which its clients reach it.
        """
        super().__init__("swift")
        self._programs = programs
        self._host = host
        self._ports = {kind: free_port() for kind in ("proxy", *_RINGS)}
        (self.folder / "srv" / "disk").mkdir(parents=True)
        (self.folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = tests\n")
        for kind in _RINGS:
            builder = self.folder / f"{kind}.builder"
            device = f"r1z1-127.0.0.1:{self._ports[kind]}/disk"
            for words in (("create", "4", "1", "0"), ("add", device, "1"), ("rebalance",)):
                self.run(programs / "swift-ring-builder", builder, *words)
        for kind, port in self._ports.items():
            address = host if kind == "proxy" else "127.0.0.1"
            common = f"bind_ip = {address}\nuser = {getpass.getuser()}\nswift_dir = {self.folder}\nworkers = 0"
            text = (_PROXY if kind == "proxy" else _SERVER).format(
                port=port, common=common, folder=self.folder, kind=kind
            )
            (self.folder / f"{kind}.conf").write_text(text)

    def environment(self) -> dict[str, str]:
        """Nothing: clients are told where it is by `options`."""
        return {}

    @property
    def options(self) -> dict[str, Any]:
        """What s3fs needs to reach it."""
        return {
            "key": KEY,
            "secret": SECRET,
            "endpoint_url": f"http://{self._host}:{self._ports['proxy']}",
            "client_kwargs": {"region_name": "us-east-1"},
        }

    def start(self) -> None:
        """Start it, and wait until it takes requests."""
        for kind in self._ports:
            command = [self._programs / f"swift-{kind}-server", self.folder / f"{kind}.conf", "--verbose"]
            self._start(kind, *map(str, command))
        for kind, port in self._ports.items():
            host = self._host if kind == "proxy" else "127.0.0.1"
            self._wait_for(kind, lambda host=host, port=port: is_listened_on(port, host), f"{kind} server listens")

    def end(self) -> None:
        """Take the servers away; what they hold stays."""
        for kind in self._ports:
            self._end(kind, signal.SIGKILL)

    def files(self) -> Any:
        """The store as fsspec sees it."""
        import fsspec

        return fsspec.filesystem("s3", **self.options, use_listings_cache=False)


@pytest.fixture(scope="session")
def swift() -> Iterator[Swift]:
    """A running store, one for all tests of a process. A test that ends it starts it again."""
    pytest.importorskip("s3fs", reason="s3fs, the client of S3, is not installed")
    programs = Path(sys.executable).parent
    if not (programs / "swift-proxy-server").exists():
        pytest.skip("swift, the object store of these tests, is not installed")
    server = Swift(programs)
    try:
        server.start()
        server.files().mkdir(BUCKET)
        yield server
    finally:
        server.remove()


@pytest.fixture
def bucket(swift: Swift) -> Iterator[str]:
    """The URL of a folder of a bucket; what a test leaves there is removed."""
    yield f"s3://{BUCKET}/kept"
    files = swift.files()
    if files.exists(f"{BUCKET}/kept"):
        files.rm(f"{BUCKET}/kept", recursive=True)
