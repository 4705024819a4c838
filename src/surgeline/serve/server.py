"""Runs the application, and ends it when told to."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

# Downloads may go on for so many seconds when the server is told to end.
_SECONDS_TO_END = 5
# A client that has not asked by then keeps others out.
_SECONDS_TO_ASK = 10
_MOST_CONNECTIONS = 300


def run(app: FastAPI, listening: socket.socket, started: Callable[[], None]) -> None:
    """Serve an application on a listening socket until SIGINT or SIGTERM.

    Args:
        app: the application.
        listening: the socket.
        started: called once requests are answered, and signals end it well.
    """
    server = _Server(
        uvicorn.Config(
            app,
            loop="asyncio",
            http=_Punctual,
            limit_concurrency=_MOST_CONNECTIONS,
            ws="none",
            lifespan="off",
            log_config=None,
            # What a client does wrong is told to the client.
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_SECONDS_TO_END,
        ),
        started,
    )
    app.state.ending = lambda: server.should_exit
    server.run([listening])


class _Punctual(H11Protocol):
    """A connection that is closed where nobody asks for anything by it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and wait for the first request."""
        super().connection_made(transport)
        self.loop.call_later(_SECONDS_TO_ASK, self._close_unless_asked)

    def _close_unless_asked(self) -> None:
        asked: object = self.cycle
        if asked is None:
            self.transport.close()


class _Server(uvicorn.Server):
    """A server for which a signal is how it ends, not a failure."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell_started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and tell so."""
        await super().startup(sockets)
        self._tell_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals, and give them back without raising them again."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
