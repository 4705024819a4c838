"""Visibilities sorted into tiles of the uvw grid, in pieces that one program of a kernel works on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgeline.imaging.gpu import gridding_kernels as kernels
from surgeline.imaging.gpu.arrays import Array, Device
from surgeline.imaging.gpu.geometry import SPEED_OF_LIGHT
from surgeline.imaging.gpu.uvwgrid import UvwGrid

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# The memory that is needed for each visibility while they are sorted, in bytes: found by counting arrays.
BYTES_TO_SORT = 80
# Visibilities that one program grids at the most, so that those of a full tile share its work, and that it places.
_PIECE, _BLOCK = 2048, 1024
# How kernels divide a piece further: visibilities at a time, and threads by 32. By what Triton makes of them for GPUs
# of the year 2022 on: more would not fit registers.
_AT_ONCE, _WARPS = 32, 4
# Products of float32 as sums of three products that tensor cores make: as exact as float32 is.
_PRECISION = "tf32x3"


@dataclass(frozen=True)
class Tiles:
    """Visibilities of some rows in the order of their tiles, and the tiles in pieces."""

    device: Device
    grid: UvwGrid
    # Of each visibility: its number, or the complement of that where it is mirrored; where in its tile it is; its
    # turn to the image's centre, as cosine and sine.
    order: Array
    place: Array
    turn: Array
    # Of each piece: its first visibility, how many, and its tile.
    first: Array
    count: Array
    tile: Array
    # Tiles along u and v, and the number of the first piece of each layer of tiles along w, and of all pieces.
    tiles: tuple[int, int]
    layers: NDArray[np.int64]

    @classmethod
    def of(cls, device: Device, grid: UvwGrid, uvw: NDArray[np.float64], frequency: NDArray[np.float64]) -> Tiles:
        """Sort the visibilities of some rows, of which there is at least one."""
        import numpy as np

        xp = device.xp
        count = len(uvw) * len(frequency)
        step = kernels.ACROSS.value + 1 - grid.window.support
        tiles = -(-grid.cells[0] // step), -(-grid.cells[1] // step)
        layers = -(-grid.planes // (kernels.DEEP.value + 1 - grid.window.support))
        small = np.iinfo(np.int32).max
        scales = device.array(np.array([*grid.density, grid.first_w, *grid.center]), xp.float64)
        of_rows = device.array(uvw, xp.float64), device.array(frequency / SPEED_OF_LIGHT, xp.float64), scales
        number = device.zeros((count,), xp.int32 if tiles[0] * tiles[1] * layers < small else xp.int64)
        constants = {"SUPPORT": grid.window.support, "W_TERM": grid.w_term, "BLOCK": _BLOCK}
        programs = (-(-count // _BLOCK),)
        sizes: tuple[int, ...] = (count, len(frequency), *grid.cells)
        device.launch(kernels.find_tiles, programs, number, *of_rows, *sizes, *tiles, **constants)
        order = xp.argsort(number, stable=True)
        number = xp.take(number, order)
        order = xp.astype(order, xp.int32 if count < small else xp.int64)
        first, in_piece, tile = _pieces(device, number)
        place, turn = device.zeros((3, count), xp.int32), device.zeros((2, count), xp.float32)
        device.launch(
            kernels.place_in_tiles, programs,
            order, place, turn, number, *of_rows, *sizes, grid.planes, *tiles, **constants,
        )  # fmt: skip
        begins = device.array(np.arange(layers + 1) * (tiles[0] * tiles[1]), tile.dtype)
        layer = device.host(xp.searchsorted(tile, begins)).astype(np.int64)
        return cls(device, grid, order, place, turn, first, in_piece, tile, tiles, layer)

    def add_to_planes(self, planes: Array, begin: int, vis: Array, weights: Array | None) -> None:
        """Add visibilities (rows, channels) times their weights to the planes from number `begin` on."""
        self._run(kernels.grid_tiles, planes, begin, vis, weights)

    def add_from_planes(self, planes: Array, begin: int, vis: Array, weights: Array | None) -> None:
        """Add what the planes from number `begin` on are to the visibilities that have weight."""
        self._run(kernels.degrid_tiles, planes, begin, vis, weights)

    def _run(self, kernel: Any, planes: Array, begin: int, vis: Array, weights: Array | None) -> None:
        window, deep = self.grid.window, kernels.DEEP.value
        end, step = begin + planes.shape[0], deep + 1 - window.support
        # The layers of tiles that reach one of these planes.
        from_layer, to_layer = max(0, -(-(begin - deep + 1) // step)), min(len(self.layers) - 1, -(-end // step))
        first, last = int(self.layers[from_layer]), int(self.layers[to_layer])
        planes, vis = self.device.parts(planes), self.device.parts(vis)
        self.device.launch(
            kernel, (last - first,), planes, vis, vis if weights is None else weights,
            self.order, self.place, self.turn, self.first, self.count, self.tile,
            self.order.shape[0], first, *self.grid.cells, *self.tiles, begin, end,
            SUPPORT=window.support, COEFFICIENTS=window.coefficients, W_TERM=self.grid.w_term,
            WEIGHTED=weights is not None, BLOCK=_AT_ONCE, PRECISION=_PRECISION, num_warps=_WARPS,
        )  # fmt: skip


def _pieces(device: Device, number: Array) -> tuple[Array, Array, Array]:
    """The pieces that sorted numbers of tiles make: first visibility, how many, and tile."""
    xp = device.xp
    count = number.shape[0]
    changes = xp.nonzero(number[1:] != number[:-1])[0] + 1
    edges = xp.concat([device.zeros((1,), xp.int64), changes, device.zeros((1,), xp.int64) + count])
    lengths = edges[1:] - edges[:-1]
    pieces = (lengths + (_PIECE - 1)) // _PIECE
    before = xp.cumulative_sum(pieces) - pieces
    which = xp.repeat(xp.arange(pieces.shape[0], device=number.device), pieces)
    within = xp.arange(which.shape[0], device=number.device) - xp.take(before, which)
    first = xp.take(edges, which) + within * _PIECE
    of_tile = xp.take(edges, which + 1) - first
    return first, xp.astype(xp.clip(of_tile, max=_PIECE), xp.int32), xp.take(number, first)
