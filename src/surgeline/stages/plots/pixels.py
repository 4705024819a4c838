"""Images as pictures need them: coordinates, beams, and planes with no more pixels than are seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from surgeline.imaging.synthesis import opened

# Pixels that are read at a time: 32 MB, as CASA gives double precision. Each reading costs milliseconds.
MOST_AT_A_TIME = 4_000_000
_LIGHT_SPEED_KILOMETRES = 299792.458


@dataclass(frozen=True)
class Coordinates:
    """What the axes of an image say.

    Attributes:
        shape: of the image.
        spectral: which of its axes is that of channels; None if there is none.
        unit: of brightness, for people.
        centre: right ascension and declination of the reference pixel, for people.
        cell: increments along the first two axes in degrees; the first is negative: right ascension grows leftwards.
        origin: the reference pixel.
        frequencies: of channels, in Hz.
        rest: rest frequency in Hz; 0 if it is not known.
        frame: the reference frame of frequencies, such as LSRK.
        beams: major and minor axis in arcsec and position angle in degrees, of each channel, or one of all.
    """

    shape: tuple[int, ...]
    spectral: int | None
    unit: str
    centre: str
    cell: tuple[float, float]
    origin: tuple[float, float]
    frequencies: tuple[float, ...]
    rest: float
    frame: str
    beams: tuple[tuple[float, float, float], ...]

    def beam(self, channel: int) -> tuple[float, float, float] | None:
        """The beam of a channel."""
        if not self.beams:
            return None
        return self.beams[channel if len(self.beams) > 1 else 0]

    def beam_pixels(self, channel: int) -> float | None:
        """How many pixels a channel's beam covers: the integral of a Gaussian of its widths."""
        import math

        beam = self.beam(channel)
        if beam is None:
            return None
        area = math.pi / (4.0 * math.log(2.0)) * beam[0] * beam[1]
        return area / abs(self.cell[0] * self.cell[1] * 3600.0**2)

    def velocity(self, frequency: Any) -> Any:
        """Velocities in km/s by the radio convention."""
        return _LIGHT_SPEED_KILOMETRES * (1.0 - frequency / self.rest)


def read_coordinates(path: str) -> Coordinates:
    """What the axes of an image say."""
    import numpy as np

    with opened(path) as tool:
        shape = tuple(int(size) for size in tool.shape())
        unit = str(tool.brightnessunit()).replace(".", " ")
        system = tool.coordsys()
        try:
            centre = system.referencevalue("n", "direction")["numeric"]
            cell = np.degrees(system.increment("n", "direction")["numeric"])
            origin = system.referencepixel("direction")["numeric"]
            spectral = system.findcoordinate("spectral")
            axis = int(spectral["pixel"][0]) if spectral["return"] else None
            frequencies: tuple[float, ...] = ()
            rest, frame = 0.0, ""
            if axis is not None:
                pixels = np.zeros((len(shape), shape[axis]))
                pixels[axis] = np.arange(shape[axis])
                frequencies = tuple(map(float, system.toworldmany(pixels)["numeric"][axis]))
                rest = float(system.restfrequency()["value"][0])
                frame = str(system.referencecode("spectral")[0])
        finally:
            system.done()
        beams = _beams(tool.restoringbeam(), shape[axis] if axis is not None else 1)
    east, north = np.degrees(centre)
    position = f"{_sexagesimal(east % 360.0 / 15.0, 1)} {'-' if north < 0 else '+'}{_sexagesimal(abs(north), 0)}"
    return Coordinates(
        shape, axis, unit, position, (cell[0], cell[1]), (origin[0], origin[1]), frequencies, rest, frame, beams
    )


def _sexagesimal(number: float, digits: int) -> str:
    """Whole, minutes and seconds of a number that is not negative."""
    seconds = round(number * 3600.0, digits)
    width = 3 + digits if digits else 2
    return f"{int(seconds // 3600):02}:{int(seconds % 3600 // 60):02}:{seconds % 60:0{width}.{digits}f}"


def read_frequencies(path: str) -> list[float]:
    """The frequencies of a cube's channels, in Hz. Runs on a worker."""
    return list(read_coordinates(path).frequencies)


def _beams(found: dict[str, Any], channels: int) -> tuple[tuple[float, float, float], ...]:
    if not found:
        return ()
    several = [found["beams"][f"*{channel}"]["*0"] for channel in range(channels)] if "beams" in found else [found]
    return tuple(
        (
            float(beam["major"]["value"]),
            float(beam["minor"]["value"]),
            float(beam.get("positionangle", beam.get("pa", {"value": 0.0}))["value"]),
        )
        for beam in several
    )


def strips(tool: Any, coordinates: Coordinates, channels: range, rows: int = 1) -> Iterator[tuple[int, int, Any]]:
    """Planes of an image, of its first polarisation: several are read at a time, or large ones a strip at a time.

    Args:
        tool: with the image open.
        coordinates: of the image.
        channels: which planes.
        rows: strips begin at a multiple of so many rows.

    Yields:
        the channel, the first row of a strip, and its pixels by row and column; NaN where they are masked.
    """
    columns, height = coordinates.shape[:2]
    step = max(rows, MOST_AT_A_TIME // columns // rows * rows)
    together = max(1, MOST_AT_A_TIME // (columns * height))
    for begin in range(channels.start, channels.stop, together):
        some = range(begin, min(begin + together, channels.stop))
        for first in range(0, height, step):
            pixels = read_box(tool, coordinates, (0, first), (columns - 1, min(first + step, height) - 1), some)
            for channel, plane in zip(some, pixels, strict=True):
                yield channel, first, plane


def read_box(
    tool: Any, coordinates: Coordinates, low: tuple[int, int], high: tuple[int, int], channels: range
) -> Any:
    """Pixels of a box of an image, of its first polarisation, by channel, row and column; NaN where they are masked.

    Args:
        tool: with the image open.
        coordinates: of the image.
        low, high: column and row of the first pixel and of the last.
        channels: which planes.
    """
    import numpy as np

    rest = [0] * (len(coordinates.shape) - 2)
    first, last = [*low, *rest], [*high, *rest]
    axis = coordinates.spectral
    if axis is not None:
        first[axis], last[axis] = channels.start, channels.stop - 1
    # An image that is joined by reference has masks, but no default one.
    pixels = np.where(tool.getchunk(first, last, getmask=True), tool.getchunk(first, last), np.nan)
    size = (high[0] - low[0] + 1, high[1] - low[1] + 1)
    by_channel = np.moveaxis(pixels, axis, -1) if axis is not None else pixels
    return by_channel.reshape(*size, len(channels)).transpose(2, 1, 0)


def shrinking(coordinates: Coordinates, most: int) -> int:
    """How many pixels along each axis become one, so that a plane has at most so many along its longer one."""
    return -(-max(coordinates.shape[:2]) // most)


def shrunk(pixels: Any, factor: int) -> Any:
    """A plane with the means of blocks of pixels in their place; what is masked is left out of them."""
    import numpy as np

    if factor == 1:
        return pixels.astype(np.float32)
    padding = [(0, -size % factor) for size in pixels.shape]
    padded = np.pad(pixels, padding, constant_values=np.nan)
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor)
    valid = np.isfinite(blocks)
    sums, counts = np.where(valid, blocks, 0.0).sum((1, 3)), valid.sum((1, 3))
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)


def read_plane(path: str, coordinates: Coordinates, channel: int, most: int) -> Any:
    """A plane of an image, shrunk to at most so many pixels along its longer axis; by row and column."""
    import numpy as np

    factor = shrinking(coordinates, most)
    with opened(path) as tool:
        planes = strips(tool, coordinates, range(channel, channel + 1), factor)
        parts = [shrunk(pixels, factor) for _, _, pixels in planes]
    return np.concatenate(parts)
