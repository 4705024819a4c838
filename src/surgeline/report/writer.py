"""Keeps the weblog up to date while a session runs, without holding it up."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from surgeline.context.store import Context
from surgeline.errors import WorkfolderError
from surgeline.paths import SessionPaths
from surgeline.report.apart import write_apart
from surgeline.work.allocator import give_memory_back

# Pages are made again after so many times the processor time that they took: they use 2.5 % of a core at most.
_REST = 39
# Until workers are on their way: that and the pages would wait for each other.
_FIRST_SECONDS = 2.0
# Pages of so large a record, of a thousand jobs or more, are made in another process: what they are made from takes
# several times as much memory, and a session that is to run for days keeps its own.
_LARGE_RECORD = 2**20
# What pages are made with and has libraries of its own.
_LOADED_EARLY = ("jinja2", "statistics", "surgeline.report.weblog")


class WeblogWriter:
    """Makes the pages anew when it is asked to, in a thread of its own: several wishes at once are one."""

    def __init__(self, paths: SessionPaths, context: Context, failed: Callable[[str], None]) -> None:
        """Begin; nothing is written until it is asked for.

        Args:
            paths: of the session, whose saved record tells how it stands.
            context: what its stages commit.
            failed: told once why pages cannot be written; they are tried again all the same.
        """
        self._paths = paths
        self._context = context
        self._failed = failed
        self._told = False
        # Here, and not in its own thread: a module of CASA imports others while the dynamic linker is locked. A
        # thread that loads a library at that moment holds Python's lock and waits for the linker's, for ever.
        for module in _LOADED_EARLY:
            import_module(module)
        self._wanted = threading.Event()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="weblog", daemon=True)
        self._thread.start()

    def renew(self) -> None:
        """Have the pages made anew soon; returns at once."""
        self._wanted.set()

    def finish(self) -> None:
        """Make the pages for the last time, and return when they are there."""
        self._ending.set()
        self._wanted.set()
        self._thread.join()
        self._write()

    def _write_on(self) -> None:
        self._ending.wait(_FIRST_SECONDS)
        while True:
            self._wanted.wait()
            if self._ending.is_set():
                return
            self._wanted.clear()
            self._ending.wait(_REST * self._write())

    def _write(self) -> float:
        """Make the pages of the saved record; gives the processor time that it took, in seconds."""
        began = time.thread_time()
        try:
            if self._paths.record.stat().st_size > _LARGE_RECORD:
                # Facts may be of kinds that only this process knows, as those of a script.
                with suppress(WorkfolderError):
                    return write_apart(self._paths, self._context)
            from surgeline.report.weblog import write_weblog

            write_weblog(self._paths, json.loads(self._paths.record.read_text(encoding="utf-8")), self._context)
        except Exception as failure:  # noqa: BLE001 - a page is no reason to fail a run whose results stand
            if not self._told:
                self._told = True
                self._failed(f"{type(failure).__name__}: {failure}")
        give_memory_back()
        return time.thread_time() - began
