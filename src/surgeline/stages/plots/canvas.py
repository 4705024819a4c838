"""What pictures have in common: figures, colours that the colour-blind can tell apart, quick series of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from surgeline.paths import partial

# So that a figure 8 inches wide fills the page of a laptop without being scaled.
_DPI = 100
# Half of the time that zlib takes by default, for some percent more bytes.
_COMPRESSION = 3
# How many of the 256 colours of a picture with a palette are no greys.
COLOURED = 216

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart, on a light ground.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#000000")
MARKERS = "o^sDvPX*"
LIGHT_GREY = "#d4d4d4"
# Perceptually even, and read in the same way in grey: for brightness, and for what has a middle.
BRIGHTNESS, AROUND_MIDDLE = "viridis", "coolwarm"


def colour(number: int, count: int) -> Any:
    """The colour of one of several things: of few, one that can be told by itself; of many, one along a scale."""
    if count <= len(COLOURS):
        return COLOURS[number]
    from matplotlib import colormaps

    return colormaps[BRIGHTNESS](0.92 * number / (count - 1))


def marker(number: int) -> str:
    """The marker of one of several things, so that nothing is told by its colour alone."""
    return MARKERS[number % len(MARKERS)]


def shortened(name: str, most: int) -> str:
    """A name of at most so many letters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure that belongs to nobody else: pyplot's global state is not for several jobs.

    Args:
        rows, columns: how many axes.
        size: width and height in inches.
        options: of `Figure.subplots`.

    Returns:
        the figure, and its axes as an array of rows and columns.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=size, dpi=_DPI)
    FigureCanvasAgg(made)
    grid = made.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.ravel():
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_size(9)
        axes.yaxis.label.set_size(9)
        axes.title.set_size(10)
    return made, grid


def margins(made: Any, left: float, right: float, bottom: float, top: float, **between: float) -> None:
    """Leave so many inches around the axes: quicker than to have matplotlib find out how many."""
    width, height = made.get_size_inches()
    made.subplots_adjust(left / width, bottom / height, 1.0 - right / width, 1.0 - top / height, **between)


def grid_lines(*several: Any) -> None:
    """Faint lines behind what is drawn."""
    for axes in several:
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)


def save(made: Any, path: str) -> None:
    """Write a figure; it appears under its name when it is whole."""
    made.canvas.draw()
    _write(_drawn(made.canvas), path)


class Series:
    """Many pictures by one figure: what they share is drawn once, and only what changes again for each.

    They have 256 colours, as they then take a third of the time and of the space: greys, those that are named,
    and what lies between them and white.
    """

    def __init__(self, made: Any, changing: Sequence[Any], colours: Sequence[Any]) -> None:
        """Draw what stays; `changing` are artists, drawn in this order, and `colours` are theirs."""
        self._changing = changing
        self._figure = made
        self._palette = _palette(colours)
        for artist in changing:
            artist.set_animated(True)
        made.canvas.draw()
        self._shared = made.canvas.copy_from_bbox(made.bbox)

    def save(self, path: str) -> None:
        """Write a picture with the artists as they are now."""
        self._figure.canvas.restore_region(self._shared)
        for artist in self._changing:
            self._figure.draw_artist(artist)
        _write(_drawn(self._figure.canvas).quantize(palette=self._palette, dither=0), path)


def _palette(colours: Sequence[Any]) -> Any:
    import numpy as np
    from matplotlib.colors import to_rgba_array
    from PIL import Image

    own = to_rgba_array(colours)[:COLOURED, :3]
    # What is nearly white would be taken for white, and white for it.
    shares = np.linspace(1.0, 0.1, max(1, COLOURED // len(own)))
    tints = (1.0 - shares[:, None, None] * (1.0 - own)).reshape(-1, 3)
    greys = np.repeat(np.append(np.linspace(0.0, 0.93, 255 - len(tints)), 1.0)[:, None], 3, axis=1)
    found = Image.new("P", (1, 1))
    found.putpalette(np.round(255.0 * np.concatenate([tints, greys])).astype(np.uint8).tobytes())
    return found


def _drawn(canvas: Any) -> Any:
    import numpy as np
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3]))


def _write(picture: Any, path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    unfinished = partial(path)
    picture.save(unfinished, format="PNG", compress_level=_COMPRESSION)
    unfinished.rename(path)
