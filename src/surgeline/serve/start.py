"""`surgeline serve`: where to listen, who may come, and what is told of that."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from surgeline.errors import BadInput

TOKEN_VARIABLE = "SURGELINE_SERVE_TOKEN"  # nosec B105  # a name
# Shorter ones can be guessed.
_SHORTEST_TOKEN = 16
_LAST_PORT = 65535


def serve(
    sources: Iterable[str | Path],
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    tell: Callable[[str], None] = print,
    everybody_here: bool = False,
) -> None:
    """Serve sessions over HTTP, to be read only, until SIGINT or SIGTERM.

    Args:
        sources: working folders, and URLs of databases that hold contexts.
        host: the name or address to listen on.
        port: the port to listen on; 0: any that is free.
        token: what every request has to bear; None: one that is made.
        tell: told where it listens, the token if one was made, and a link for a browser.
        everybody_here: whether all users of this machine may ask, without a token.

    Raises:
        BadInput: FastAPI is not installed, the token is too short, or the address cannot be had.
    """
    try:
        from surgeline.serve.app import LOOPBACK_HOSTS, make_app
        from surgeline.serve.server import run
        from surgeline.serve.visitors import Visitors
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
        if everybody_here and not (loopback and token is None):
            raise BadInput(
                "only on this machine itself, and where no token is given, may everybody ask",
                "leave --without-token out, or listen on 127.0.0.1",
            )
        if token is None and not everybody_here:
            token = secrets.token_urlsafe(32)
            tell(f"token: {token}")
        name = f"[{host}]" if ":" in host else host
        port = listening.getsockname()[1]
        shown = socket.gethostname() if ipaddress.ip_address(address).is_unspecified else name

        def tell_link() -> None:
            if not visitors.everybody:
                tell(f"for one browser: http://{shown}:{port}{visitors.link}")

        def started() -> None:
            tell_link()
            tell(f"serving at http://{name}:{port}/")

        visitors = Visitors(token, tell_link)
        # Who has the token is no stranger's page, whatever name it came by.
        run(make_app(sources, visitors, {*LOOPBACK_HOSTS, name} if loopback else None), listening, started)


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
