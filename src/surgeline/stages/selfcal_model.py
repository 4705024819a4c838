"""What self-calibration knows of an image, and the model that it may be told to start from."""

from __future__ import annotations

import math
import shutil
from contextlib import closing
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, model_validator

from surgeline.errors import DataError
from surgeline.imaging.synthesis import plane_noise

_RADIAN_ARCSEC = 206264.806


class Component(BaseModel):
    """A simple source in the middle of the image.

    Attributes:
        shape: a point, a uniform disk, a thin ring, or a Gaussian.
        flux: Jy in all.
        diameter: arcsec; of a Gaussian, its full width at half maximum. A point has none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: Literal["point", "disk", "ring", "gaussian"]
    flux: PositiveFloat
    diameter: PositiveFloat | None = None

    @model_validator(mode="after")
    def _has_a_size(self) -> Component:
        if (self.shape == "point") != (self.diameter is None):
            raise ValueError(f"a {self.shape} {'has no' if self.shape == 'point' else 'needs a'} diameter")
        return self

    def __str__(self) -> str:
        size = "" if self.diameter is None else f" of {self.diameter:g} arcsec"
        return f"{self.shape} of {self.flux:g} Jy{size}"


@dataclass(frozen=True)
class Seen:
    """What an image shows: its peak, the noise of its residual (both in Jy/beam), and the flux of its model in Jy."""

    stem: str
    peak: float
    noise: float
    flux: float

    @property
    def dynamic_range(self) -> float:
        return self.peak / self.noise if self.noise > 0.0 else 0.0


def look(stem: str) -> Seen:
    """Measure an image. Runs on a worker."""
    import numpy as np
    from casatools import image

    suffix = ".tt0" if Path(f"{stem}.image.tt0").exists() else ""
    with closing(image()) as tool:
        tool.open(f"{stem}.image{suffix}")
        pixels, valid = tool.getchunk(), tool.getchunk(getmask=True)
        tool.open(f"{stem}.model{suffix}")
        flux = float(tool.getchunk().sum())
    peak = float(np.max(pixels[valid])) if valid.any() else 0.0
    noise = plane_noise(f"{stem}.residual{suffix}")
    return Seen(stem=stem, peak=peak, noise=noise[0] if noise else 0.0, flux=flux)


def place_model(like: str, stem: str, model: str | Component) -> None:
    """Make a model on the grid of an image that was made already. Runs on a worker.

    Args:
        like: the stem of that image; its products are copied.
        stem: of the copy, which has the model.
        model: a component, or an image in Jy/pixel or Jy/beam, which is regridded.

    Raises:
        DataError: the image has nothing where the model is to be.
    """
    import numpy as np
    from casatools import image

    old = Path(like)
    for left in old.parent.glob(f"{escape(Path(stem).name)}.*"):
        shutil.rmtree(left)
    for product in old.parent.glob(f"{escape(old.name)}.*"):
        shutil.copytree(product, f"{stem}{product.name.removeprefix(old.name)}")
    suffix = ".tt0" if Path(f"{stem}.model.tt0").exists() else ""
    with closing(image()) as tool:
        tool.open(f"{stem}.model{suffix}")
        pixels = np.zeros(tool.shape())
        coordinates = tool.coordsys()
        cells = np.abs(coordinates.increment("n", "direction")["numeric"]) * _RADIAN_ARCSEC
        centre = coordinates.referencepixel("direction")["numeric"][:2]
        grid = coordinates.torecord()
        coordinates.done()
        plane = (
            drawn(model, pixels.shape[:2], cells, centre)
            if isinstance(model, Component)
            else _regridded(model, grid, list(pixels.shape), float(cells.prod()))
        )
        if not plane.any():
            raise DataError(
                f"the starting model {model} has nothing within the image that is calibrated on",
                "give one that covers the target, in Jy/pixel or Jy/beam",
            )
        pixels[:, :, 0, 0] = plane
        tool.putchunk(pixels)
    for higher in Path(stem).parent.glob(f"{escape(Path(stem).name)}.model.tt[1-9]"):
        with closing(image()) as tool:
            tool.open(str(higher))
            tool.putchunk(np.zeros(tool.shape()))


def drawn(component: Component, shape: tuple[int, ...], cells: Any, centre: Any) -> Any:
    """A component in Jy/pixel.

    Args:
        component: what to draw.
        shape: of the plane.
        cells: their sizes in arcsec.
        centre: its pixel.
    """
    import numpy as np

    x, y = np.meshgrid(*(np.arange(size) - middle for size, middle in zip(shape, centre, strict=True)), indexing="ij")
    radius = np.hypot(x * cells[0], y * cells[1])
    cell = math.sqrt(cells[0] * cells[1])
    half = (component.diameter or 0.0) / 2.0
    if component.shape == "gaussian":
        plane = np.exp(-math.log(2.0) * (radius / half) ** 2)
    elif component.shape == "disk":
        # Cells at the edge count for the part of them that lies inside.
        plane = np.clip((half - radius) / cell + 0.5, 0.0, 1.0)
    else:
        plane = np.clip(1.0 - np.abs(radius - half) / cell, 0.0, 1.0)
    total = plane.sum()
    return plane * (component.flux / total) if total else plane


def _regridded(path: str, grid: dict[str, Any], shape: list[int], cell_area: float) -> Any:
    import numpy as np
    from casatools import image

    with closing(image()) as tool:
        tool.open(path)
        coordinates = tool.coordsys()
        cells = np.abs(coordinates.increment("n", "direction")["numeric"]) * _RADIAN_ARCSEC
        coordinates.done()
        beam = tool.restoringbeam()
        # Regridding keeps what a pixel says; a smaller pixel has less flux.
        scale = cell_area / float(cells.prod())
        if "beam" in tool.brightnessunit().lower() and "major" in beam:
            axes = [beam[axis]["value"] for axis in ("major", "minor")]
            scale = cell_area / (math.pi / (4.0 * math.log(2.0)) * axes[0] * axes[1])
        moved = tool.regrid(shape=shape, csys=grid, axes=[0, 1], overwrite=True)
        plane = np.where(moved.getchunk(getmask=True), moved.getchunk(), 0.0)[:, :, 0, 0] * scale
        moved.done()
    return plane
