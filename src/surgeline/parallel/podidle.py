"""What the Dask operator asks the scheduler's pod by HTTP: since when no session is there.

A module of Dask's routes, imported by its HTTP server alone.
"""

from __future__ import annotations

from distributed.http.utils import RequestHandler


class IdleHandler(RequestHandler):  # type: ignore[misc]
    """Answers as the scheduler's handler of the same question does."""

    def get(self) -> None:
        """The Unix time, or 0 while there is one."""
        self.write({"idle_since": self.server.handlers["check_idle"]()})


routes: list[tuple[str, type[IdleHandler], dict[str, object]]] = [("/api/v1/check_idle", IdleHandler, {})]
