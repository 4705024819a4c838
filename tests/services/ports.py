"""Ports for the tests' own servers."""

from __future__ import annotations

import random
import socket

_given: set[int] = set()


def free_port() -> int:
    """A port of this machine that nobody listens on, another one at each call."""
    # Below those that the system gives to clients, one of which could take it while the server is stopped.
    while True:
        port = random.randrange(20000, 30000)
        if port not in _given and not is_listened_on(port):
            _given.add(port)
            return port


def is_listened_on(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server answers there."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
