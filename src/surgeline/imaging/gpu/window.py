"""The window function that spreads a visibility over cells, and what it does to an image.

It is nearly the exponential of a semicircle (Barnett, Magland and af Klinteberg 2019), with a power a little above a
half, as ducc0 has it, too: exp(shape·((1 − x²)^power − 1)), where x runs from −1 to 1 over the cells that it covers.
A polynomial of 2x² − 1 stands for it, which takes products and sums alone; the transform is that of the polynomial.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from surgeline.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# How many times more cells there are than pixels, and planes than w asks for, at the least.
OVERSAMPLING = 1.5
# For each number of cells covered: the shape, over that number, and the power that make the least error with this
# oversampling; and the error that is kept even by a source in a corner of the image. It was computed from the aliases
# of all three axes. Of the widest one they are 3e-6, and the rest is for the rounding of float32.
_WINDOWS = {
    4: (1.72, 0.54, 5e-3),
    5: (1.73, 0.54, 6.5e-4),
    6: (1.80, 0.53, 1.1e-4),
    7: (1.87, 0.52, 2e-5),
    8: (1.87, 0.52, 1e-5),
}
# Of the polynomial: more make aliases no smaller.
_DEGREE = 11
# Of Gauss and Legendre, for the transform: many more than needed. And of Chebyshev, for one over it.
_NODES, _TERMS = 64, 16


@dataclass(frozen=True)
class Window:
    """A window function."""

    # How many cells it covers along each axis.
    support: int
    # Of the polynomial, the constant one first.
    coefficients: tuple[float, ...]

    @classmethod
    def of(cls, epsilon: float) -> Window:
        """The narrowest window that keeps a relative error.

        Raises:
            BadInput: none does.
        """
        for support, (*_, error) in _WINDOWS.items():
            if error <= epsilon:
                return cls(support, _coefficients(support))
        least = min(error for *_, error in _WINDOWS.values())
        raise BadInput(
            f"The engine triton cannot keep an error of {epsilon:g}.",
            f"Give an epsilon of {least:g} or more, or take the engine ducc0.",
        )

    def values(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Its values from −1 to 1."""
        import numpy as np

        found: NDArray[np.float64] = np.polynomial.polynomial.polyval(2 * x**2 - 1, np.array(self.coefficients))
        return found

    def transform(self, frequency: NDArray[np.float64]) -> NDArray[np.float64]:
        """Its Fourier transform at some frequencies, in turns for each cell."""
        import numpy as np

        nodes, weights = np.polynomial.legendre.leggauss(_NODES)
        turns = np.multiply.outer(frequency, nodes) * (self.support / 2)
        found: NDArray[np.float64] = np.cos(2 * np.pi * turns) @ (self.values(nodes) * weights) * (self.support / 2)
        return found

    def correct(self, frequency: Any) -> Any:
        """One over its transform at many frequencies, up to a third of a turn, of any array namespace."""
        import numpy as np

        # The transform is even, so that a polynomial of the square is enough: fitted once, and by Clenshaw's rule.
        largest = 0.5 / OVERSAMPLING
        reduced = _chebyshev_nodes(4 * _TERMS)
        exact = 1 / self.transform(largest * np.sqrt((reduced + 1) / 2))
        series = np.polynomial.chebyshev.chebfit(reduced, exact, _TERMS)
        x = 2 * (frequency / largest) ** 2 - 1
        last, second = 0.0 * x, 0.0 * x
        for factor in series[:0:-1]:
            last, second = 2 * x * last - second + float(factor), last
        return x * last - second + float(series[0])


@cache
def _coefficients(support: int) -> tuple[float, ...]:
    import numpy as np

    shape, power, _ = _WINDOWS[support]
    reduced = _chebyshev_nodes(400)
    exact = np.exp(shape * support * (((1 - reduced) / 2) ** power - 1))
    series = np.polynomial.chebyshev.chebfit(reduced, exact, _DEGREE)
    return tuple(float(factor) for factor in np.polynomial.chebyshev.cheb2poly(series))


def _chebyshev_nodes(count: int) -> NDArray[np.float64]:
    import numpy as np

    return np.cos(np.pi * (np.arange(count) + 0.5) / count)
