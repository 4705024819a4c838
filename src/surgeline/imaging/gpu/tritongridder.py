"""Images of visibilities and back by kernels in Triton, on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from surgeline.errors import BadInput
from surgeline.imaging.gpu.arrays import Array, Device
from surgeline.imaging.gpu.devices import gpu_errors, the_device
from surgeline.imaging.gpu.geometry import Geometry
from surgeline.imaging.gpu.gridder import Gridder
from surgeline.imaging.gpu.planes import Planes
from surgeline.imaging.gpu.tiles import BYTES_TO_SORT, Tiles
from surgeline.imaging.gpu.uvwgrid import UvwGrid

# Visibilities of some rows, and their weights; None where all are one.
Held = tuple[slice, Array, Array | None]
# What planes are made with, in planes, and what images are made with, in bytes for each pixel.
_PLANES_AT_WORK, _BYTES_OF_PIXEL = 3, 64


class TritonGridder(Gridder):
    """The w-gridder of Triton's kernels, in single precision with coordinates in double precision.

    Visibilities, weights, masks and images may be arrays of the GPU (torch's) or of NumPy. Images of visibilities of
    the GPU stay there, and so do visibilities of an image of the GPU; others come back to the host.

    Where all visibilities fit the GPU's memory they are sorted once. Others are worked on in parts of rows, sorted
    when they are needed, while the next part is copied; and so are the planes of w, where they do not fit.
    """

    def __init__(self, geometry: Geometry, memory: int | None = None) -> None:
        """Make ready to image.

        Arguments:
            geometry: what is to be imaged.
            memory: how much of the GPU's memory may be used, in bytes; what is free when it is not given.

        Raises:
            BadInput: this engine cannot keep so small an error, or works in single precision alone.
            GpuError: there is no GPU, or it has not enough memory.
        """
        if geometry.double:
            raise BadInput("The engine triton has single precision alone.", "For double precision take ducc0.")
        super().__init__(geometry)
        self._device: Device = the_device()
        if geometry.empty:
            return
        self._grid = UvwGrid.of(geometry)
        memory = self._device.free_bytes() if memory is None else memory
        rows, channels = geometry.shape
        at_once = max(1, memory // 2 // (BYTES_TO_SORT * channels))
        self._parts = [slice(first, min(first + at_once, rows)) for first in range(0, rows, at_once)]
        plane = 8 * self._grid.cells[0] * self._grid.cells[1]
        pixels = geometry.npix[0] * geometry.npix[1]
        planes = (memory // 2 - _BYTES_OF_PIXEL * pixels) // plane - _PLANES_AT_WORK
        self._planes_at_once = min(max(planes, 1), self._grid.planes)
        with gpu_errors(self._device.name):
            self._planes = Planes(self._device, geometry, self._grid)
            self._sorted = self._sort(self._parts[0]) if len(self._parts) == 1 else None

    def vis2dirty(self, vis: Array, weights: Array | None = None, mask: Array | None = None) -> Array:
        """The image of visibilities times their weights."""
        for what, array in (("visibilities", vis), ("weights", weights), ("masks", mask)):
            self._check(what, array)
        with gpu_errors(self._device.name):
            return self._given(self._image(lambda: self._held(vis, weights, mask)), self._device.holds(vis))

    def dirty2vis(self, image: Array, mask: Array | None = None) -> Array:
        """The visibilities of an image."""
        self.geometry.check_shape("pixels", image, self.geometry.npix)
        self._check("masks", mask)
        with gpu_errors(self._device.name):
            return self._visibilities(image, mask)

    def psf(self, weights: Array | None = None, mask: Array | None = None) -> Array:
        """The image of a source at the image's centre."""
        for what, array in (("weights", weights), ("masks", mask)):
            self._check(what, array)
        with gpu_errors(self._device.name):
            image = self._image(lambda: self._held_of_source(weights, mask))
            return self._given(image, self._device.holds(weights))

    def residual(self, vis: Array, model: Array, weights: Array | None = None, mask: Array | None = None) -> Array:
        """The image of what a model leaves of visibilities."""
        self._check("visibilities", vis)
        device = self._device
        stays = device.holds(vis)
        with gpu_errors(device.name):
            # What all fits the GPU does not leave it in between; otherwise the model is made where the others are.
            if not self.geometry.empty and self._sorted is not None:
                vis = device.array(vis, device.xp.complex64)
            if device.holds(vis):
                model = device.array(model)
            elif device.holds(model):
                model = device.host(model)
            image = super().residual(vis, model, weights, mask)
        return device.host(image) if device.holds(image) and not stays else image

    def _check(self, what: str, array: Array | None) -> None:
        if array is not None:
            self.geometry.check_shape(what, array, self.geometry.shape)

    def _given(self, image: Array, stays: bool) -> Array:
        return image if stays else self._device.host(image)

    def _sort(self, rows: slice) -> Tiles:
        return Tiles.of(self._device, self._grid, self.geometry.uvw[rows], self.geometry.frequency)

    def _tiles(self, rows: slice) -> Tiles:
        return self._sort(rows) if self._sorted is None else self._sorted

    def _image(self, visibilities: Callable[[], Iterable[Held]]) -> Array:
        """The image of visibilities, which are asked for once for each batch of planes."""
        if self.geometry.empty:
            return self._device.zeros(self.geometry.npix, self._device.xp.float32)
        image = self._planes.no_image()
        for begin, count in self._batches():
            planes = self._planes.zeros(count)
            for rows, vis, weights in visibilities():
                self._tiles(rows).add_to_planes(planes, begin, vis, weights)
            self._planes.add_to_image(image, planes, begin)
        return self._planes.finished(image)

    def _visibilities(self, image: Array, mask: Array | None) -> Array:
        import numpy as np

        device, xp = self._device, self._device.xp
        # Where they fit the GPU they are made there whole.
        here = device.holds(image) or self.geometry.empty or self._sorted is not None
        vis = device.zeros(self.geometry.shape, xp.complex64) if here else np.zeros(self.geometry.shape, np.complex64)
        if not self.geometry.empty:
            pixels = self._planes.prepared(device.array(image, xp.float32))
            for begin, count in self._batches():
                planes = self._planes.of_image(pixels, begin, count)
                for rows in self._parts:
                    part = device.array(vis[rows])
                    used = None if mask is None else self._weights(None, mask[rows])
                    self._tiles(rows).add_from_planes(planes, begin, part, used)
                    if not here:
                        vis[rows] = device.host(part)
        return vis if device.holds(image) or not here else device.host(vis)

    def _batches(self) -> Iterator[tuple[int, int]]:
        """The planes that are worked on at a time: the first, and how many."""
        for begin in range(0, self._grid.planes, self._planes_at_once):
            yield begin, min(self._planes_at_once, self._grid.planes - begin)

    def _held(self, vis: Array, weights: Array | None, mask: Array | None) -> Iterator[Held]:
        """Visibilities and their weights, part after part on the GPU."""
        pieces = (tuple(None if one is None else one[rows] for one in (vis, weights, mask)) for rows in self._parts)
        for rows, (here, *weighting) in zip(self._parts, self._device.brought(pieces), strict=True):
            yield rows, self._device.array(here, self._device.xp.complex64), self._weights(*weighting)

    def _held_of_source(self, weights: Array | None, mask: Array | None) -> Iterator[Held]:
        """The visibilities of a source at the image's centre and their weights, part after part on the GPU."""
        device, xp = self._device, self._device.xp
        frequency = device.array(self.geometry.frequency)
        pieces = (tuple(None if one is None else one[rows] for one in (weights, mask)) for rows in self._parts)
        for rows, weighting in zip(self._parts, device.brought(pieces), strict=True):
            source = self.geometry.of_source_at_center(xp, device.array(self.geometry.uvw[rows]), frequency)
            yield rows, xp.astype(source, xp.complex64), self._weights(*weighting)

    def _weights(self, weights: Array | None, mask: Array | None) -> Array | None:
        """Weights that are zero where visibilities are not used, on the GPU; None where all are one."""
        xp = self._device.xp
        if mask is None:
            return None if weights is None else self._device.array(weights, xp.float32)
        used = xp.astype(self._device.array(mask) != 0, xp.float32)
        if weights is None:
            return used
        # Not a product, since weights that are not used may be anything.
        return xp.where(used != 0, self._device.array(weights, xp.float32), used)
