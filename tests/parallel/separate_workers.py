"""Workers of this machine that do not see the session's folder: in their mount namespaces it is empty."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from surgeline.clusters.scheduler import start_scheduler
from surgeline.config import Configuration, load
from surgeline.parallel.bringing import Bringing, own_store
from surgeline.parallel.crew import Worker
from surgeline.parallel.daskhelpers import DaskBackend
from surgeline.work.outcome import Loss
from surgeline.work.resources import Resources

# For an ordinary user, in a namespace in which it may mount.
_UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
_HIDE = 'for folder in $HIDDEN; do mount -t tmpfs none "$folder" || exit 9; done; exec "$@"'


class SeparateWorkers(DaskBackend):
    """A fixed number of Dask workers that cannot see some folders."""

    workers = 2

    def __init__(
        self, configuration: Configuration, folder: Path, place: Path, hidden: Sequence[Path], **options: Any
    ):
        """Start them.

        Args:
            configuration: the whole configuration.
            folder: the session's.
            place: where the workers' own folders are.
            hidden: the folders that they see empty.
            options: `lost` and `ask` of any backend.
        """
        self._place = place
        self._hidden = hidden
        self.processes: list[subprocess.Popen[bytes]] = []
        super().__init__(configuration, "separate", folder, folder / "logs", **options)

    def close(self) -> None:
        """Stop them."""
        super().close()
        for process in self.processes:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _start_cluster(self) -> Any:
        cluster = start_scheduler("127.0.0.1", None, 0, None, None, 1)
        for number in range(self.workers):
            own = self._place / f"worker-{number}"
            own.mkdir(parents=True)
            command = [sys.executable, "-m", "surgeline.parallel.batchworker", cluster.scheduler_address]
            command += ["--name", f"separate-{number}", "--nthreads", "1", "--no-dashboard", "--nworkers", "1"]
            command += ["--resources", "cores=1", "--death-timeout", "60", "--memory-limit", "0"]
            with (own / "output").open("wb") as output:
                self.processes.append(
                    subprocess.Popen(
                        [*_UNSHARE, "sh", "-c", _HIDE, "sh", *command],
                        cwd=own,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                        env={**os.environ, "HIDDEN": " ".join(map(str, self._hidden))},
                    )
                )
        return cluster

    def _await_workers(self, configuration: Configuration, cluster_name: str, logs: Path) -> None:
        self._client.wait_for_workers(self.workers, timeout=60)

    def _clean_up(self) -> None:
        """Their folders are the test's."""

    def _recruit(self, message: Mapping[str, Any]) -> Worker:
        return Worker(message["worker"], str(message["name"]), "separate", Resources())

    def _memory_of_each(self) -> int | None:
        return None

    def _folder_of_workers(self, folder: Path) -> Path | None:
        return None


@contextmanager
def bringing(
    folder: Path,
    place: Path,
    url: str,
    *hidden: Path,
    options: Mapping[str, Any] | None = None,
    lost: Callable[[str, Loss], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Iterator[Bringing]:
    """A backend for a session's folder, by a store, with workers that do not see it."""
    if subprocess.run([*_UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a mount namespace")
    for name in ("logs", "data", "images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    workers = SeparateWorkers(load(environment={}, home=folder), folder, place, [folder, *hidden], lost=lost)
    try:
        backend = Bringing(workers, own_store(url, options or {}), folder, folder / "logs", tell=tell)
    except BaseException:
        workers.close()
        raise
    try:
        yield backend
    finally:
        backend.close()
