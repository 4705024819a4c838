"""What may grid an image: CASA's imager, or an engine on a CPU or a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from surgeline.errors import JobFailed
from surgeline.work.resources import Resources

Engine = Literal["casa", "cpu", "gpu"]
Otherwise = Literal["cpu"]


@dataclass(frozen=True)
class Gridding:
    """What grids an image.

    Attributes:
        engine: casa is CASA's own imager, cpu ducc0 on a CPU, gpu our own kernels on a GPU.
        otherwise: what does it where there is no GPU, or it fails; None for an error.
        reason: why not what was asked for; empty where it is that.
    """

    engine: Engine = "casa"
    otherwise: Otherwise | None = None
    reason: str = ""

    def instead(self, reason: str) -> Gridding:
        """What grids where this cannot, and why.

        Raises:
            JobFailed: nothing may.
        """
        if self.otherwise is None:
            raise JobFailed(
                f"engine={self.engine!r} cannot be had: {reason}",
                "give its jobs a worker with a GPU, or allow otherwise: cpu",
            )
        return Gridding(self.otherwise, reason=reason)

    @property
    def told(self) -> str:
        """Why it is this engine."""
        return self.reason or "it was asked for"

    @property
    def resources(self) -> Resources:
        """What a job that grids has to have."""
        return Resources(gpus=1 if self.engine == "gpu" else 0)


CASA = Gridding()
