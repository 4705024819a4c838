"""A current directory in which CASA's imaging has its temporary files for itself."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = ".imaging-"


class OwnFolder:
    """A current directory in which temporary files of this process are, and those of no other process.

    CASA's imaging leaves files in the current directory that it names by its process's number, which in another
    container or on another machine may be the same, or by the number of rows and the frequencies (the weights of
    cubes): by these, jobs that run beside each other would take each other's weights for their own, or those that a
    killed one had left half done. In it, everything that is in the current directory is found by its name.
    """

    def __init__(self, imagename: str) -> None:
        """Make the folder.

        Args:
            imagename: tclean's; with one that is in no folder of its own there is no such folder, and the current
                directory stays as it is, since that is where its images belong.
        """
        self._here = Path.cwd()
        self._folder = None
        if not Path(imagename).parent.name:
            return
        self._folder = Path(tempfile.mkdtemp(prefix=_NAME, dir=self._here))
        for entry in self._here.iterdir():
            if not entry.name.startswith("."):
                (self._folder / entry.name).symlink_to(entry)

    @property
    def is_there(self) -> bool:
        """Whether nobody else has taken it away: jobs that are brought their files leave nothing where they ran."""
        return self._folder is None or self._folder.is_dir()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """A block in which it is the current directory."""
        if self._folder is not None:
            os.chdir(self._folder)
        try:
            yield
        finally:
            os.chdir(self._here)

    def remove(self) -> None:
        """Take it away, with what is left in it."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def own_folder(imagename: str) -> Iterator[None]:
    """A block in an OwnFolder, which ends with it; for `imagename` see there."""
    folder = OwnFolder(imagename)
    try:
        with folder.inside():
            yield
    finally:
        folder.remove()


def remove_left(folder: Path) -> None:
    """Remove what processes that were killed left of these in a folder in which none runs any more."""
    for left in folder.glob(f"{_NAME}*"):
        shutil.rmtree(left, ignore_errors=True)
