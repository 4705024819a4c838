"""One component after another on a GPU: what Högbom's, Clark's and multi-scale clean have in common."""

from __future__ import annotations

from surgeline.imaging.gpu.arrays import Array, Device

# A clean whose peak grows to so many times the first one has gone wrong; radler's limit, too.
DIVERGENCE = 4.0

_TILE = 4096
_WARPS = 8
# Powers of two from here on, so that images up to 2048 pixels wide need one kernel.
_LEAST_TILES = 1024
# How many components are asked for before the host looks whether the clean has ended.
_AT_ONCE = 100


def clean_components(
    device: Device,
    values: Array,
    usable: Array,
    psf: Array,
    *,
    gain: float,
    threshold: float,
    iterations: int,
    positions: Array | None = None,
) -> tuple[Array, int]:
    """Clean pixels until the peak is no more than a threshold, after so many components, or when it diverges.

    Arguments:
        device: where the arrays live.
        values: of the pixels (float32); the components' PSFs are subtracted from them in place.
        usable: of each of the values, whether components may be put there (uint8).
        psf: an image, with its peak at the middle pixel (size // 2 along both axes).
        gain: what part of the peak a component takes.
        threshold: the peak, as an absolute value, where the clean ends.
        iterations: how many components there may be.
        positions: where the values lie in the image, counted row by row (int32); all of it in order if not told.

    Returns:
        The sum of the components at each of the values, and how many components they are.
    """
    import triton

    from surgeline.imaging.gpu.clean_kernels import subtract_and_find, take_component

    xp = device.xp
    rows, columns = psf.shape
    # What comes of a Fourier transform may lie in memory in another order than row by row.
    psf = device.array(psf)
    count = int(values.shape[0])
    model = device.zeros((count,), xp.float32)
    component, first_peak = device.zeros((1,), xp.float32), device.zeros((1,), xp.float32)
    # The first component is one of zero: nothing is subtracted, and the first peak is found.
    position, ended, done = (device.zeros((1,), xp.int32) for _ in range(3))
    tiles = triton.cdiv(count, _TILE)
    tile_peak, tile_place = device.zeros((tiles,), xp.float32), device.zeros((tiles,), xp.int32)
    listed = positions is not None
    # Where all pixels are cleaned in order the kernels do not read positions, but want an array.
    positions = positions if listed else position

    # One step more than there may be iterations: the one that subtracts the last component.
    for before in range(0, iterations + 1, _AT_ONCE):
        for _ in range(min(_AT_ONCE, iterations + 1 - before)):
            # Without fused multiply-adds a GPU's components are those of a CPU, bit by bit.
            device.launch(
                subtract_and_find,
                (tiles,),
                *(values, positions, usable, psf, component, position, ended, tile_peak, tile_place),
                *(count, rows, columns),
                LISTED=listed,
                TILE=_TILE,
                num_warps=_WARPS,
                enable_fp_fusion=False,
            )
            device.launch(
                take_component,
                (1,),
                *(values, positions, model, component, position, ended, done, first_peak, tile_peak, tile_place),
                *(tiles, gain, threshold, DIVERGENCE, iterations),
                LISTED=listed,
                TILES=max(_LEAST_TILES, triton.next_power_of_2(tiles)),
                num_warps=_WARPS,
                enable_fp_fusion=False,
            )
        if int(ended[0]) != 0:
            break
    return model, int(done[0])
