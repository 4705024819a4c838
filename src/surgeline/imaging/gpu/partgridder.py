"""A part of a continuum's rows on a worker: its visibilities and weights, and what grids them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from surgeline.imaging.cleaned import sides_of
from surgeline.imaging.gpu.gridder import Array, Engine, Gridder
from surgeline.imaging.gpu.visibilities import LIGHT_SPEED, RADIANS, Seen, Window, natural_weights, read, see, windows
from surgeline.imaging.gpu.weighting import density, weigh
from surgeline.imaging.rowimages import continuum_parameters
from surgeline.imaging.rowparts import RowPart
from surgeline.imaging.synthesis import Arguments, Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from surgeline.imaging.gpu.arrays import Device

# The relative error of an image that gridding may make, and the least that all engines can keep.
EPSILON = 1e-5
_ENGINES: dict[str, Engine] = {"cpu": "ducc0", "gpu": "triton"}
# Over how many cells to each side CASA's gridder spreads a visibility.
_REACH = 3
# A GPU keeps a window's visibilities from cycle to cycle where they take no more than so much of its free memory.
_KEPT_THERE = 0.5


@dataclass
class _Piece:
    """The visibilities of one spectral window; `there` is whether the GPU keeps them."""

    window: Window
    seen: Seen
    natural: NDArray[Any]
    gridded: NDArray[Any]
    there: bool = False
    gridder: Gridder | None = None
    weights: Array = None
    visibilities: list[Array] = field(default_factory=list)


class PartGridder:
    """What grids a part's rows: it reads them once, and holds them until it is ended.

    Attributes:
        engine: cpu or gpu.
    """

    def __init__(self, part: RowPart, shared_density: Callable[[], NDArray[Any] | None]) -> None:
        """Read where the rows are, and what they weigh.

        Args:
            part: whose rows.
            shared_density: gives the density of the weights of all parts, once there is one.

        Raises:
            DataError: a field moves, or there are not the correlations that a Stokes parameter needs.
        """
        self.engine = part.gridding.engine
        # The GPU, once there is something for it to do.
        self._device: Device | None = None
        arguments = part.arguments
        self._stokes = str(arguments.get("stokes", "I"))
        self._column = str(arguments.get("datacolumn", "corrected"))
        self._w_term = arguments.get("gridder", "standard") != "standard"
        self._robust = float(arguments.get("robust", 0.5)) if arguments.get("weighting") == "briggs" else None
        self._terms = int(arguments.get("nterms", 2)) if arguments.get("deconvolver") == "mtmfs" else 1
        self._sides = sides_of(arguments)
        coordinates = part.coordinates[0]
        self._cell = _radians(coordinates["direction0"])
        self._reference = _reference_frequency(arguments, coordinates)
        self._density = shared_density
        selections = continuum_parameters(arguments).getSelPars()
        self._pieces = []
        known: dict[tuple[Any, ...], float] = {}
        for window in windows([(selections[key], taql) for key, taql in part.rows]):
            # Before anything is read that cannot be imaged.
            window.sums(self._stokes)
            weights, gridded = natural_weights(window)
            self._pieces.append(_Piece(window, see(window, coordinates, known), weights, gridded))

    def density(self) -> NDArray[Any]:
        """How dense the weights of the part's rows are."""
        import numpy as np

        grid = np.zeros(self._sides)
        for piece in self._pieces:
            density(piece.window, piece.seen, piece.natural, grid, self._cell)
        return grid

    def psfs(self) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        """The PSF of each Taylor term, times the sum of its weights; and these sums. Each has a plane for each Stokes
        parameter, and all of these are alike.

        Raises:
            GpuError: the GPU was lost, or has not enough memory.
        """
        import numpy as np

        images, sums = [], []
        shared = np.ones((1, 1, len(self._stokes)))
        for term in range(2 * self._terms - 1):
            image, total = np.zeros(self._sides), 0.0
            for piece in self._pieces:
                gridder = self._gridder(piece)
                weights = self._of_term(piece, piece.weights, term)
                image += self._host(gridder.psf(weights))
                total += float(self._host(weights).sum(dtype=np.float64))
            images.append(image[:, :, None] * shared)
            sums.append(total * shared)
        return images, sums

    def residuals(self, models: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """What is left of the visibilities without a model, as an image of each Taylor term with a plane for each
        Stokes parameter.

        Args:
            models: an image of each term, with planes likewise; none for no model.

        Raises:
            GpuError: the GPU was lost, or has not enough memory.
        """
        import numpy as np

        images = [np.zeros((*self._sides, len(self._stokes))) for _ in range(self._terms)]
        for piece in self._pieces:
            gridder = self._gridder(piece)
            for plane, visibilities in enumerate(self._visibilities(piece)):
                of_plane = [model[:, :, plane] for model in models]
                if self._terms == 1:
                    images[0][:, :, plane] += self._host(self._of_one_term(gridder, piece, visibilities, of_plane))
                    continue
                for term, model in enumerate(of_plane):
                    if model.any():
                        predicted = gridder.dirty2vis(self._placed(piece, model))
                        visibilities = visibilities - self._of_term(piece, predicted, term)
                for term, image in enumerate(images):
                    weights = self._of_term(piece, piece.weights, term)
                    image[:, :, plane] += self._host(gridder.vis2dirty(visibilities, weights))
        return images

    def close(self) -> None:
        """Let go of all that is held."""
        self._pieces.clear()

    def _of_one_term(
        self, gridder: Gridder, piece: _Piece, visibilities: Array, models: Sequence[NDArray[Any]]
    ) -> Array:
        for model in models:
            if model.any():
                return gridder.residual(visibilities, self._placed(piece, model), piece.weights)
        return gridder.vis2dirty(visibilities, piece.weights)

    def _gridder(self, piece: _Piece) -> Gridder:
        """What grids a window's visibilities; from then on their weights are those that they are gridded with."""
        import numpy as np

        if piece.gridder is None:
            self._find_device()
            grid = self._density()
            weights = piece.natural
            if grid is not None:
                weights = weigh(piece.window, piece.seen, weights, grid, self._cell, self._robust)
            # Where Stokes I is alone, CASA counts each hand.
            hands = piece.window.parallel_hands if self._stokes == "I" else 1
            weights = np.where(piece.gridded, weights * np.float32(hands), np.float32(0))
            self._leave_out_fine_scales(piece, weights)
            # What ducc0 has as u, v and w: l grows to the east, where the numbers of pixels fall.
            piece.gridder = Gridder.plan(
                piece.seen.uvw * np.array([1.0, -1.0, 1.0]),
                piece.window.frequency,
                self._sides,
                self._cell,
                EPSILON,
                _ENGINES[self.engine],
                w_term=self._w_term,
                threads=int(os.environ.get("OMP_NUM_THREADS", "1")),
            )
            # Of the same size are the visibilities, twice: a complex number has two.
            bytes_there = weights.nbytes * (1 + 2 * len(self._stokes))
            piece.there = self._device is not None and bytes_there < _KEPT_THERE * self._device.free_bytes()
            piece.weights = self._placed(piece, weights)
            # Not needed any more.
            piece.natural = piece.natural[:0]
        return piece.gridder

    def _leave_out_fine_scales(self, piece: _Piece, weights: NDArray[Any]) -> None:
        """Take the weight of visibilities that are of finer scales than the pixels, where CASA cannot grid them."""
        import numpy as np

        for axis, (side, cell) in enumerate(zip(self._sides, self._cell, strict=True)):
            cells = _cells_of_casa(side)
            # North is up in CASA's grid, which in MSs' v it is not.
            scaled = (1, -1)[axis] * piece.seen.uvw[:, axis] * (cells * cell / LIGHT_SPEED)
            if np.abs(scaled).max(initial=0) * piece.window.frequency.max() < cells // 2 - _REACH - 1:
                continue
            place = np.rint(np.outer(scaled, piece.window.frequency) + cells // 2)
            weights[(place < _REACH) | (place + _REACH >= cells)] = 0

    def _visibilities(self, piece: _Piece) -> list[Array]:
        """A window's visibilities, read when they are first asked for; zero where they are not gridded."""
        import numpy as np

        if not piece.visibilities:
            found = read(piece.window, piece.seen, self._stokes, self._column)
            for plane in found:
                np.copyto(plane, 0, where=~piece.gridded)
            piece.visibilities = [self._placed(piece, plane) for plane in found]
        return piece.visibilities

    def _of_term(self, piece: _Piece, values: Array, term: int) -> Array:
        """Values of visibilities times the power of the frequency that goes with a Taylor term."""
        import numpy as np

        if not term:
            return values
        frequency = np.outer(piece.seen.stretch, piece.window.frequency)
        factor = ((frequency - self._reference) / self._reference) ** term
        return values * self._placed(piece, factor.astype(np.float32))

    def _find_device(self) -> None:
        if self.engine == "gpu" and self._device is None:
            from surgeline.imaging.gpu.devices import the_device

            self._device = the_device()

    def _placed(self, piece: _Piece, values: NDArray[Any]) -> Array:
        """On the GPU, where that keeps what is of this window."""
        if self._device is None or not piece.there:
            return values
        from surgeline.imaging.gpu.devices import gpu_errors

        with gpu_errors(self._device.name):
            return self._device.array(values)

    def _host(self, values: Array) -> NDArray[Any]:
        return self._device.host(values) if self._device is not None and self._device.holds(values) else values


def _cells_of_casa(pixels: int) -> int:
    """How many cells CASA's gridders have for so many pixels: a fifth more, a number that is quick to transform."""
    cells = int(1.2 * pixels - 0.5)
    while cells % 2 or not _is_quick(cells):
        cells += 1
    return cells


def _is_quick(number: int) -> bool:
    for prime in (2, 3, 5):
        while number % prime == 0:
            number //= prime
    return number == 1


def _radians(direction: Record) -> tuple[float, float]:
    """The sides of a pixel."""
    width, height = (
        abs(float(size)) * RADIANS[unit] for size, unit in zip(direction["cdelt"], direction["units"], strict=True)
    )
    return width, height


def _reference_frequency(arguments: Arguments, coordinates: Record) -> float:
    """Where the Taylor terms are expanded, in Hz: as CASA has it, at the frequency of the image unless it is told."""
    from casatools import quanta

    if asked := arguments.get("reffreq", ""):
        found: float = quanta().convert(asked, "Hz")["value"]
        return found
    return float(coordinates["spectral2"]["wcs"]["crval"])
