"""What is to be imaged: coordinates, frequencies, pixels and how exactly; checked before any work."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, TypeVar

from surgeline.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_Number = TypeVar("_Number", int, float)

SPEED_OF_LIGHT = 299792458.0  # metres a second
# The least errors that single and double precision can reach, as ducc0's kernels have them.
LEAST_EPSILON, LEAST_EPSILON_DOUBLE = 1e-6, 2e-13


@dataclass(frozen=True)
class Geometry:
    """All that a gridder is planned for; what the fields mean is told by Gridder.plan."""

    uvw: NDArray[np.float64]
    frequency: NDArray[np.float64]
    npix: tuple[int, int]
    cell: tuple[float, float]
    epsilon: float
    center: tuple[float, float]
    w_term: bool
    divide_by_n: bool
    double: bool
    threads: int

    @classmethod
    def checked(
        cls,
        uvw: Any,
        frequency: Any,
        npix: int | tuple[int, int],
        cell: float | tuple[float, float],
        epsilon: float,
        center: tuple[float, float],
        w_term: bool,
        divide_by_n: bool,
        double: bool,
        threads: int,
    ) -> Geometry:
        """The geometry that is asked for.

        Raises:
            BadInput: it cannot be imaged.
        """
        import numpy as np

        uvw = np.ascontiguousarray(uvw, np.float64)
        frequency = np.ascontiguousarray(frequency, np.float64)
        if uvw.ndim != 2 or uvw.shape[1] != 3:
            raise BadInput(f"The coordinates have the shape {uvw.shape}.", "Give u, v and w of each row: (rows, 3).")
        if not np.isfinite(uvw).all():
            row = int(np.flatnonzero(~np.isfinite(uvw).all(axis=1))[0])
            raise BadInput(f"The coordinates of row {row} are not finite: {uvw[row]}.", "Leave such rows out.")
        if frequency.ndim != 1:
            raise BadInput(f"The frequencies have the shape {frequency.shape}.", "Give one for each channel, in Hz.")
        if not (np.isfinite(frequency) & (frequency > 0)).all():
            raise BadInput("A frequency is not a positive number.", "Give the frequencies of the channels in Hz.")
        width, height = _both(npix, index)
        if min(width, height) < 2 or width % 2 or height % 2:
            raise BadInput(f"An image cannot have {width} × {height} pixels here.", "Give even numbers of pixels.")
        dx, dy = _both(cell, float)
        if not (np.isfinite([dx, dy]).all() and dx > 0 and dy > 0):
            raise BadInput(f"A pixel cannot be {dx} × {dy} radians large.", "Give positive sizes in radians.")
        least = LEAST_EPSILON_DOUBLE if double else LEAST_EPSILON
        if not least <= epsilon < 1:
            raise BadInput(
                f"An error of {epsilon:g} cannot be kept in {'double' if double else 'single'} precision.",
                f"Give an epsilon of {least:g} at least and less than 1"
                + ("." if double else ", or ask for double."),
            )
        if len(center) != 2 or not np.isfinite(center).all():
            raise BadInput(f"The image's centre cannot be {center}.", "Give l and m of it in radians.")
        l0, m0 = (float(offset) for offset in center)
        if (w_term or divide_by_n) and (abs(l0) + dx * width / 2) ** 2 + (abs(m0) + dy * height / 2) ** 2 >= 1:
            raise BadInput("The image's corners lie below the horizon.", "Ask for fewer or smaller pixels.")
        if threads < 1:
            raise BadInput(f"Nothing can be done by {threads} threads.", "Give one thread or more.")
        return cls(
            uvw, frequency, (width, height), (dx, dy), float(epsilon), (l0, m0), w_term, divide_by_n, double, threads
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Of the visibilities: rows and channels."""
        return len(self.uvw), len(self.frequency)

    @property
    def empty(self) -> bool:
        """There are no visibilities."""
        return 0 in self.shape

    def check_shape(self, what: str, array: Any, shape: tuple[int, int]) -> None:
        """Refuse an array whose shape is not the one that was planned for.

        Raises:
            BadInput: it has another shape.
        """
        if tuple(array.shape) != shape:
            raise BadInput(
                f"The {what} have the shape {tuple(array.shape)}.", f"This gridder is planned for {shape}."
            )

    def of_source_at_center(self, xp: Any, uvw: Any, frequency: Any) -> Any:
        """The visibilities of which vis2dirty makes the image of a source of unit flux at the image's centre.

        What vis2dirty divides by there is taken back, so that the peak is the sum of the weights.

        Arguments:
            xp: the namespace of the arrays.
            uvw: coordinates of some rows.
            frequency: of the channels.
        """
        l0, m0 = self.center
        n = (1 - l0**2 - m0**2) ** 0.5
        path = uvw[:, 0] * l0 + uvw[:, 1] * m0
        if self.w_term:
            path = path - uvw[:, 2] * (n - 1)
        source = xp.exp(-2j * math.pi * path[:, None] * (frequency / SPEED_OF_LIGHT)[None, :])
        return source * n if self.divide_by_n else source


def _both(values: Any, kind: Callable[[Any], _Number]) -> tuple[_Number, _Number]:
    """A number for each axis of the image, of one for each or of one for both."""
    try:
        first, second = values if hasattr(values, "__len__") else (values, values)
        return kind(first), kind(second)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"{values!r} is not a number for each axis of the image.", "Give one or two numbers."
        ) from error
