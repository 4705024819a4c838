"""Automasks (usemask='auto-multithresh') of a cube's part, which CASA keeps inside one process from cycle to cycle.

CASA's deconvolver remembers four things between cycles: that iterations were done, the controls of the last minor
cycle, the mask of positive emission, and in which channels it stopped masking, as there was only noise. A part's jobs
may run in any process, so these are kept on disk, and a new deconvolver is brought to know them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from surgeline.imaging.cleaned import sides_of
from surgeline.imaging.cubeplanes import Part, cut_out, pixels_of, put_pixels
from surgeline.imaging.synthesis import Record, opened


def is_on(arguments: Mapping[str, Any]) -> bool:
    """Whether a cube is masked automatically."""
    return str(arguments.get("usemask", "user")) == "auto-multithresh"


def block_of(arguments: Mapping[str, Any]) -> int:
    """How many channels CASA masks at a time, with regions measured by the common beam of these."""
    width, height = sides_of(arguments)
    return max(10, int(8e6 / width / height))


def first_mask(part: Part, tool: Any, sidelobe: float) -> None:
    """Mask the dirty image, with a deconvolver that has seen it."""
    import numpy as np

    tool.setupmask()
    planes = pixels_of(f"{part.cleaning}.mask").shape[3]
    _keep(part, np.zeros(planes, dtype=bool), sidelobe)


def next_mask(part: Part, tool: Any, controls: Record, sidelobe: float, beam: Mapping[str, Any] | None) -> None:
    """Mask the residual of a major cycle.

    Args:
        part: the part; its mask is that of the cycle before.
        tool: a new deconvolver.
        controls: of the last minor cycle.
        sidelobe: the worst of the PSFs of the whole cube.
        beam: by which regions are measured.
    """
    import numpy as np

    stem = part.cleaning
    before = pixels_of(f"{stem}.mask")
    with np.load(f"{stem}.automask.npz") as known:
        positive, stopped = known["positive"], known["stopped"]
    _pretend_iterations(part, tool, controls)
    cut_out(part, "residual", beam=beam)
    put_pixels(f"{stem}.mask", before)
    _put_positive(part, positive)
    tool.setupmask()
    mask, found = pixels_of(f"{stem}.mask"), _positive(part)
    mask[..., stopped], found[..., stopped] = before[..., stopped], positive[..., stopped]
    put_pixels(f"{stem}.mask", mask)
    _put_positive(part, found)
    _keep(part, stopped, sidelobe)


def _pretend_iterations(part: Part, tool: Any, controls: Record) -> None:
    """Let the deconvolver do an iteration that subtracts nothing from an image that is not the part's."""
    import numpy as np

    stem = part.cleaning
    model = pixels_of(f"{stem}.model")
    point = np.zeros_like(model)
    point[tuple(size // 2 for size in point.shape[:2])] = 1.0
    put_pixels(f"{stem}.residual", point)
    put_pixels(f"{stem}.mask", point)
    tool.initminorcycle()
    once = {**controls, "cycleniter": 1, "cyclethreshold": 0.0, "loopgain": 0.0, "nsigma": 0.0}
    executed = tool.executeminorcycle(iterbotrecord=once)
    assert executed["iterdone"] > 0, "CASA's deconvolver did no iteration on a point source"
    put_pixels(f"{stem}.model", model)


def _keep(part: Part, stopped: Any, sidelobe: float) -> None:
    """Keep what the deconvolver has to know in the next cycle."""
    import numpy as np

    mask = pixels_of(f"{part.cleaning}.mask")
    empty = ~mask.any(axis=(0, 1, 2))
    if (empty & ~stopped).any():
        stopped = stopped | (empty & _only_noise(part, sidelobe))
    np.savez(f"{part.cleaning}.automask.npz", positive=_positive(part), stopped=stopped)


def _only_noise(part: Part, sidelobe: float) -> Any:
    """In which planes CASA's threshold is from the noise, not from sidelobes of the peak; holds where no mask is."""
    import numpy as np

    arguments = part.arguments
    region = f"'{part.cleaning}.pb' > {arguments['pbmask']}" if arguments.get("pbmask") else ""
    with opened(f"{part.cleaning}.residual") as tool:
        plain = tool.statistics(axes=[0, 1], mask=region, robust=True)
        robust = plain
        if not arguments.get("fastnoise", True):
            robust = tool.statistics(
                axes=[0, 1], mask=region, robust=True, algorithm="chauvenet", zscore=-1, maxiter=5
            )
    peak = np.maximum(abs(plain["max"]), abs(plain["min"])).astype(np.float32)
    sidelobes = np.float32(sidelobe) * np.float32(arguments.get("sidelobethreshold", 3.0)) * peak
    noise = np.float32(arguments.get("noisethreshold", 5.0)) * (1.4826 * robust["medabsdevmed"]).astype(np.float32)
    found = noise > sidelobes
    return found.all(axis=0) if found.ndim == 2 else found


@contextmanager
def _positive_mask(part: Part) -> Iterator[Any]:
    """The deconvolver's mask of positive emission, as a table: it is there as long as the deconvolver is."""
    from casatools import table

    with closing(table()) as tool:
        tool.open(f"{part.cleaning}.work.temp", nomodify=False, lockoptions={"option": "user"})
        tool.lock(True)
        try:
            yield tool
        finally:
            tool.unlock()


def _positive(part: Part) -> Any:
    with _positive_mask(part) as tool:
        return tool.getcell("map", 0)


def _put_positive(part: Part, pixels: Any) -> None:
    with _positive_mask(part) as tool:
        tool.putcell("map", 0, pixels)
