"""What tests take from Debian's mirror, once, into a cache folder; nothing is installed.

The cache folder is SURGELINE_TEST_CACHE, else ~/.cache/surgeline-tests.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path


class FetchFailed(Exception):
    """What a service is made of cannot be had here."""


def cache() -> Path:
    """The folder of what tests fetch once; not in HOME, which is empty in tests."""
    found = os.environ.get("SURGELINE_TEST_CACHE")
    return Path(found).absolute() if found else Path(pwd.getpwuid(os.geteuid()).pw_dir, ".cache", "surgeline-tests")


def made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """A folder of the cache, made if it is not there yet.

    `make` fills another folder, which then takes the name: what there is of a target is all of it. Of two processes
    that start at once, one waits for the other.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f"{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            # Left by a process that was killed.
            for leftover in target.parent.glob(f"{target.name}-unfinished-*"):
                shutil.rmtree(leftover)
            with tempfile.TemporaryDirectory(
                prefix=f"{target.name}-unfinished-", dir=target.parent, ignore_cleanup_errors=True
            ) as work:
                tree = Path(work, "tree")
                tree.mkdir()
                make(tree)
                tree.rename(target)
    return target


def mirror() -> str:
    """The mirror of Debian that this machine's apt is configured for."""
    need_programs("apt-get", "dpkg-deb")
    uris = output("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages").split()
    found = next((uri for uri in uris if uri.rstrip("/").endswith("/debian")), None)
    if found is None:
        raise FetchFailed("apt knows no mirror of Debian")
    return found


def only_suite(folder: Path, suite: str, *, sources: bool = False) -> dict[str, str]:
    """The environment in which apt-get knows one suite of Debian, or its sources, and nothing of this machine."""
    for empty in ("lists/partial", "archives/partial"):
        (folder / empty).mkdir(parents=True)
    (folder / "status").touch()
    kind = "deb-src" if sources else "deb"
    (folder / "sources.list").write_text(
        f"{kind} [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror()} {suite} main\n"
    )
    (folder / "apt.conf").write_text(
        f'''Dir::State "{folder}"; Dir::State::status "{folder}/status"; Dir::Cache "{folder}";
        Dir::Etc::sourcelist "{folder}/sources.list"; Dir::Etc::sourceparts "/dev/null";
        Dir::Etc::preferences "/dev/null"; Dir::Etc::preferencesparts "/dev/null";
        APT::Sandbox::User "root"; Acquire::Languages "none";'''
    )
    environment = {"APT_CONFIG": str(folder / "apt.conf")}
    output("apt-get", "update", "-qq", cwd=folder, **environment)
    return environment


def need_programs(*names: str) -> None:
    """Raise FetchFailed for the first of these programs that is not installed."""
    for name in names:
        # Debian keeps some where ordinary users do not look.
        if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            raise FetchFailed(f"there is no {name}")


def output(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    """What a command printed; FetchFailed with its last words if it failed."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=cwd, env={**os.environ, **environment}
    )
    if done.returncode != 0:
        words = (done.stderr or done.stdout).strip()
        raise FetchFailed(f"{' '.join(map(str, command[:2]))}: {words[-2000:]}")
    return done.stdout
