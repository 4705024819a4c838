"""Where a working folder's context is: in its own file, or in the database that its configuration names."""

from __future__ import annotations

from pathlib import Path

from surgeline.config import load
from surgeline.errors import BadInput, ConfigError
from surgeline.paths import SessionPaths
from surgeline.serve.reading import DatabaseStore, FileStore, Store, Unreadable


class FolderContext:
    """Finds the context of a working folder, which may be begun later."""

    def __init__(self, folder: Path) -> None:
        """Name a folder; it does not have to be there yet."""
        self._paths = SessionPaths(folder)
        self._file = FileStore(self._paths.context)
        self._database: DatabaseStore | None = None

    def locate(self) -> tuple[Store, str | None]:
        """The store, and which of its contexts is the folder's; None: the only one.

        Raises:
            Unreadable: the configuration is wrong.
        """
        try:
            identifier = self._paths.identifier.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            # Only what is in a database has an identifier beside it.
            return self._file, None
        if self._database is None:
            try:
                url = load(self._paths.workdir).settings.context.url
                self._database = None if url is None else DatabaseStore(url)
            except (BadInput, ConfigError) as error:
                raise Unreadable(error.message, error.way_out) from error
        return (self._file, None) if self._database is None else (self._database, identifier)
