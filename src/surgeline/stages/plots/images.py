"""Images, residuals, moment maps, and all that is shown of a cube. What is called `draw_…` runs as a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from surgeline.imaging.synthesis import opened, typical_noise
from surgeline.stages.plots.canvas import AROUND_MIDDLE, BRIGHTNESS, COLOURED, Series, save
from surgeline.stages.plots.pixels import Coordinates, read_coordinates, read_plane, shrinking, shrunk, strips
from surgeline.stages.plots.sky import draw_beam, draw_mask, sky_figure
from surgeline.stages.plots.spectra import draw_spectra, read_spectra

# Pixels along the longer axis: more are not seen. A cube's planes are many, and kept in memory until all are read.
_MOST_PIXELS = 1024
_MOST_PIXELS_OF_A_PLANE = 512
# How many percent of the pixels of a picture are as dark, and as bright, as it gets: a few very bright ones must not
# darken all others.
_TAILS = (0.5, 0.1)
_TAILS_OF_A_MOMENT = (1.0, 1.0)
# How many times as large as its valid pixels the part of an image is that is shown.
_AROUND_AN_IMAGE, _AROUND_A_MOMENT = 1.04, 1.25
# A plane's noise is told from so many of its pixels.
_MOST_FOR_NOISE = 40_000


@dataclass(frozen=True)
class ImageFiles:
    """What belongs to an image.

    Attributes:
        image: the image itself, which the pictures are of.
        residual, mask: what tclean left beside it, or empty; they need not be there.
        corrected: the image corrected for the primary beam, or empty.
        masks_sources: whether the mask says where sources are, rather than where the primary beam is.
    """

    image: str
    residual: str = ""
    mask: str = ""
    corrected: str = ""
    masks_sources: bool = False

    @property
    def all(self) -> list[str]:
        """Those that are named."""
        return [path for path in (self.image, self.residual, self.mask, self.corrected) if path]


@dataclass(frozen=True)
class ImagePictures:
    """Where the pictures of an image go; what is empty is not drawn. Planes are by channel."""

    image: str
    residual: str = ""
    spectrum: str = ""
    planes: Mapping[int, str] = field(default_factory=dict)


def draw_image(title: str, files: ImageFiles, pictures: ImagePictures) -> None:
    """Draw an image, and of a cube its plane of highest peak; its residual, planes and spectra."""
    coordinates = read_coordinates(files.image)
    channel, name = 0, ""
    if len(coordinates.frequencies) > 1:
        scanned = _scan(files.image, coordinates, pictures.planes)
        channel = scanned.channel
        name = f"\nchannel {channel} of {len(coordinates.frequencies)}: {_place(coordinates, channel)}"
        if pictures.planes:
            _draw_planes(title, coordinates, scanned.planes, pictures.planes)
        if pictures.spectrum:
            spectra = read_spectra(files, coordinates, scanned.peak, typical_noise(scanned.noise))
            draw_spectra(title, coordinates, spectra, pictures.spectrum)
    mask = None
    if files.masks_sources and Path(files.mask).is_dir():
        mask = read_plane(files.mask, read_coordinates(files.mask), channel, _MOST_PIXELS)
    plane = read_plane(files.image, coordinates, channel, _MOST_PIXELS)
    _draw(title + name, coordinates, plane, channel, mask, _limits(plane), BRIGHTNESS, pictures.image)
    if pictures.residual and Path(files.residual).is_dir():
        plane = read_plane(files.residual, coordinates, channel, _MOST_PIXELS)
        most = max(map(abs, _limits(plane)))
        _draw(
            f"{title}: residual{name}", coordinates, plane, channel, mask, (-most, most), AROUND_MIDDLE,
            pictures.residual,
        )  # fmt: skip


def draw_moment(title: str, image: str, moment: int, path: str) -> None:
    """Draw a moment map, as far as it has pixels: brightness of moment 0, others around their median."""
    import numpy as np

    coordinates = read_coordinates(image)
    plane = read_plane(image, coordinates, 0, _MOST_PIXELS)
    limits, colours = _limits(plane, _TAILS_OF_A_MOMENT), BRIGHTNESS
    valid = plane[np.isfinite(plane)]
    if moment and valid.size:
        middle = float(np.median(valid))
        most = max(abs(limits[0] - middle), abs(limits[1] - middle))
        limits, colours = (middle - most, middle + most), AROUND_MIDDLE
    made, axes, _ = sky_figure(plane, coordinates, limits, colours)
    axes.set_title(title)
    _zoom(axes, np.isfinite(plane), _AROUND_A_MOMENT)
    draw_beam(axes, coordinates, 0)
    save(made, path)


def _zoom(axes: Any, valid: Any, around: float) -> None:
    """Show a square that holds all valid pixels, so many times as large as they need."""
    import numpy as np

    rows, columns = np.nonzero(valid)
    if not rows.size:
        return
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    side = around * max(np.ptp(rows) + 1, np.ptp(columns) + 1, max(valid.shape) / 16)
    for middle, size, begin, end, limit in (
        ((columns.min() + columns.max() + 1) / 2, valid.shape[1], left, right, axes.set_xlim),
        ((rows.min() + rows.max() + 1) / 2, valid.shape[0], bottom, top, axes.set_ylim),
    ):
        low, high = max(0.0, middle - side / 2), min(float(size), middle + side / 2)
        limit(begin + (end - begin) * low / size, begin + (end - begin) * high / size)


def _draw(
    title: str,
    coordinates: Coordinates,
    plane: Any,
    channel: int,
    mask: Any,
    limits: tuple[float, float],
    colours: str,
    path: str,
) -> None:
    import numpy as np

    made, axes, _ = sky_figure(plane, coordinates, limits, colours)
    axes.set_title(title)
    _zoom(axes, np.isfinite(plane), _AROUND_AN_IMAGE)
    if mask is not None:
        draw_mask(axes, mask, coordinates)
    draw_beam(axes, coordinates, channel)
    save(made, path)


def _limits(pixels: Any, tails: tuple[float, float] = _TAILS) -> tuple[float, float]:
    """Between which brightnesses colours change; `tails` are the percents of pixels beyond."""
    import numpy as np

    valid = pixels[np.isfinite(pixels)]
    if not valid.size:
        return 0.0, 1.0
    low, high = np.percentile(valid, (tails[0], 100.0 - tails[1]))
    return (float(low), float(high)) if high > low else (float(low), float(low) + (abs(float(low)) or 1.0))


@dataclass(frozen=True)
class _Scanned:
    """What one reading of a cube tells: the channel and the pixel of its peak, the noise of its planes, and those
    planes that are to be shown."""

    channel: int
    peak: tuple[int, int]
    noise: list[float]
    planes: dict[int, Any]


def _scan(path: str, coordinates: Coordinates, wanted: Mapping[int, str]) -> _Scanned:
    import numpy as np

    factor = shrinking(coordinates, _MOST_PIXELS_OF_A_PLANE)
    highest, channel, peak = -np.inf, 0, (0, 0)
    channels = range(len(coordinates.frequencies))
    samples: dict[int, list[Any]] = {number: [] for number in channels}
    parts: dict[int, list[Any]] = {number: [] for number in wanted}
    step = max(1, int((coordinates.shape[0] * coordinates.shape[1] / _MOST_FOR_NOISE) ** 0.5))
    with opened(path) as tool:
        for number, first, pixels in strips(tool, coordinates, channels, factor):
            if number in wanted:
                parts[number].append(shrunk(pixels, factor))
            place = int(np.argmax(np.where(np.isfinite(pixels), pixels, -np.inf)))
            row, column = divmod(place, pixels.shape[1])
            if pixels[row, column] > highest:
                highest, channel, peak = pixels[row, column], number, (column, first + row)
            some = pixels[::step, ::step]
            samples[number].append(some[np.isfinite(some)])
    whole = {number: np.concatenate(several) for number, several in samples.items()}
    noise = [float(1.4826 * np.median(np.abs(some - np.median(some)))) for some in whole.values() if some.size]
    planes = {number: np.concatenate(several) for number, several in parts.items()}
    return _Scanned(channel, peak, noise, planes)


def _draw_planes(title: str, coordinates: Coordinates, planes: Mapping[int, Any], paths: Mapping[int, str]) -> None:
    """One picture a plane, all with the same colours."""
    import numpy as np
    from matplotlib import colormaps

    limits = _limits(np.stack(list(planes.values())))
    first = next(iter(planes.values()))
    made, axes, shown = sky_figure(first, coordinates, limits)
    heading = axes.set_title("")
    _zoom(axes, np.isfinite(np.stack([*planes.values()])).any(0), _AROUND_AN_IMAGE)
    changing = [shown, heading]
    beam = draw_beam(axes, coordinates, coordinates.shape[coordinates.spectral or 0] // 2)
    if beam is not None:
        changing.append(beam)
    series = Series(made, changing, [*colormaps[BRIGHTNESS](np.linspace(0.0, 1.0, COLOURED))])
    for channel, path in paths.items():
        shown.set_data(planes[channel])
        heading.set_text(f"{title}\nchannel {channel}: {_place(coordinates, channel)}")
        series.save(path)


def _place(coordinates: Coordinates, channel: int) -> str:
    """Where a channel is in the spectrum."""
    frequency = coordinates.frequencies[channel]
    text = f"{frequency / 1e9:.6f} GHz"
    return f"{text}, {coordinates.velocity(frequency):.1f} km/s" if coordinates.rest else text
