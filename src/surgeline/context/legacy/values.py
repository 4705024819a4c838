"""How values that tasks keep become JSON: as they are where JSON can say them, else pickled, in a file when large.

A pickled value refers to the context that it is kept in; it never contains it. To read a pickled value is to run what
its pickle says: who can write to a context can run code in whoever reads such values from it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import cloudpickle

from surgeline.context.draft import Draft
from surgeline.errors import ContextError

# What marks values that are not JSON themselves; a dictionary that looks like one is pickled, too.
_PICKLED, _IN_FILE = "pickled", "pickled in"
# Bytes; larger values go to files.
LARGEST_INLINE = 2**18
_CONTEXT = "context"


class Keeper:
    """The context that values are kept in, which they refer to when they are pickled."""

    @property
    def identifier(self) -> str:
        """Which context it is, whatever its version."""
        raise AssertionError("a context says which it is")

    @property
    def draft(self) -> Draft:
        """What is said of it now, with what was not accepted yet."""
        raise AssertionError("a context says what it stands upon")

    @property
    def folder(self) -> Path:
        """Where its large values are."""
        raise AssertionError("a context says where its large values are")


def encode(value: Any, owner: Keeper, what: str, folder: Path | None = None) -> Any:
    """A value as JSON can say it; nothing of it is shared with the value itself.

    Args:
        value: any value that can be pickled.
        owner: the context that it will be kept in.
        what: what the value is called in errors.
        folder: where large values are written; without it they are encoded whole.

    Raises:
        ContextError: it cannot be pickled, or not be written.
    """
    if _is_plain(value):
        text = json.dumps(value)
        if folder is None or len(text) <= LARGEST_INLINE:
            return json.loads(text)
    body = _pickled(value, owner, what)
    if folder is None or len(body) <= LARGEST_INLINE:
        return {_PICKLED: base64.b64encode(body).decode("ascii")}
    return {_IN_FILE: _written(body, folder, what)}


def decode(stored: Any, owner: Keeper, what: str, folder: Path) -> Any:
    """A value as it was before it was encoded.

    Raises:
        ContextError: its file is missing or damaged, or what its pickle needs is not installed here.
    """
    if not _is_marked(stored):
        return json.loads(json.dumps(stored))
    try:
        return _Unpickler(io.BytesIO(_body(stored, what, folder)), owner).load()
    except ContextError:
        raise
    except Exception as error:
        raise ContextError(
            f"{what} cannot be read: {type(error).__name__}: {error}", "install what defined it, in the same version"
        ) from error


def fingerprint(stored: Any) -> str:
    """The same for two encodings of the same content, in a file or not."""
    if not _is_marked(stored):
        return json.dumps(stored)
    if _IN_FILE in stored:
        return str(stored[_IN_FILE])
    return _name(base64.b64decode(stored[_PICKLED]))


def _is_plain(value: Any) -> bool:
    """Whether JSON gives the value back exactly as it is."""
    if value is None or type(value) in (bool, int):
        return True
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is str:
        return _is_text(value)
    try:
        if type(value) is list:
            return all(_is_plain(item) for item in value)
        if type(value) is dict:
            named = all(type(key) is str and _is_text(key) for key in value)
            return named and not _is_marked(value) and all(_is_plain(item) for item in value.values())
    except RecursionError:
        # It contains itself, which pickle can say.
        return False
    return False


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        # Half a surrogate pair, as file names that are no text have.
        return False
    return True


def _is_marked(stored: Any) -> bool:
    return isinstance(stored, dict) and len(stored) == 1 and next(iter(stored)) in (_PICKLED, _IN_FILE)


def _pickled(value: Any, owner: Keeper, what: str) -> bytes:
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, owner).dump(value)
    except Exception as error:
        raise ContextError(
            f"{what}, a {type(value).__name__}, cannot be stored: {type(error).__name__}: {error}",
            "keep plain data, or a file's name, instead",
        ) from error
    return buffer.getvalue()


def _body(stored: dict[str, str], what: str, folder: Path) -> bytes:
    if _PICKLED in stored:
        return base64.b64decode(stored[_PICKLED])
    path = folder / stored[_IN_FILE]
    try:
        body = path.read_bytes()
    except OSError as error:
        raise ContextError(f"{what} cannot be read: {error}", f"bring {path} back") from error
    if _name(body) != stored[_IN_FILE]:
        raise ContextError(f"{what} cannot be read: {path} is damaged", "bring it back from a copy")
    return body


def _written(body: bytes, folder: Path, what: str) -> str:
    """Write a body under a name that tells its content, unless it is there; returns the name."""
    path = folder / _name(body)
    temporary = folder / f".{path.name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with temporary.open("wb") as handle:
                handle.write(body)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ContextError(f"{what} cannot be written: {error}", "free space, or make it writable") from error
    return path.name


def _name(body: bytes) -> str:
    return f"{hashlib.sha256(body).hexdigest()}.pickle"


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, owner: Keeper) -> None:
        super().__init__(file, protocol=5)
        self._identifier = owner.identifier

    def persistent_id(self, value: Any) -> str | None:
        # A result of a job may hold the context as it arrived there: it means this one.
        return _CONTEXT if isinstance(value, Keeper) and value.identifier == self._identifier else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, owner: Keeper) -> None:
        super().__init__(file)
        self._owner = owner

    def persistent_load(self, _identifier: Any) -> Keeper:
        return self._owner
