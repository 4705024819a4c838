"""Images of visibilities and back by ducc0, on a CPU."""

from __future__ import annotations

from typing import Any

from surgeline.errors import BadInput
from surgeline.imaging.gpu.geometry import Geometry
from surgeline.imaging.gpu.gridder import Array, Gridder


class DuccGridder(Gridder):
    """ducc0's w-gridder, in single or double precision."""

    def __init__(self, geometry: Geometry) -> None:
        """Make ready to image.

        Raises:
            BadInput: ducc0 is not installed.
        """
        import numpy as np

        try:
            from ducc0.wgridder import experimental
        except ImportError as error:
            raise BadInput(
                "ducc0, which makes images on a CPU, is not installed.", "pip install 'surgeline[gpu]'"
            ) from error
        super().__init__(geometry)
        self._wgridder = experimental
        double = geometry.double
        self._real: type = np.float64 if double else np.float32
        self._complex: type = np.complex128 if double else np.complex64
        self._how: dict[str, Any] = {
            "uvw": geometry.uvw,
            "freq": geometry.frequency,
            "pixsize_x": geometry.cell[0],
            "pixsize_y": geometry.cell[1],
            "center_x": geometry.center[0],
            "center_y": geometry.center[1],
            "epsilon": geometry.epsilon,
            "do_wgridding": geometry.w_term,
            "divide_by_n": geometry.divide_by_n,
            "nthreads": geometry.threads,
        }

    def vis2dirty(self, vis: Array, weights: Array | None = None, mask: Array | None = None) -> Array:
        """The image of visibilities times their weights."""
        import numpy as np

        vis = self._of_visibilities("visibilities", vis, self._complex)
        weights = self._of_visibilities("weights", weights, self._real)
        mask = self._of_visibilities("masks", mask, np.uint8)
        nx, ny = self.geometry.npix
        if self.geometry.empty:
            return np.zeros((nx, ny), self._real)
        return self._wgridder.vis2dirty(vis=vis, wgt=weights, mask=mask, npix_x=nx, npix_y=ny, **self._how)

    def dirty2vis(self, image: Array, mask: Array | None = None) -> Array:
        """The visibilities of an image."""
        import numpy as np

        self.geometry.check_shape("pixels", image, self.geometry.npix)
        image = np.ascontiguousarray(image, self._real)
        mask = self._of_visibilities("masks", mask, np.uint8)
        if self.geometry.empty:
            return np.zeros(self.geometry.shape, self._complex)
        return self._wgridder.dirty2vis(dirty=image, mask=mask, **self._how)

    def psf(self, weights: Array | None = None, mask: Array | None = None) -> Array:
        """The image of a source at the image's centre."""
        import numpy as np

        source = self.geometry.of_source_at_center(np, self.geometry.uvw, self.geometry.frequency)
        return self.vis2dirty(source, weights, mask)

    def _of_visibilities(self, what: str, array: Array | None, kind: Any) -> Array | None:
        """One value for each visibility, as ducc0 wants them."""
        import numpy as np

        if array is None:
            return None
        array = np.asarray(array)
        self.geometry.check_shape(what, array, self.geometry.shape)
        # Any value that is not zero is true, also one that 8 bits would not hold.
        return np.ascontiguousarray(array != 0 if kind == np.uint8 else array, kind)
