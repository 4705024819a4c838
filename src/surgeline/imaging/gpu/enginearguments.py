"""What of tclean's arguments the engines that grid can honour."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeline.errors import BadInput
from surgeline.imaging.cleaned import sides_of
from surgeline.imaging.gpu.engines import Gridding

# What the engines have of an argument of tclean's; the first is its default.
_CHOICES: dict[str, tuple[str, ...]] = {
    "specmode": ("mfs", "cont"),
    "gridder": ("standard", "wproject", "widefield"),
    "weighting": ("natural", "uniform", "briggs"),
    "stokes": ("I", "Q", "U", "V", "IV", "QU", "IQ", "UV", "IQU", "IUV", "IQUV"),
    "datacolumn": ("corrected", "data"),
}
# Arguments that have to be left as they are.
_LEFT_OUT: dict[str, tuple[Any, ...]] = {
    "outlierfile": ("",),
    "npixels": (0,),
    "uvtaper": ("", [], [""]),
}
_CASA = "leave engine out: CASA's imager does it"


def check_engine(arguments: Mapping[str, Any], gridding: Gridding) -> None:
    """Refuse what an engine cannot image, before any work starts.

    Raises:
        BadInput: naming the argument and what to do instead.
    """
    engine = gridding.engine
    if gridding.otherwise is not None and engine != "gpu":
        raise BadInput(
            f"otherwise={gridding.otherwise!r} is for engine='gpu', and it is {engine!r}", "leave otherwise out"
        )
    if engine == "casa":
        return
    if engine not in ("cpu", "gpu"):
        raise BadInput(f"engine={engine!r} is none that images", "choose one of casa, cpu, gpu")
    for name, known in _CHOICES.items():
        if str(arguments.get(name, known[0])) not in known:
            raise BadInput(
                f"engine={engine!r} has no {name}={arguments[name]!r}",
                f"choose one of {', '.join(known)}; or {_CASA}",
            )
    for name, values in _LEFT_OUT.items():
        if arguments.get(name, values[0]) not in values:
            raise BadInput(f"engine={engine!r} has no {name}={arguments[name]!r}", _CASA)
    width, height = sides_of(arguments)
    if width % 2 or height % 2:
        raise BadInput(
            f"engine={engine!r} makes no image of {width} × {height} pixels", "give it even numbers of pixels"
        )
