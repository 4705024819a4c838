"""The two kernels of every clean on a GPU: subtract a component and find the next peak; take that peak as component.

What a clean has come to stays on the GPU, so that many components can be asked for in a row; what is asked for after
the end does nothing.
"""

import triton
import triton.language as tl

# Numbers that change from call to call: a kernel is not compiled anew for those that 16 divides, or for 1.
_OF_PIXELS, _OF_COMPONENTS = ["count"], ["tiles", "iterations"]


@triton.jit(do_not_specialize=_OF_PIXELS)
def subtract_and_find(
    values,
    positions,
    usable,
    psf,
    component,
    component_position,
    ended,
    tile_peak,
    tile_place,
    count,
    rows,
    columns,
    LISTED: tl.constexpr,
    TILE: tl.constexpr,
):
    """Subtract the component's PSF from the values of one tile, and find the tile's greatest absolute value.

    values (float32) are pixels of an image of rows × columns: all of them in order, or where LISTED those that
    positions (int32) tell. usable (uint8) says of each value whether a component may be put there. component
    (float32), component_position and ended (int32) have one element each. The tile's peak goes to tile_peak, its
    place among the values to tile_place.
    """
    if tl.load(ended) == 0:
        place = tl.program_id(0) * TILE + tl.arange(0, TILE)
        inside = place < count
        value = tl.load(values + place, mask=inside, other=0.0)
        if LISTED:
            pixel = tl.load(positions + place, mask=inside, other=0)
        else:
            pixel = place
        centre = tl.load(component_position)
        row = pixel // columns - centre // columns + rows // 2
        column = pixel % columns - centre % columns + columns // 2
        reached = inside & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        beam = tl.load(psf + row * columns + column, mask=reached, other=0.0)
        value -= tl.load(component) * beam
        tl.store(values + place, value, mask=inside)

        allowed = tl.load(usable + place, mask=inside, other=0) != 0
        strength = tl.where(allowed, tl.abs(value), -1.0)
        # Of equal peaks the first one, as NumPy's argmax: the lowest place of a tile, and then the lowest tile.
        peak, best = tl.max(strength, axis=0, return_indices=True)
        tl.store(tile_peak + tl.program_id(0), peak)
        tl.store(tile_place + tl.program_id(0), tl.program_id(0) * TILE + best)


@triton.jit(do_not_specialize=_OF_COMPONENTS)
def take_component(
    values,
    positions,
    model,
    component,
    component_position,
    ended,
    done,
    first_peak,
    tile_peak,
    tile_place,
    tiles,
    gain,
    threshold,
    divergence,
    iterations,
    LISTED: tl.constexpr,
    TILES: tl.constexpr,
):
    """Make the greatest of the tiles' peaks the next component and add it to the model, or end the clean.

    Runs as one program. model (float32) has a place for each value; done, ended (int32) and first_peak (float32) have
    one element each. The clean ends where the peak is no more than threshold, where it is more than divergence times
    the first one, and after so many iterations.
    """
    if tl.load(ended) == 0:
        tile = tl.arange(0, TILES)
        strength = tl.load(tile_peak + tile, mask=tile < tiles, other=-1.0)
        peak, best = tl.max(strength, axis=0, return_indices=True)
        place = tl.load(tile_place + best)
        already = tl.load(done)
        if already == 0:
            tl.store(first_peak, peak)
        first = tl.where(already == 0, peak, tl.load(first_peak))
        if (peak <= threshold) | (peak > divergence * first) | (already >= iterations):
            tl.store(ended, 1)
        else:
            taken = gain * tl.load(values + place)
            tl.store(component, taken)
            if LISTED:
                tl.store(component_position, tl.load(positions + place))
            else:
                tl.store(component_position, place)
            tl.store(model + place, tl.load(model + place) + taken)
            tl.store(done, already + 1)
