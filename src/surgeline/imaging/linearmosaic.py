"""Mosaics by linear combination of the images of their pointings, as a reduction by many small jobs.

Each pixel of the mosaic is the mean of the pointings' sky brightnesses, weighted by primary beam squared over noise
squared, which has the least noise (Cornwell, Holdaway & Uson 1993, A&A 271, 697): with images I of even noise s, as
tclean leaves them, and primary beams PB,

    mosaic = Σ PB I / s² / Σ PB² / s²,    and its noise is (Σ PB² / s²)^-½.

Both sums are kept on the smallest box of the mosaic's grid that holds their pointings, plane by plane on disk: a job
has one plane of one pointing in memory. Sums are of double precision, so that their order does not show.

Images are brought to one beam before: the smallest ellipse that holds the beams of all pointings and planes, made one
per cent larger, since CASA does not convolve to a beam that nearly is the image's own. Beams that agree to a
thousandth are left alone. Then they are brought to one grid by cubic interpolation, if their own pixels are not those
of that grid already; and spectral axes that differ by more than a hundredth of a channel by linear interpolation.
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeline.errors import DataError
from surgeline.imaging.synthesis import opened, plane_noise
from surgeline.paths import partial

Box = tuple[int, int, int, int]
_SAME_BEAM = 1e-3
_ROOM = 1.01
# In pixels and in channels.
_SAME_PIXEL = 1e-3
_SAME_CHANNEL = 1e-2


@dataclass(frozen=True)
class PointingImage:
    """The products of tclean that a pointing's part in a mosaic is made of: paths of images."""

    image: str
    residual: str
    primary_beam: str


@dataclass(frozen=True)
class Beam:
    """An elliptical beam: axes in arcsec, position angle in degrees."""

    major: float
    minor: float
    angle: float

    def quantities(self) -> dict[str, str]:
        """As the arguments of CASA's image tool."""
        return {"major": f"{self.major}arcsec", "minor": f"{self.minor}arcsec", "pa": f"{self.angle}deg"}


@dataclass(frozen=True)
class Layout:
    """The grid of a mosaic, and where on it each pointing lies.

    Attributes:
        coordinates: the mosaic's, as a record of CASA's.
        shape: of the mosaic, four axes.
        boxes: first and last pixel of each pointing: left, bottom, right, top.
        beam: of the mosaic.
        smoothed: whether pointings have to be brought to it.
    """

    coordinates: dict[str, Any]
    shape: tuple[int, ...]
    boxes: tuple[Box, ...]
    beam: Beam
    smoothed: bool


def lay_out(images: Sequence[str], ra: float, dec: float) -> Layout:
    """Choose a mosaic's grid and beam. Runs on a worker.

    Args:
        images: of the pointings; the first one tells cell, projection and spectral axis.
        ra, dec: the middle of the mosaic, in degrees (J2000).

    Raises:
        DataError: an image has no beam, or not the axes of the first.
    """
    import numpy as np

    corners, beams = [], []
    with opened(images[0]) as tool:
        grid, shape = tool.coordsys(), tuple(int(size) for size in tool.shape())
    centres = []
    for path in images:
        with opened(path) as tool:
            own = tuple(int(size) for size in tool.shape())
            if own[2:] != shape[2:]:
                raise DataError(
                    f"{path} has {own[3]} channels and {own[2]} polarisations, {images[0]} has {shape[3]} and "
                    f"{shape[2]}, so that they make no mosaic",
                    "give all pointings the same start, width, nchan and stokes",
                )
            beams += _beams(tool, path)
            centres.append(tool.coordsys().referencevalue("n", "direction")["numeric"])
    # Pointings that share a grid keep it, and their pixels.
    shared = np.ptp(centres, axis=0).max() < _SAME_PIXEL * abs(grid.increment("n", "direction")["numeric"][0])
    if not shared:
        grid.setreferencevalue([math.radians(ra), math.radians(dec)], "direction")
    for path in images:
        with opened(path) as tool:
            corners.append(_corners(tool, grid))
    low = [math.floor(min(corner[axis] for corner in corners) + _SAME_PIXEL) for axis in (0, 1)]
    boxes = [
        (
            math.floor(left + _SAME_PIXEL) - low[0],
            math.floor(bottom + _SAME_PIXEL) - low[1],
            math.ceil(right - _SAME_PIXEL) - low[0],
            math.ceil(top - _SAME_PIXEL) - low[1],
        )
        for left, bottom, right, top in corners
    ]
    _shift(grid, *low)
    sides = (max(box[2] for box in boxes) + 1, max(box[3] for box in boxes) + 1)
    beam, smoothed = common_beam(beams)
    return Layout(grid.torecord(), (*sides, *shape[2:]), tuple(boxes), beam, smoothed)


def common_beam(beams: Sequence[Beam]) -> tuple[Beam, bool]:
    """The beam of a mosaic, and whether images have to be convolved to it. Runs on a worker."""
    from casatools import image

    first = beams[0]
    if all(_alike(beam, first) for beam in beams):
        return first, False
    tool = image()
    try:
        # CASA finds the common beam of the channels of an image.
        tool.fromshape("", [2, 2, 1, len(beams)])
        for channel, beam in enumerate(beams):
            tool.setrestoringbeam(**beam.quantities(), channel=channel, polarization=0)
        found = tool.commonbeam()
    finally:
        tool.done()
    return Beam(found["major"]["value"] * _ROOM, found["minor"]["value"] * _ROOM, found["pa"]["value"]), True


def add_pointings(pointings: Sequence[PointingImage], boxes: Sequence[Box], layout: Layout, path: str) -> None:
    """Make the sums of a few pointings, one after the other. Runs on a worker.

    Args:
        pointings, boxes: the pointings, and where on the grid each lies.
        layout: of the mosaic.
        path: the folder to make.
    """
    import numpy as np

    with _sums(path, boxes, layout) as sums:
        for pointing, box in zip(pointings, boxes, strict=True):
            with tempfile.TemporaryDirectory(prefix="pointing-", dir=Path(path).parent) as folder:
                brightness, beam, noise = _on_grid(pointing, box, layout, Path(folder))
                with opened(brightness) as image, opened(beam) as response:
                    for plane in range(layout.shape[3]):
                        for polarisation in range(layout.shape[2]):
                            seen, valid = _plane(image, polarisation, plane)
                            weight, known = _plane(response, polarisation, plane)
                            if noise[plane]:
                                used = valid & known & (weight > 0)
                                weight = np.where(used, weight, 0.0) / noise[plane]
                                seen = np.where(used, seen, 0.0) / noise[plane]
                                sums.add(box, polarisation, plane, weight * seen, weight**2)


def add_sums(parts: Sequence[str], path: str, layout: Layout) -> None:
    """Add up sums of pointings. Runs on a worker.

    Args:
        parts: the folders with the sums.
        path: the folder to make.
        layout: of the mosaic.
    """
    boxes = [_box_of(part) for part in parts]
    with _sums(path, boxes, layout) as sums:
        for part, box in zip(parts, boxes, strict=True):
            brightness, weight = _stored(part)
            for plane in range(layout.shape[3]):
                for polarisation in range(layout.shape[2]):
                    place = (slice(None), slice(None), polarisation, plane)
                    sums.add(box, polarisation, plane, brightness[place], weight[place])


def finish(part: str, layout: Layout, mosaic: str, sensitivity: str, cutoff: float) -> float:
    """Make the images of a mosaic from the sums of all its pointings. Runs on a worker.

    Args:
        part: the folder with the sums.
        layout: of the mosaic.
        mosaic: the image to make of the sky's brightness, corrected for the primary beams.
        sensitivity: the image to make of its noise.
        cutoff: where noise is more than the inverse of this times the least of its plane, both are blank.

    Returns:
        the least noise, in Jy/beam.
    """
    import numpy as np

    brightness, weights = _stored(part)
    left, bottom, *_ = _box_of(part)
    least = math.inf
    with _new_image(mosaic, layout) as image, _new_image(sensitivity, layout) as noises:
        for plane in range(layout.shape[3]):
            for polarisation in range(layout.shape[2]):
                weight = np.asarray(weights[:, :, polarisation, plane])
                good = weight > max(0.0, cutoff**2 * float(weight.max()))
                noise = np.full(weight.shape, np.nan)
                noise[good] = weight[good] ** -0.5
                mean = np.full(weight.shape, np.nan)
                mean[good] = brightness[:, :, polarisation, plane][good] / weight[good]
                least = min(least, float(noise[good].min())) if good.any() else least
                corner = [left, bottom, polarisation, plane]
                image.putchunk(mean[:, :, None, None], blc=corner)
                noises.putchunk(noise[:, :, None, None], blc=corner)
    return least


def remove(paths: Sequence[str]) -> None:
    """Remove sums that have been added up. Runs on a worker."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


class _Sums:
    """The two sums of some pointings, on disk."""

    def __init__(self, corner: tuple[int, int], brightness: Any, weight: Any) -> None:
        self._corner, self._brightness, self._weight = corner, brightness, weight

    def add(self, box: Box, polarisation: int, plane: int, brightness: Any, weight: Any) -> None:
        """Add one plane of what lies in a box of the mosaic's grid."""
        left, bottom = box[0] - self._corner[0], box[1] - self._corner[1]
        place = (
            slice(left, left + brightness.shape[0]),
            slice(bottom, bottom + brightness.shape[1]),
            polarisation,
            plane,
        )
        self._brightness[place] += brightness
        self._weight[place] += weight


@contextmanager
def _sums(path: str, boxes: Sequence[Box], layout: Layout) -> Iterator[_Sums]:
    """New sums over the smallest box that holds some boxes; they appear under their name when whole."""
    import numpy as np

    left, bottom = (min(box[axis] for box in boxes) for axis in (0, 1))
    right, top = (max(box[axis] for box in boxes) for axis in (2, 3))
    unfinished = partial(path)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    # Fortran's order, so that a plane is in one piece.
    shape = (right - left + 1, top - bottom + 1, *layout.shape[2:])
    arrays = [
        np.lib.format.open_memmap(unfinished / name, mode="w+", dtype=np.float64, shape=shape, fortran_order=True)
        for name in ("brightness.npy", "weight.npy")
    ]
    yield _Sums((left, bottom), *arrays)
    for array in arrays:
        array.flush()
    np.save(unfinished / "box.npy", np.array([left, bottom, right, top]))
    shutil.rmtree(path, ignore_errors=True)
    unfinished.rename(path)


def _stored(path: str) -> tuple[Any, Any]:
    import numpy as np

    return np.load(f"{path}/brightness.npy", mmap_mode="r"), np.load(f"{path}/weight.npy", mmap_mode="r")


def _box_of(path: str) -> Box:
    import numpy as np

    left, bottom, right, top = (int(side) for side in np.load(f"{path}/box.npy"))
    return left, bottom, right, top


def _beams(tool: Any, path: str) -> list[Beam]:
    """The beams of all planes of an image; planes that are blank have none."""
    found = tool.restoringbeam()
    each = [record for by_channel in found.get("beams", {}).values() for record in by_channel.values()]
    beams = [_beam(record) for record in (each or [found]) if record]
    if not any(beam.major > 0 for beam in beams):
        raise DataError(f"{path} has no beam", "give images that tclean has restored")
    return [beam for beam in beams if beam.major > 0]


def _beam(record: Mapping[str, Any]) -> Beam:
    from casatools import quanta

    unit = quanta()
    angle = record.get("positionangle", record.get("pa"))
    major, minor = (float(unit.convert(record[axis], "arcsec")["value"]) for axis in ("major", "minor"))
    return Beam(major, minor, float(unit.convert(angle, "deg")["value"]))


def _alike(one: Beam, other: Beam) -> bool:
    turned = abs((one.angle - other.angle + 90.0) % 180.0 - 90.0)
    # How far the ends of the longer axes lie apart.
    sideways = math.radians(turned) * (one.major - one.minor)
    apart = max(abs(one.major - other.major), abs(one.minor - other.minor), sideways)
    return apart < _SAME_BEAM * other.minor


def _corners(tool: Any, grid: Any) -> tuple[float, float, float, float]:
    """Where an image ends on a grid, in pixels of it: left, bottom, right, top."""
    width, height = (int(size) - 1 for size in tool.shape()[:2])
    own = tool.coordsys()
    edge = [(x * width / 2.0, y * height / 2.0) for x in (0, 1, 2) for y in (0, 1, 2) if (x, y) != (1, 1)]
    found = []
    for x, y in edge:
        pixel = [x, y, *own.referencepixel()["numeric"][2:]]
        direction = own.toworld(pixel, "n")["numeric"][:2]
        world = [*direction, *grid.referencevalue("n")["numeric"][2:]]
        found.append(grid.topixel(world)["numeric"][:2])
    across, up = zip(*found, strict=True)
    return float(min(across)), float(min(up)), float(max(across)), float(max(up))


def _shift(coordinates: Any, across: int, up: int) -> None:
    """Count pixels of a grid from another corner."""
    x, y = coordinates.referencepixel("direction")["numeric"]
    coordinates.setreferencepixel([x - across, y - up], "direction")


def _on_grid(pointing: PointingImage, box: Box, layout: Layout, folder: Path) -> tuple[str, str, list[float]]:
    """A pointing's image and primary beam in its box of the mosaic's grid, and the noise of each of its planes."""
    image, residual = pointing.image, pointing.residual
    if layout.smoothed:
        image = _convolved(image, image, layout.beam, str(folder / "image"))
        residual = _convolved(residual, pointing.image, layout.beam, str(folder / "residual"))
    # A plane that is blank has no noise.
    noise = [
        found[0] if (found := plane_noise(residual, slice(plane, plane + 1))) else 0.0
        for plane in range(layout.shape[3])
    ]
    return (
        _regridded(image, box, layout, str(folder / "image.grid")),
        _regridded(pointing.primary_beam, box, layout, str(folder / "beam.grid")),
        noise,
    )


def _convolved(path: str, restored: str, beam: Beam, to: str) -> str:
    """An image convolved so that its beam is the one told; the beam that it has is that of the restored image."""
    with opened(path) as tool, opened(restored) as like:
        copy = f"{to}.own"
        tool.subimage(copy).done()
        own = like.restoringbeam()
    with opened(copy) as tool:
        if not tool.restoringbeam():
            for channel, polarisation, record in _planes_of(own):
                found = _beam(record)
                if found.major > 0:
                    tool.setrestoringbeam(**found.quantities(), channel=channel, polarization=polarisation)
            tool.setbrightnessunit("Jy/beam")
        tool.convolve2d(outfile=to, axes=[0, 1], **beam.quantities(), targetres=True).done()
    return to


def _planes_of(beams: Mapping[str, Any]) -> list[tuple[int, int, Mapping[str, Any]]]:
    """Channel, polarisation and beam; -1 for all."""
    if "beams" not in beams:
        return [(-1, -1, beams)]
    return [
        (int(channel[1:]), int(polarisation[1:]), record)
        for channel, by_polarisation in beams["beams"].items()
        for polarisation, record in by_polarisation.items()
    ]


def _regridded(path: str, box: Box, layout: Layout, to: str) -> str:
    """An image in a box of the mosaic's grid; the image itself where it has those pixels already."""
    from casatools import coordsys

    left, bottom, right, top = box
    grid = coordsys()
    grid.fromrecord(layout.coordinates)
    _shift(grid, left, bottom)
    with opened(path) as tool:
        own = tool.coordsys()
        shape = [right - left + 1, top - bottom + 1, *layout.shape[2:]]
        spectral = _spectral_shift(own, grid, shape[3])
        sideways = _corners(tool, grid)
        same = shape[:2] == [int(size) for size in tool.shape()[:2]] and all(
            abs(found - asked) < _SAME_PIXEL
            for found, asked in zip(sideways, (0, 0, shape[0] - 1, shape[1] - 1), strict=True)
        )
        if same and not spectral:
            return path
        if not same:
            # Only directions are changed: the template has the image's own other axes.
            target = own
            for setting, asked in (("setreferencevalue", grid.referencevalue), ("setreferencepixel",
                                   grid.referencepixel), ("setincrement", grid.increment)):  # fmt: skip
                getattr(target, setting)(asked("direction")["numeric"].tolist(), "direction")
            first = f"{to}.sky" if spectral else to
            tool.regrid(outfile=first, shape=shape, csys=target.torecord(), axes=[0, 1], method="cubic").done()
            path = first
    if spectral:
        with opened(path) as tool:
            tool.regrid(outfile=to, shape=shape, csys=grid.torecord(), axes=[3], method="linear").done()
    return to


def _spectral_shift(own: Any, grid: Any, channels: int) -> bool:
    """Whether the channels of an image are elsewhere than those of a grid; a single one is taken as it is."""
    if channels == 1:
        return False
    step = float(grid.increment("n", "spectral")["numeric"][0])
    for channel in (0, channels - 1):
        here, there = (
            float(found.referencevalue("n", "spectral")["numeric"][0])
            + (channel - float(found.referencepixel("spectral")["numeric"][0]))
            * float(found.increment("n", "spectral")["numeric"][0])
            for found in (own, grid)
        )
        if abs(here - there) > _SAME_CHANNEL * abs(step):
            return True
    return False


def _plane(tool: Any, polarisation: int, plane: int) -> tuple[Any, Any]:
    """The pixels of one plane, and which of them are valid."""
    width, height = (int(size) - 1 for size in tool.shape()[:2])
    corners = [0, 0, polarisation, plane], [width, height, polarisation, plane]
    pixels = tool.getchunk(*corners)[:, :, 0, 0].astype(float)
    return pixels, tool.getchunk(*corners, getmask=True)[:, :, 0, 0]


@contextmanager
def _new_image(path: str, layout: Layout) -> Iterator[Any]:
    """A new image of the mosaic, blank where it is not a number; it appears under its name when whole."""
    from casatools import image

    unfinished = str(partial(path))
    shutil.rmtree(unfinished, ignore_errors=True)
    with ExitStack() as stack:
        tool = image()
        tool.fromshape(unfinished, list(layout.shape), csys=layout.coordinates)
        stack.callback(tool.close)
        tool.setbrightnessunit("Jy/beam")
        tool.setrestoringbeam(**layout.beam.quantities())
        yield tool
        # What is not a number does not equal itself.
        tool.calcmask(f'"{unfinished}" == "{unfinished}"')
    shutil.rmtree(path, ignore_errors=True)
    Path(unfinished).rename(path)
