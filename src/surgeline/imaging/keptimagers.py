"""CASA's imagers that a worker keeps from one cycle to the next.

They save time and nothing else: one that is lost is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgeline.work.ownfolder import OwnFolder


@dataclass
class Kept:
    """An imager, or a deconvolver alone, that waits for its next cycle, and where it has its temporary files.

    `close` ends it, `cycle` is the one that it waits for, `files` are those that it has open.
    """

    imager: Any
    close: Callable[[], None]
    folder: OwnFolder
    cycle: int = 0
    files: list[tuple[str, int]] = field(default_factory=list)

    def end(self) -> None:
        """Close what it has open, and take its temporary files away."""
        if self.folder.is_there:
            with self.folder.inside():
                self.close()
        else:
            self.close()
        self.folder.remove()


DECONVOLVER = "deconvolver"

# By the run that they are of, and what they are of it.
_kept: dict[tuple[str, str], Kept] = {}


def keep(run: str, label: str, kept: Kept, images: Sequence[str]) -> None:
    """Keep an imager of these images, of which there may be patterns, in place of one that is kept by that name."""
    former = _kept.pop((run, label), None)
    if former is not None:
        former.end()
    kept.files = _identities(images)
    _kept[run, label] = kept


def take(run: str, label: str, images: Sequence[str]) -> Kept | None:
    """What this process keeps by that name, if the files are those that it left."""
    kept = _kept.pop((run, label), None)
    if kept is not None and not (kept.folder.is_there and kept.files == _identities(images)):
        kept.end()
        return None
    return kept


def know(run: str, label: str, images: Sequence[str]) -> None:
    """What is kept by that name knows of images that were made since."""
    if (run, label) in _kept:
        _kept[run, label].files = _identities(images)


def forget(run: str | None = None) -> None:
    """Drop the imagers that this process keeps, or those of one run."""
    for key in [key for key in _kept if run in (None, key[0])]:
        _kept.pop(key).end()


def make_room(run: str) -> None:
    """Drop all but a run's deconvolver: gridders have grids in memory, so there is one at most."""
    for key in [key for key in _kept if key != (run, DECONVOLVER)]:
        _kept.pop(key).end()


def _identities(images: Sequence[str]) -> list[tuple[str, int]]:
    return sorted(
        (str(table), table.stat().st_ino)
        for image in map(Path, images)
        for table in image.parent.glob(f"{image.name}/table.dat")
    )
