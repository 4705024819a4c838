"""Images of visibilities, and visibilities of images: one contract, whatever does it.

Signs, flips and pixels are those of ducc0.wgridder. The image's value at direction cosines (l, m), with
n = √(1 − l² − m²), is the sum of Re[weight · visibility · exp(2πi(u·l + v·m − w·(n − 1)))], divided by n if asked;
u, v and w count wavelengths. Pixel (i, j) lies at l = center[0] + (i − nx/2)·cell[0] and
m = center[1] + (j − ny/2)·cell[1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

from surgeline.errors import BadInput, nearest
from surgeline.imaging.gpu.geometry import Geometry

Engine = Literal["auto", "ducc0", "triton"]
ENGINES = ("auto", "ducc0", "triton")
# NumPy's, or of a GPU.
Array = Any


class Gridder(ABC):
    """Images of visibilities, and visibilities of images, for coordinates and pixels that do not change.

    Visibilities, weights and masks have a value for each row and channel, images one for each pixel (nx, ny).
    A mask is true where a visibility is used. What is not used, or has no weight, contributes nothing whatever its
    value is, NaN too. No visibilities at all make an image of zeros.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry

    @staticmethod
    def plan(
        uvw: Array,
        frequency: Array,
        npix: int | tuple[int, int],
        cell: float | tuple[float, float],
        epsilon: float,
        engine: Engine = "auto",
        *,
        center: tuple[float, float] = (0.0, 0.0),
        w_term: bool = True,
        divide_by_n: bool = False,
        double: bool = False,
        threads: int = 1,
    ) -> Gridder:
        """Make ready to image.

        Arguments:
            uvw: coordinates of each row, in metres: (rows, 3).
            frequency: of each channel, in Hz.
            npix: pixels of the image, even numbers: (nx, ny), or one number for both.
            cell: size of a pixel, in radians: (dx, dy), or one number for both.
            epsilon: the relative error, in the L2 norm, that may be made.
            engine: `ducc0` on a CPU, `triton` on a GPU; `auto` takes the GPU where there is one.
            center: l and m of the image's centre, counted from the phase centre.
            w_term: account for w; without it all w are taken to be zero.
            divide_by_n: divide images by n, before they are made visibilities and after they were made of them.
            double: visibilities are complex128, weights and images float64; ducc0 alone does that.
            threads: threads of the CPU that ducc0 uses.

        Raises:
            BadInput: this cannot be imaged, or not by this engine.
            GpuError: there is no GPU, or it has not enough memory.
        """
        geometry = Geometry.checked(uvw, frequency, npix, cell, epsilon, center, w_term, divide_by_n, double, threads)
        if engine not in ENGINES:
            raise BadInput(f"There is no engine {engine!r}.", nearest(engine, ENGINES))
        if engine == "auto":
            from surgeline.imaging.gpu.devices import there_is_a_gpu

            engine = "triton" if there_is_a_gpu() and not double else "ducc0"
        if engine == "triton":
            from surgeline.imaging.gpu.tritongridder import TritonGridder

            return TritonGridder(geometry)
        from surgeline.imaging.gpu.ducc import DuccGridder

        return DuccGridder(geometry)

    @abstractmethod
    def vis2dirty(self, vis: Array, weights: Array | None = None, mask: Array | None = None) -> Array:
        """The image of visibilities times their weights; it is not divided by the sum of the weights.

        Raises:
            BadInput: an array has another shape than was planned for.
            GpuError: the GPU was lost, or has not enough memory.
        """

    @abstractmethod
    def dirty2vis(self, image: Array, mask: Array | None = None) -> Array:
        """The visibilities of an image; zero where they are not used.

        Raises:
            BadInput: an array has another shape than was planned for.
            GpuError: the GPU was lost, or has not enough memory.
        """

    @abstractmethod
    def psf(self, weights: Array | None = None, mask: Array | None = None) -> Array:
        """The image of a source at the image's centre, whose peak there is the sum of the weights.

        Raises:
            BadInput: an array has another shape than was planned for.
            GpuError: the GPU was lost, or has not enough memory.
        """

    def residual(self, vis: Array, model: Array, weights: Array | None = None, mask: Array | None = None) -> Array:
        """The image of what an image of a model leaves of visibilities.

        Raises:
            BadInput: an array has another shape than was planned for.
            GpuError: the GPU was lost, or has not enough memory.
        """
        self.geometry.check_shape("visibilities", vis, self.geometry.shape)
        return self.vis2dirty(vis - self.dirty2vis(model, mask), weights, mask)
