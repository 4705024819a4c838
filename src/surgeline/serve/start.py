"""`surgeline serve`: where to listen, who may come, and what is told of that."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from surgeline.errors import BadInput

TOKEN_VARIABLE = "SURGELINE_SERVE_TOKEN"
# Shorter ones can be guessed.
_SHORTEST_TOKEN = 16
_LAST_PORT = 65535


def serve(
    sources: Iterable[str | Path],
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    tell: Callable[[str], None] = print,
) -> None:
    """Serve sessions over HTTP, to be read only, until SIGINT or SIGTERM.

    Args:
        sources: working folders, and URLs of databases that hold contexts.
        host: the name or address to listen on. Elsewhere than on this machine itself a token is needed.
        port: the port to listen on; 0: any that is free.
        token: what every request has to bear. None: nothing on this machine itself, elsewhere one that is made.
        tell: told where it listens, and the token if one was made.

    Raises:
        BadInput: FastAPI is not installed, the token is too short, or the address cannot be had.
    """
    try:
        from surgeline.serve.app import LOOPBACK_HOSTS, make_app
        from surgeline.serve.server import run
    except ModuleNotFoundError as error:
        raise BadInput(
            f"serving needs {error.name}, and it is not installed", "pip install 'surgeline[serve]'"
        ) from error
    if token is not None and len(token) < _SHORTEST_TOKEN:
        raise BadInput(
            f"the token has {len(token)} characters, and shorter than {_SHORTEST_TOKEN} can be guessed",
            "give a longer one, or none: then one is made",
        )
    with _listen(host, port) as listening:
        address = listening.getsockname()[0]
        loopback = ipaddress.ip_address(address).is_loopback
        if token is None and not loopback:
            token = secrets.token_urlsafe(32)
            tell(f"token: {token}")
        name = f"[{host}]" if ":" in host else host
        # Who has the token is no stranger's page, whatever name it came by.
        app = make_app(sources, token, {*LOOPBACK_HOSTS, name} if loopback else None)
        url = f"http://{name}:{listening.getsockname()[1]}/"
        run(app, listening, lambda: tell(f"serving at {url}"))


def find_token(file: Path | None, variables: Mapping[str, str] = os.environ) -> str | None:
    """The token that a file holds, or else the environment variable SURGELINE_SERVE_TOKEN, or None.

    Raises:
        BadInput: the file cannot be read, or holds none.
    """
    if file is None:
        return variables.get(TOKEN_VARIABLE) or None
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the token cannot be read from {file}: {error}", "name a file that holds a token") from error
    if not token:
        raise BadInput(f"{file} holds no token", "name a file that holds a token")
    return token


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= _LAST_PORT:
        raise BadInput(f"port {port} cannot be listened on: ports are 0 to {_LAST_PORT}", "give another with --port")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Not socket.create_server: asyncio sends small answers at once only where the protocol is told to be TCP.
        listening = socket.socket(family, kind, protocol)
        try:
            # A server that ended a moment ago does not keep the port.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen()
        except BaseException:
            listening.close()
            raise
        return listening
    except (OSError, UnicodeError) as error:
        raise BadInput(
            f"port {port} of {host} cannot be listened on: {error}",
            "give another with --port (0: any that is free) or --host",
        ) from error
