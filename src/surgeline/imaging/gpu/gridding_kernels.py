"""Kernels: which tile a visibility belongs to, and where in it; tiles of visibilities to cells, and back.

A tile is a block of cells at which windows of visibilities begin. With the cells that these windows reach it is
ACROSS × ACROSS cells of u and v, times DEEP planes of w; what a tile's visibilities are there is a product of two
matrices: the windows along w and u, times the visibilities with their windows along v. It is summed in registers, and
added to the planes once. Positions are computed in float64 and kept in fixed point, since float32 would miss the
phases at the edge of a large image; the values are float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Cells of a tile with what its windows reach along u and along v, and its planes.
ACROSS = tl.constexpr(16)
DEEP = tl.constexpr(8)
# So many bits of a position in a tile are of the fraction of a cell, and so much is a cell: ACROSS of them fit.
FRACTION = tl.constexpr(26)
CELL = tl.constexpr(1 << 26)
# Numbers that change from call to call: a kernel is not compiled anew for those that 16 divides, or for 1.
_OF_ROWS, _OF_PIECES = ["count", "channels"], ["visibilities", "first_piece", "begin", "end"]


@triton.jit
def coordinates(index, uvw, wavenumber, scales, channels, W_TERM: tl.constexpr):
    """Where visibilities lie, in cells and planes, their turns to the image's centre, and which are mirrored."""
    row = index // channels
    waves = tl.load(wavenumber + index % channels)
    u = tl.load(uvw + 3 * row) * waves
    v = tl.load(uvw + 3 * row + 1) * waves
    w = tl.load(uvw + 3 * row + 2) * waves
    mirrored = w < 0
    side = tl.where(mirrored, -1.0, 1.0)
    u, v, w = u * side, v * side, w * side
    turns = u * tl.load(scales + 4) + v * tl.load(scales + 5)
    plane = tl.zeros_like(w)
    if W_TERM:
        turns -= w * tl.load(scales + 6)
        plane += (w - tl.load(scales + 3)) * tl.load(scales + 2)
    return u * tl.load(scales), v * tl.load(scales + 1), plane, turns, mirrored


@triton.jit
def begins(position, cells, SUPPORT: tl.constexpr):
    """The first cell of the windows of visibilities, on an axis whose end is followed by its beginning."""
    first = tl.ceil(position - SUPPORT / 2)
    return (first - tl.floor(first / cells) * cells).to(tl.int64)


@triton.jit
def corner(tile, tiles_u, tiles_v, SUPPORT: tl.constexpr):
    """The first cells and the first plane of tiles."""
    step = ACROSS + 1 - SUPPORT
    return tile // tiles_v % tiles_u * step, tile % tiles_v * step, tile // tiles_v // tiles_u * (DEEP + 1 - SUPPORT)


@triton.jit
def fixed(position, first, cells):
    """Positions in fixed point from a tile's first cell, on an axis whose end is followed by its beginning."""
    distance = position - first
    distance -= tl.floor(distance / cells + 0.5) * cells
    return tl.floor(distance * CELL + 0.5).to(tl.int32)


@triton.jit(do_not_specialize=_OF_ROWS)
def find_tiles(
    tile, uvw, wavenumber, scales, count, channels, cells_u, cells_v, tiles_u, tiles_v,
    SUPPORT: tl.constexpr, W_TERM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Say of each visibility which tile it belongs to; tiles are numbered along v, then u, then w."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = index < count
    u, v, plane, _, _ = coordinates(tl.minimum(index, count - 1), uvw, wavenumber, scales, channels, W_TERM)
    number = begins(u, cells_u, SUPPORT) // (ACROSS + 1 - SUPPORT)
    if W_TERM:
        number += tl.ceil(plane - SUPPORT / 2).to(tl.int64) // (DEEP + 1 - SUPPORT) * tiles_u
    number = number * tiles_v + begins(v, cells_v, SUPPORT) // (ACROSS + 1 - SUPPORT)
    tl.store(tile + index, number.to(tile.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=_OF_ROWS)
def place_in_tiles(
    order, place, turn, tile, uvw, wavenumber, scales, count, channels, cells_u, cells_v, planes, tiles_u, tiles_v,
    SUPPORT: tl.constexpr, W_TERM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Say of each visibility, in the order of their tiles, where in its tile it is.

    `place` has rows for u, v and w, `turn` for the cosine and the sine of the turn to the image's centre. The numbers
    in `order` of those that are mirrored become their complements, which are negative.
    """
    number = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = number < count
    # What is not there is computed as the last one, and not stored.
    taken = tl.minimum(number, count - 1)
    index = tl.load(order + taken).to(tl.int64)
    u, v, plane, turns, mirrored = coordinates(index, uvw, wavenumber, scales, channels, W_TERM)
    first_u, first_v, first_plane = corner(tl.load(tile + taken).to(tl.int64), tiles_u, tiles_v, SUPPORT)
    tl.store(place + number, fixed(u, first_u, cells_u), mask=there)
    tl.store(place + count + number, fixed(v, first_v, cells_v), mask=there)
    tl.store(place + 2 * count + number, fixed(plane, first_plane, 2 * planes + 2 * DEEP), mask=there)
    angle = (turns - tl.floor(turns + 0.5)).to(tl.float32) * 6.283185307179586
    tl.store(turn + number, tl.cos(angle), mask=there)
    tl.store(turn + count + number, tl.sin(angle), mask=there)
    tl.store(order + number, tl.where(mirrored, -1 - index, index).to(order.dtype.element_ty), mask=there)


@triton.jit
def whole_and_rest(place):
    """The nearest cells of positions, and how far they are from there."""
    whole = (place + CELL // 2) >> FRACTION
    return whole.to(tl.float32), (place - whole * CELL).to(tl.float32) * (1 / CELL)


@triton.jit
def window(whole, rest, cells, SUPPORT: tl.constexpr, COEFFICIENTS: tl.constexpr):
    """The values of the windows of visibilities at some cells."""
    # Whole cells are exact in float32, so that only the rest of the position is rounded.
    distance = (cells.to(tl.float32) - whole - rest) * (2 / SUPPORT)
    reduced = 2 * distance * distance - 1
    value = reduced * COEFFICIENTS[11] + COEFFICIENTS[10]
    for term in tl.static_range(1, 11):
        value = value * reduced + COEFFICIENTS[10 - term]
    return tl.where(reduced < 1, value, 0.0)


@triton.jit
def cells_of_tile(tile, tiles_u, tiles_v, cells_u, cells_v, begin, end, SUPPORT: tl.constexpr, W_TERM: tl.constexpr):
    """Where the real and imaginary parts of a tile's cells are in the planes from `begin` to `end`, and which are."""
    first_u, first_v, first_plane = corner(tile, tiles_u, tiles_v, SUPPORT)
    if W_TERM:
        across = tl.arange(0, DEEP * ACROSS)
    else:
        across = tl.arange(0, ACROSS)
    parts = tl.arange(0, 2 * ACROSS)
    plane = first_plane + across // ACROSS
    u = first_u + across % ACROSS
    u = tl.where(u < cells_u, u, u - cells_u)
    v = first_v + parts // 2
    v = tl.where(v < cells_v, v, v - cells_v)
    line = ((plane - begin).to(tl.int64) * cells_u + u) * cells_v
    inside = (plane >= begin) & (plane < end)
    return (2 * line)[:, None] + (2 * v + parts % 2)[None, :], inside[:, None] & (parts >= 0)[None, :]


@triton.jit(do_not_specialize=_OF_PIECES)
def grid_tiles(
    planes, vis, weights, order, place, turn, first_of, count_of, tile_of,
    visibilities, first_piece, cells_u, cells_v, tiles_u, tiles_v, begin, end,
    SUPPORT: tl.constexpr, COEFFICIENTS: tl.constexpr, W_TERM: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add the visibilities of each piece of a tile to the planes from `begin` to `end`."""
    piece = first_piece + tl.program_id(0)
    first = tl.load(first_of + piece)
    count = tl.load(count_of + piece)
    cells = tl.arange(0, ACROSS)
    if W_TERM:
        total = tl.zeros((DEEP * ACROSS, 2 * ACROSS), dtype=tl.float32)
    else:
        total = tl.zeros((ACROSS, 2 * ACROSS), dtype=tl.float32)
    for done in range(0, count, BLOCK):
        there = done + tl.arange(0, BLOCK) < count
        number = first + done + tl.arange(0, BLOCK)
        index = tl.load(order + number, mask=there, other=0).to(tl.int64)
        side = tl.where(index < 0, -1.0, 1.0)
        index = tl.where(index < 0, -1 - index, index)
        real = tl.load(vis + 2 * index, mask=there, other=0.0)
        imaginary = tl.load(vis + 2 * index + 1, mask=there, other=0.0) * side
        if WEIGHTED:
            weight = tl.load(weights + index, mask=there, other=0.0)
            # A value without weight may be anything.
            real = tl.where(weight == 0, 0.0, real) * weight
            imaginary = tl.where(weight == 0, 0.0, imaginary) * weight
        cosine = tl.load(turn + number, mask=there, other=0.0)
        sine = tl.load(turn + visibilities + number, mask=there, other=0.0)
        whole_u, rest_u = whole_and_rest(tl.load(place + number, mask=there, other=0))
        whole_v, rest_v = whole_and_rest(tl.load(place + visibilities + number, mask=there, other=0))
        left = window(whole_u[None, :], rest_u[None, :], cells[:, None], SUPPORT, COEFFICIENTS)
        if W_TERM:
            whole, rest = whole_and_rest(tl.load(place + 2 * visibilities + number, mask=there, other=0))
            deep = window(whole[None, :], rest[None, :], tl.arange(0, DEEP)[:, None], SUPPORT, COEFFICIENTS)
            left = tl.reshape(deep[:, None, :] * left[None, :, :], (DEEP * ACROSS, BLOCK))
        across_v = window(whole_v[:, None], rest_v[:, None], cells[None, :], SUPPORT, COEFFICIENTS)
        turned = tl.join(
            (real * cosine - imaginary * sine)[:, None] * across_v,
            (real * sine + imaginary * cosine)[:, None] * across_v,
        )
        right = tl.reshape(turned, (BLOCK, 2 * ACROSS))
        total += tl.dot(left, right, input_precision=PRECISION)
    place_of, inside = cells_of_tile(
        tl.load(tile_of + piece), tiles_u, tiles_v, cells_u, cells_v, begin, end, SUPPORT, W_TERM
    )
    tl.atomic_add(planes + place_of, total, mask=inside, sem="relaxed")


@triton.jit(do_not_specialize=_OF_PIECES)
def degrid_tiles(
    planes, vis, weights, order, place, turn, first_of, count_of, tile_of,
    visibilities, first_piece, cells_u, cells_v, tiles_u, tiles_v, begin, end,
    SUPPORT: tl.constexpr, COEFFICIENTS: tl.constexpr, W_TERM: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add what the planes from `begin` to `end` are at the visibilities of each piece of a tile to them.

    It is the transpose of grid_tiles; visibilities without weight stay what they are.
    """
    piece = first_piece + tl.program_id(0)
    first = tl.load(first_of + piece)
    count = tl.load(count_of + piece)
    cells = tl.arange(0, ACROSS)
    place_of, inside = cells_of_tile(
        tl.load(tile_of + piece), tiles_u, tiles_v, cells_u, cells_v, begin, end, SUPPORT, W_TERM
    )
    values = tl.load(planes + place_of, mask=inside, other=0.0)
    for done in range(0, count, BLOCK):
        there = done + tl.arange(0, BLOCK) < count
        number = first + done + tl.arange(0, BLOCK)
        whole_u, rest_u = whole_and_rest(tl.load(place + number, mask=there, other=0))
        whole_v, rest_v = whole_and_rest(tl.load(place + visibilities + number, mask=there, other=0))
        left = window(whole_u[:, None], rest_u[:, None], cells[None, :], SUPPORT, COEFFICIENTS)
        if W_TERM:
            whole, rest = whole_and_rest(tl.load(place + 2 * visibilities + number, mask=there, other=0))
            deep = window(whole[:, None], rest[:, None], tl.arange(0, DEEP)[None, :], SUPPORT, COEFFICIENTS)
            left = tl.reshape(deep[:, :, None] * left[:, None, :], (BLOCK, DEEP * ACROSS))
        found = tl.dot(left, values, input_precision=PRECISION)
        real, imaginary = tl.split(tl.reshape(found, (BLOCK, ACROSS, 2)))
        across_v = window(whole_v[:, None], rest_v[:, None], cells[None, :], SUPPORT, COEFFICIENTS)
        real = tl.sum(real * across_v, axis=1)
        imaginary = tl.sum(imaginary * across_v, axis=1)
        cosine = tl.load(turn + number, mask=there, other=0.0)
        sine = tl.load(turn + visibilities + number, mask=there, other=0.0)
        index = tl.load(order + number, mask=there, other=0).to(tl.int64)
        side = tl.where(index < 0, -1.0, 1.0)
        index = tl.where(index < 0, -1 - index, index)
        if WEIGHTED:
            there = there & (tl.load(weights + index, mask=there, other=0.0) != 0)
        turned_real = real * cosine + imaginary * sine
        turned_imaginary = (imaginary * cosine - real * sine) * side
        turned_real += tl.load(vis + 2 * index, mask=there, other=0.0)
        turned_imaginary += tl.load(vis + 2 * index + 1, mask=there, other=0.0)
        tl.store(vis + 2 * index, turned_real, mask=there)
        tl.store(vis + 2 * index + 1, turned_imaginary, mask=there)
