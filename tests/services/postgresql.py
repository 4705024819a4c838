"""A private PostgreSQL server for the tests: in a temporary folder, on this machine only, gone when they end."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from services.ports import free_port

USER, PASSWORD = "surgeline", "p4ss-of-the-tests"


class PostgreSQL:
    """A real server with its usual durability, which tests may stop and start as they like."""

    def __init__(self, programs: Path, address: str = "127.0.0.1") -> None:
        """Make an empty server at an address of this machine; `programs` is the folder of initdb and pg_ctl."""
        self._programs = programs
        self._host = address
        # The server's user has to reach it, which cannot enter pytest's own folders.
        self.folder = Path(tempfile.mkdtemp(prefix="surgeline-postgresql-"))
        # PostgreSQL refuses to run as root.
        self._account = _account() if os.geteuid() == 0 else None
        self.port = free_port()
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if self._account is not None:
            for path in (self.folder, password):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        self._run(
            "initdb",
            *("--username", USER, "--pwfile", password, "--auth", "scram-sha-256"),
            *("--encoding", "UTF8", "--locale", "C", "--no-sync"),
        )
        with (self.folder / "data" / "pg_hba.conf").open("a") as access:
            access.write("host all all samenet scram-sha-256\n")

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        options = f"-h {self._host} -p {self.port} -k {self.folder} -c max_connections=200"
        self._run("pg_ctl", "start", "--wait", "--log", self.folder / "log", "--options", options)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it, and wait until it is gone: as an administrator does, or (immediate) as a crash does."""
        self._run("pg_ctl", "stop", "--wait", "--mode", mode)

    def is_running(self) -> bool:
        """Whether it is there to be stopped."""
        return (self.folder / "data" / "postmaster.pid").exists()

    def url(self, database: str) -> str:
        """The URL of one of its databases."""
        return f"postgresql+psycopg://{USER}:{PASSWORD}@{self._host}:{self.port}/{database}"

    def empty_database(self) -> str:
        """The name of a database in which nothing is. It is the same each time: making one takes far longer."""
        import psycopg

        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'context'"
        with psycopg.connect(self._address("postgres"), autocommit=True) as connection:
            if connection.execute("SELECT FROM pg_database WHERE datname = 'context'").fetchone() is None:
                connection.execute("CREATE DATABASE context")
            # Whoever was left behind in it.
            connection.execute(others)
        with psycopg.connect(self._address("context"), autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return "context"

    def remove(self) -> None:
        """Stop it and remove its folder."""
        if self.is_running():
            self.stop("immediate")
        shutil.rmtree(self.folder)

    def _address(self, database: str) -> str:
        return self.url(database).replace("+psycopg", "")

    def _run(self, program: str, *arguments: str | Path) -> None:
        account = self._account
        # Not through pipes: the server would keep them open for as long as it lives.
        with (self.folder / "output").open("w+") as output:
            code = subprocess.run(
                [self._programs / program, "--pgdata", self.folder / "data", *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            ).returncode
            output.seek(0)
            assert code == 0, f"{program} {arguments}: {output.read()}"


def programs_of_postgresql() -> Path | None:
    """The folder of PostgreSQL's own programs, where Debian or the PATH has them."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(versions, key=lambda folder: float(folder.parent.name), default=None)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A running server, one for all tests of a process. A test that stops it starts it again."""
    pytest.importorskip("psycopg", reason="psycopg, PostgreSQL's driver, is not installed")
    programs = programs_of_postgresql()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb in /usr/lib/postgresql/*/bin or on the PATH")
    server = PostgreSQL(programs)
    server.start()
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgresql_url(postgresql: PostgreSQL) -> str:
    """The URL of a database that is empty."""
    return postgresql.url(postgresql.empty_database())


def _account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
