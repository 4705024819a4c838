"""Files for people: opened only inside of the working folder, and sent whole or in part."""

from __future__ import annotations

import base64
import mimetypes
import os
import re
import stat
from collections.abc import AsyncIterator
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import quote

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from surgeline.paths import safe_name
from surgeline.serve.models import ProductFile
from surgeline.serve.problems import Refused
from surgeline.serve.ranges import Unsatisfiable, is_known, parse_range

_BLOCK = 1 << 20
_CHECKSUM = re.compile("[0-9a-f]{64}")
# What tables of types, which differ from machine to machine, may not know.
_TYPES = {
    ".fits": "application/fits",
    ".json": "application/json",
    ".png": "image/png",
    ".txt": "text/plain",
    ".yaml": "application/yaml",
}


def product_response(request: Request, folder: Path, product: ProductFile) -> Response:
    """The answer to a request for a product's content.

    Raises:
        Refused: there is no such file, it is not what was recorded, or it is not inside of the folder.
    """
    if not _CHECKSUM.fullmatch(product.sha256):
        raise Refused(HTTPStatus.CONFLICT, f"{product.path} has no SHA-256 on record")
    file = open_inside(folder, product.path)
    try:
        response = _response(request, file, product)
    except BaseException:
        file.close()
        raise
    if not isinstance(response, _FileResponse):
        file.close()
    return response


def _response(request: Request, file: BinaryIO, product: ProductFile) -> Response:
    size = os.fstat(file.fileno()).st_size
    if size != product.size:
        raise Refused(
            HTTPStatus.CONFLICT,
            f"{product.path} has changed since it was made: it has {size} bytes, not {product.size}",
            "run the stage that makes it again",
        )
    tag = f'"{product.sha256}"'
    headers = {
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": disposition(PurePosixPath(product.path).name),
        "content-type": media_type(product.path),
        "etag": tag,
        "repr-digest": f"sha-256=:{base64.b64encode(bytes.fromhex(product.sha256)).decode()}:",
    }
    if is_known(request.headers.get("if-none-match"), tag):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    # Who holds a part of another file is sent all of this one.
    same = request.headers.get("if-range", tag) == tag
    try:
        part = parse_range(request.headers.get("range"), size) if same else None
    except Unsatisfiable:
        raise Refused(
            HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
            f"{product.path} ends before that range",
            f"it has {size} bytes",
            {"content-range": f"bytes */{size}"},
        ) from None
    if part is None:
        return _FileResponse(file, 0, size, HTTPStatus.OK, headers)
    begin, end = part
    headers["content-range"] = f"bytes {begin}-{end - 1}/{size}"
    return _FileResponse(file, begin, end, HTTPStatus.PARTIAL_CONTENT, headers)


def whole_file(folder: Path, name: str, headers: dict[str, str]) -> Response:
    """The answer that is a whole file of a folder, as it is now.

    Raises:
        Refused: there is no such file, or it is not inside of the folder.
    """
    file = open_inside(folder, name)
    return _FileResponse(file, 0, os.fstat(file.fileno()).st_size, HTTPStatus.OK, headers)


def open_inside(folder: Path, name: str) -> BinaryIO:
    """Open a file inside of a folder.

    Raises:
        Refused: it is elsewhere, by its name or by links, or it is no file that can be read.
    """
    try:
        root = folder.resolve(strict=True)
        real = (root / name).resolve(strict=True)
        if not real.is_relative_to(root):
            raise Refused(HTTPStatus.FORBIDDEN, f"{name} leads out of the working folder")
        return _open_below(root, real.relative_to(root).parts)
    # A loop of links is a RuntimeError, a NUL in a name a ValueError.
    except (OSError, RuntimeError, ValueError) as error:
        raise Refused(HTTPStatus.NOT_FOUND, f"{name} was recorded, and it is no file that can be read now") from error


def _open_below(root: Path, parts: tuple[str, ...]) -> BinaryIO:
    """Open a file step by step, so that no link that is put there meanwhile can lead elsewhere."""
    *folders, last = parts
    held = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in folders:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=held)
            os.close(held)
            held = below
        # A pipe must not make the server wait for somebody to write to it.
        descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=held)
    finally:
        os.close(held)
    file = os.fdopen(descriptor, "rb", buffering=0)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError("no ordinary file")
    return file


def media_type(path: str) -> str:
    """The media type of a file, by its name."""
    known = _TYPES.get(PurePosixPath(path).suffix.lower())
    if known is not None:
        return known
    guessed, encoding = mimetypes.guess_type(path)
    if encoding == "gzip":
        return "application/gzip"
    return guessed if guessed and encoding is None else "application/octet-stream"


def disposition(name: str) -> str:
    """The header that has a browser save a file under its name rather than show it (RFC 6266)."""
    return f"attachment; filename=\"{safe_name(name)}\"; filename*=UTF-8''{quote(name, safe='')}"


class _FileResponse(StreamingResponse):
    """Sends part of an open file, and closes it."""

    def __init__(self, file: BinaryIO, begin: int, end: int, status: HTTPStatus, headers: dict[str, str]) -> None:
        super().__init__(_blocks(file, begin, end), status, {**headers, "content-length": str(end - begin)})
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()


async def _blocks(file: BinaryIO, begin: int, end: int) -> AsyncIterator[bytes]:
    while begin < end:
        block = await to_thread.run_sync(os.pread, file.fileno(), min(_BLOCK, end - begin), begin)
        if not block:
            # The length that was announced cannot be kept: the connection ends, and the client sees it.
            raise OSError("the file became shorter while it was sent")
        begin += len(block)
        yield block
