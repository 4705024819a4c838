"""What a job needs of the machine that runs it."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, NonNegativeInt, PositiveInt

_UNITS = {
    "": 1,
    "K": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
}


def parse_bytes(amount: Any) -> Any:
    """Turn `8GB`, `512 MiB` or a number into bytes; anything else is passed on for pydantic to refuse.

    Raises:
        ValueError: the text is no amount of memory.
    """
    if not isinstance(amount, str):
        return amount
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([KMGT]?I?)B?\s*", amount.upper())
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{amount!r} is no amount of memory; write 8GB, 512MiB or a number of bytes")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_walltime(duration: Any) -> Any:
    """Turn `1:30:00` or `90m` into seconds; anything else is passed on for pydantic to refuse.

    Raises:
        ValueError: the text is no duration.
    """
    if not isinstance(duration, str):
        return duration
    if match := re.fullmatch(r"(\d+):([0-5]\d):([0-5]\d)", duration):
        hours, minutes, seconds = (int(part) for part in match.groups())
        return hours * 3600 + minutes * 60 + seconds
    if match := re.fullmatch(r"(\d+)\s*([smhd])", duration):
        return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
    raise ValueError(f"{duration!r} is no duration; write 1:30:00, 90m or a number of seconds")


class Resources(BaseModel):
    """What a job needs: cores, memory (bytes), GPUs, walltime (seconds)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cores: PositiveInt = 1
    memory: Annotated[PositiveInt, BeforeValidator(parse_bytes)] | None = None
    gpus: NonNegativeInt = 0
    walltime: Annotated[PositiveInt, BeforeValidator(parse_walltime)] | None = None

    def fits(self, capacity: Resources) -> bool:
        """Whether `capacity` has what is asked for here; memory and walltime that it does not say are no limit."""
        return (
            self.cores <= capacity.cores
            and self.gpus <= capacity.gpus
            and (self.memory is None or capacity.memory is None or self.memory <= capacity.memory)
            and (self.walltime is None or capacity.walltime is None or self.walltime <= capacity.walltime)
        )

    def __str__(self) -> str:
        parts = [f"{self.cores} core" + ("s" if self.cores > 1 else "")]
        if self.memory:
            parts.append(f"{self.memory / 1e9:.3g} GB")
        if self.gpus:
            parts.append(f"{self.gpus} GPU" + ("s" if self.gpus > 1 else ""))
        if self.walltime:
            parts.append(f"{self.walltime} s")
        return ", ".join(parts)
