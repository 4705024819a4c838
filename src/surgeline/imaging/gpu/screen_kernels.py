"""Kernels: a transformed plane of w to the pixels of an image through the screen of its w, and pixels to a plane.

The screen is the phase that w makes in each pixel, beyond that in the middle of the range of n − 1. It is computed in
float64, since there may be many turns.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def pixels_of(width, height, cells, BLOCK: tl.constexpr):
    """The pixels of a program: their numbers, their places in the image, which are there, and where in a plane.

    Pixels that differ in their first place follow each other. The first cell of a plane is the image's middle.
    """
    begin = tl.program_id(0).to(tl.int64) * BLOCK
    # Numbers of 64 bits are divided once for all pixels, since that takes long.
    beyond = (begin % width).to(tl.int32) + tl.arange(0, BLOCK)
    index, i, j = begin + tl.arange(0, BLOCK), beyond % width, begin // width + beyond // width
    half = width // 2
    return index, i, j, j < height, j * cells + tl.where(i < half, i + cells - half, i - half)


@triton.jit
def screen(squares_l, squares_m, i, j, there, scales, plane):
    """The cosine and the sine of a plane's phase in pixels."""
    square = tl.load(squares_l + i, mask=there, other=0.0) + tl.load(squares_m + j, mask=there, other=0.0)
    n_less_one = -square / (1 + tl.sqrt(1 - square))
    w = tl.load(scales) + plane * tl.load(scales + 1)
    turns = (n_less_one - tl.load(scales + 2)) * w
    angle = (turns - tl.floor(turns + 0.5)).to(tl.float32) * 6.283185307179586
    return tl.cos(angle), tl.sin(angle)


@triton.jit(do_not_specialize=["number"])
def add_plane_to_image(
    image, plane, squares_l, squares_m, scales, number, width, height, cells,
    W_TERM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add what plane `number` is in each pixel to the image."""
    index, i, j, there, place = pixels_of(width, height, cells, BLOCK)
    value = tl.load(plane + 2 * place, mask=there, other=0.0)
    if W_TERM:
        cosine, sine = screen(squares_l, squares_m, i, j, there, scales, number)
        value = value * cosine + tl.load(plane + 2 * place + 1, mask=there, other=0.0) * sine
    tl.store(image + index, tl.load(image + index, mask=there, other=0.0) + value, mask=there)


@triton.jit(do_not_specialize=["number"])
def put_image_on_plane(
    image, plane, squares_l, squares_m, scales, number, width, height, cells,
    W_TERM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Put each pixel on plane `number`, which is zero elsewhere."""
    index, i, j, there, place = pixels_of(width, height, cells, BLOCK)
    value = tl.load(image + index, mask=there, other=0.0)
    if W_TERM:
        cosine, sine = screen(squares_l, squares_m, i, j, there, scales, number)
        tl.store(plane + 2 * place + 1, value * sine, mask=there)
        value *= cosine
    tl.store(plane + 2 * place, value, mask=there)
