"""A Prefect server of a session's own, for sessions that are told of none.

Run as `python -m surgeline.workflow.prefect_server SOCKET FOLDER PAGES`, with a pipe from the session as its input.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Self

from surgeline.errors import ClusterError
from surgeline.work.temporaryfolder import TemporaryFolder

# What has been told to the server last is written down before it ends; the session need not wait for ever.
_ENDING_SECONDS = 15.0
_PAUSE_SECONDS = 0.1
_HOST = "127.0.0.1"


class EmbeddedServer:
    """The session's side: a server that only this machine can reach, and that ends with the session.

    It sees the session end by a pipe, so that it ends, too, within `_ENDING_SECONDS`, when the session is killed.
    """

    def __init__(self, folder: Path, log: Path, timeout: float) -> None:
        """Start it, and wait until it answers.

        Args:
            folder: where it keeps what it knows.
            log: the file for its output.
            timeout: seconds that it may take to start; the first time in a folder, it makes its database.

        Raises:
            ClusterError: it ended instead, or took longer.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._pages = TemporaryFolder()
        with socket.socket() as listening, log.open("ab") as output:
            listening.bind((_HOST, 0))
            self.address = f"http://{_HOST}:{listening.getsockname()[1]}"
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(listening.fileno()), str(folder), str(self._pages.path)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=[listening.fileno()],
                # What ends the session's terminal or group of processes is told to Prefect before this ends.
                start_new_session=True,
            )
        try:
            self._wait(log, timeout)
        except BaseException:
            self._process.kill()
            self.close()
            raise

    @property
    def api_url(self) -> str:
        return f"{self.address}/api"

    def is_there(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it, once it has written down what it was told."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._pages.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, log: Path, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not self._answers():
            if self._process.poll() is not None:
                raise ClusterError(
                    f"Prefect's server ended as it should start (exit code {self._process.returncode})",
                    f"{log} says why; or name a server that runs: export PREFECT_API_URL=http://…/api",
                )
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"Prefect's server did not start within {timeout:g} s",
                    "give it more, prefect.start_timeout; or name one that runs: export PREFECT_API_URL=http://…/api",
                )
            time.sleep(_PAUSE_SECONDS)

    def _answers(self) -> bool:
        # No proxy knows this machine as 127.0.0.1.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.api_url}/health", timeout=1):
                return True
        except OSError:
            return False


def serve(descriptor: int, folder: Path, pages: Path) -> None:
    """Serve on a socket that is bound, until nobody holds the other end of standard input.

    Where its pages are, nothing is left: a session that was killed cannot see to that.
    """
    listening = socket.socket(fileno=descriptor)
    os.environ |= {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_API_URL": f"http://{_HOST}:{listening.getsockname()[1]}/api",
        # The package's own folder is not everybody's to write.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(pages),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    }
    import uvicorn
    from prefect.server.api.server import create_app

    server = uvicorn.Server(
        uvicorn.Config(create_app(final=True), log_level="error", lifespan="on", timeout_graceful_shutdown=5)
    )
    threading.Thread(target=_end_with_session, args=(server,), daemon=True).start()
    try:
        server.run(sockets=[listening])
    finally:
        shutil.rmtree(pages, ignore_errors=True)


def _end_with_session(server: object) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True  # type: ignore[attr-defined]
    time.sleep(_ENDING_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
