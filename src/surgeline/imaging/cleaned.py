"""What comes of cleaning an image, whichever way it went."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgeline.errors import BadInput
from surgeline.imaging.gpu.engines import CASA, Gridding

# tclean's stop codes.
STOPS = {
    0: "none",
    1: "iteration limit",
    2: "threshold",
    3: "no iterations",
    4: "no change in peak residual",
    5: "diverging: peak residual rose",
    6: "diverging: peak residual rose above its minimum",
    7: "empty mask",
    8: "n-sigma threshold",
    9: "limit of major cycles",
}
_JANSKY = {"": 1.0, "Jy": 1.0, "mJy": 1e-3, "uJy": 1e-6, "Jy/beam": 1.0, "mJy/beam": 1e-3, "uJy/beam": 1e-6}


@dataclass(frozen=True)
class Cleaned:
    """An image that was cleaned.

    Attributes:
        arguments: tclean's, as they were in the end; one call with them gives the same pixels.
        noise: of the dirty image, in Jy/beam.
        record: what tclean returns: `stopcode`, `iterdone`, `nmajordone`, `summaryminor` and more.
        gridding: what gridded it in the end, and why where that is not what was asked for.
    """

    arguments: Mapping[str, Any]
    noise: float
    record: Mapping[str, Any]
    gridding: Gridding = CASA

    @property
    def iterations(self) -> int:
        """How many iterations were done."""
        return int(self.record["iterdone"])

    @property
    def major_cycles(self) -> int:
        """How many major cycles were done, the first of which makes the dirty image."""
        return int(self.record["nmajordone"])

    @property
    def stop(self) -> str:
        """Why cleaning ended."""
        return STOPS.get(int(self.record["stopcode"]), "unknown")

    @property
    def threshold(self) -> float:
        """Down to where it was cleaned, in Jy/beam."""
        return in_jansky(self.arguments.get("threshold", 0.0))


def in_jansky(threshold: Any) -> float:
    """tclean's `threshold` as a number of Jy.

    Raises:
        BadInput: it is no flux density.
    """
    if isinstance(threshold, int | float):
        return float(threshold)
    match = re.fullmatch(r"\s*([-+0-9.eE]+?)\s*([a-zA-Z/]*)\s*", str(threshold))
    if match is None or match[2] not in _JANSKY:
        raise BadInput(f"threshold={threshold!r} is no flux density", "write 8mJy, 0.008Jy or a number of Jy")
    return float(match[1]) * _JANSKY[match[2]]


def files_read(arguments: Mapping[str, Any]) -> list[str]:
    """The files that an image is made from: its MSs, and what masks and models it is given as files."""
    texts = []
    for name in ("mask", "startmodel"):
        value = arguments.get(name, "")
        texts += [value] if isinstance(value, str) else list(value)
    # A mask may be a region, too, as circle[[…], …].
    return [*vis_of(arguments), *(text for text in texts if text and "[" not in text)]


def sides_of(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of an image, in pixels; tclean's default is 100 of each."""
    imsize = arguments.get("imsize", 100)
    sides = [imsize] if isinstance(imsize, int) else list(imsize)
    return int(sides[0]), int(sides[-1])


def vis_of(arguments: Mapping[str, Any]) -> list[str]:
    """The MSs that an image is made of."""
    vis = arguments["vis"]
    return [vis] if isinstance(vis, str) else list(vis)
