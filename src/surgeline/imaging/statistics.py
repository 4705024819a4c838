"""What an image is like, in numbers."""

from __future__ import annotations

from contextlib import closing
from typing import Any


def measure(path: str) -> dict[str, Any]:
    """Shape, unit, extremes, mean and rms of an image's valid pixels (zeros if there are none). Runs on a worker."""
    from casatools import image

    with closing(image()) as tool:
        tool.open(path)
        shape = tuple(int(size) for size in tool.shape())
        unit = str(tool.brightnessunit())
        found = tool.statistics()
    return {"shape": shape, "unit": unit} | {
        name: float(found[key][0]) if len(found[key]) else 0.0
        for name, key in (("maximum", "max"), ("minimum", "min"), ("mean", "mean"), ("rms", "rms"))
    }
