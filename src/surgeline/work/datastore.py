"""Where files are on their way between machines that share none: an S3 bucket, or a folder, by fsspec."""

from __future__ import annotations

import errno
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from surgeline.errors import ClusterError, ConfigError

# How long to wait, in seconds, before what failed is tried again.
_PAUSES = (0.5, 2.0, 8.0)
_OF_THIS_MACHINE = ("file", "local")
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class DataStore:
    """A folder of its own for one session, where `url` says.

    Attributes:
        url: where the store is: `s3://bucket/folder`, `file:///folder`, or what else fsspec knows.
        name: the session's folder there.
        options: what fsspec is given besides: `endpoint_url` and the like.
    """

    url: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def check(self) -> None:
        """See whether the store takes and gives a file.

        Raises:
            ConfigError: fsspec knows no such store, or its package is not installed.
            ClusterError: it is not there, refuses, is full or away.
        """
        if self._protocol in _OF_THIS_MACHINE and not self._files.isdir(self._root):
            raise ClusterError(f"{self.url} is no folder", "make it, where the session and all workers reach it")
        probe = self.put(b"a probe")
        found = self.get(probe, 0, 7)
        if found != b"a probe":
            raise ClusterError(f"{self} does not give back what it was given", "name another one: clusters.NAME.data")
        self._tried("removed", lambda: self._files.rm_file(self._path(probe)))

    def put(self, content: bytes) -> str:
        """Leave a content there under a name that nothing else has; gives the name.

        Raises:
            ClusterError: the store does not take it.
        """
        name = uuid.uuid4().hex
        self._tried("taken", lambda: self._files.pipe_file(self._path(name), content))
        return name

    def put_file(self, path: Path) -> str:
        """Leave a file there, as `put`.

        Raises:
            ClusterError: the store does not take it.
            OSError: the file cannot be read.
        """
        name = uuid.uuid4().hex
        path.stat()
        self._tried("taken", lambda: self._files.put_file(str(path), self._path(name)))
        return name

    def get(self, name: str, begin: int, end: int) -> bytes:
        """Some bytes of what was left under a name.

        Raises:
            ClusterError: the store does not give them.
        """
        found: bytes = self._tried("given", lambda: self._files.cat_file(self._path(name), start=begin, end=end))
        return found

    def get_file(self, name: str, path: Path) -> None:
        """Write all of what was left under a name to a file.

        Raises:
            ClusterError: the store does not give it.
            OSError: there is no space for the file.
        """
        self._tried("given", lambda: self._files.get_file(self._path(name), str(path)), here=True)

    def remove(self) -> None:
        """Remove all that the session has left there.

        Raises:
            ClusterError: the store does not let it.
        """

        def remove() -> None:
            self._files.invalidate_cache()
            try:
                self._files.rm(self._folder, recursive=True)
            except FileNotFoundError:
                # Nothing was left.
                return

        self._tried("removed", remove)

    def __reduce__(self) -> tuple[Any, ...]:
        # Not with what is connected to it here.
        return DataStore, (self.url, self.name, self.options)

    def __str__(self) -> str:
        return f"the store {self.url}"

    @property
    def _protocol(self) -> str:
        protocol, separator, _ = self.url.partition("://")
        return protocol if separator else "file"

    @cached_property
    def _reached(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        options = dict(self.options)
        if self._protocol in _OF_THIS_MACHINE:
            options["auto_mkdir"] = True
        try:
            files, root = url_to_fs(self.url, **options)
        except ImportError as error:
            raise ConfigError(
                f"{self.url} needs a package that is not installed: {error}",
                "install it in the session's environment and in the workers': pip install 'surgeline[s3]' for s3://",
            ) from error
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{self.url} is no store: {error}",
                "write s3://BUCKET/FOLDER or file:///FOLDER, and see data_options of the cluster",
            ) from error
        return files, root

    @property
    def _files(self) -> Any:
        return self._reached[0]

    @property
    def _root(self) -> str:
        return self._reached[1].rstrip("/")

    @property
    def _folder(self) -> str:
        return f"{self._root}/{self.name}"

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def _tried(self, what: str, call: Callable[[], Any], here: bool = False) -> Any:
        """Do something, again if the store may be back soon.

        Args:
            what: what the store should have done to the file: taken, given, removed.
            call: does it.
            here: whether it is this machine that may have no space for the file.
        """
        # A store that there cannot be is no store that is away.
        _ = self._reached
        for pause in (*_PAUSES, None):
            try:
                return call()
            except FileNotFoundError as error:
                raise ClusterError(
                    f"{self} has no file to be {what}: {error}",
                    "it has to exist, and nothing else may remove what a session has left there while it runs",
                ) from error
            except PermissionError as error:
                raise ClusterError(
                    f"{self} refuses: no file is {what}: {error}",
                    "let the session and its workers read, write and remove there: see docs/data.md, Access",
                ) from error
            except Exception as error:
                # Each kind of store has errors of its own for being away.
                if isinstance(error, OSError) and error.errno in _FULL:
                    if here:
                        raise
                    raise ClusterError(f"{self} is full", "free space there, then resume") from error
                if pause is None:
                    raise ClusterError(
                        f"{self} is away, or fails: in {len(_PAUSES) + 1} attempts no file was {what}: "
                        f"{type(error).__name__}: {error}",
                        "when it is back, resume; what has finished is kept",
                    ) from error
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")
