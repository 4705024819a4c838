"""Over how long self-calibration can solve: solution intervals from signal to noise, longest first."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

# What an asked interval may be called besides gaincal's own words: one solution for all scans together.
ALL_SCANS = "all"
# Each interval within a scan is about so many times shorter than the one before it.
_STEP = 3


@dataclass(frozen=True)
class Sampling:
    """What there is to solve with in an MS: its unflagged data.

    Attributes:
        integration: seconds.
        scans: how many integrations each scan has.
        antennas, polarisations: how many have data; of polarisations, only parallel hands count.
        noise: what an image of all of it would have by the noise of the visibilities alone, in Jy/beam.
    """

    integration: float
    scans: tuple[int, ...]
    antennas: int
    polarisations: int
    noise: float

    @property
    def seconds(self) -> float:
        """All scans together."""
        return self.integration * sum(self.scans)

    @property
    def scan_seconds(self) -> float:
        """The length of a scan (the median of all)."""
        return self.integration * statistics.median(self.scans) if self.scans else 0.0


@dataclass(frozen=True)
class Interval:
    """A solution interval.

    Attributes:
        solint: as gaincal's.
        seconds: how much data each solution has.
        across_scans: solve across the boundaries of scans.
    """

    solint: str
    seconds: float
    across_scans: bool = False

    def __str__(self) -> str:
        return "all scans together" if self.across_scans else self.solint


def signal_to_noise(peak: float, sampling: Sampling, seconds: float, gaintype: Literal["G", "T"]) -> float:
    """The expected signal to noise of one antenna's solution.

    An image of N antennas over a time T has the noise σ. The gain of one antenna is found from its baselines alone,
    over an interval t: its noise is σ √(N-3) √(T/t), and by polarisation (G rather than T) that times the root of
    their number; see Brogan, Hunter & Fomalont 2018, arXiv:1805.05266. σ is that of the visibilities: that of an
    image with errors of calibration is mostly those errors. The peak is what certainly is seen by all baselines;
    an extended source has more on the shorter ones.

    Args:
        peak: of the image, in Jy/beam.
        sampling: of the data that it was made from.
        seconds: the interval.
        gaintype: G solves for each polarisation, T for all together.
    """
    if sampling.noise <= 0.0 or sampling.seconds <= 0.0:
        return 0.0
    each = max(1, sampling.polarisations) if gaintype == "G" else 1
    share = min(1.0, seconds / sampling.seconds)
    return peak / sampling.noise * math.sqrt(share / (max(1, sampling.antennas - 3) * each))


def phase_intervals(sampling: Sampling) -> list[Interval]:
    """All scans together, a scan, then each a third of the one before, down to one integration."""
    intervals = slow_intervals(sampling)
    length = round(sampling.scan_seconds / sampling.integration) if sampling.integration else 0
    length = round(length / _STEP)
    while length > 1:
        seconds = length * sampling.integration
        intervals.append(Interval(f"{seconds:.6g}s", seconds))
        length = round(length / _STEP)
    if sampling.scan_seconds > sampling.integration:
        intervals.append(Interval("int", sampling.integration))
    return intervals


def slow_intervals(sampling: Sampling) -> list[Interval]:
    """All scans together, where there are several, and a scan: amplitudes change slowly."""
    together = [Interval("inf", sampling.seconds, across_scans=True)] if len(sampling.scans) > 1 else []
    return [*together, Interval("inf", sampling.scan_seconds)]


def asked_intervals(solints: Sequence[str], sampling: Sampling) -> list[Interval]:
    """Those that a recipe asks for: gaincal's solint, or `all` for all scans together."""
    found = []
    for solint in solints:
        if solint == ALL_SCANS:
            found.append(Interval("inf", sampling.seconds, across_scans=True))
        elif solint == "inf":
            found.append(Interval(solint, sampling.scan_seconds))
        elif solint == "int":
            found.append(Interval(solint, sampling.integration))
        else:
            found.append(Interval(solint, in_seconds(solint)))
    return found


def in_seconds(solint: str) -> float:
    """A time such as 30s, 2.5min or 1h in seconds; a number alone is one of seconds.

    Raises:
        ValueError: it is no time.
    """
    for unit, seconds in (("min", 60.0), ("h", 3600.0), ("s", 1.0), ("", 1.0)):
        if solint.endswith(unit):
            value = float(solint.removesuffix(unit)) * seconds
            if value > 0.0:
                return value
            break
    raise ValueError(f"{solint!r} is no time")


def read_sampling(vis: str) -> Sampling:
    """Read what an MS has to solve with. Runs on a worker."""
    import numpy as np
    from casatools import table

    scans: dict[int, set[float]] = {}
    antennas: set[int] = set()
    hands: set[int] = set()
    intervals: list[float] = []
    weight = 0.0
    with closing(table()) as main:
        main.open(vis)
        parts = np.unique(np.stack([main.getcol("SCAN_NUMBER"), main.getcol("DATA_DESC_ID")]), axis=1).T
        for scan, description in parts.tolist():
            query = (
                f"SCAN_NUMBER=={scan} && DATA_DESC_ID=={description} && ANTENNA1!=ANTENNA2 && !FLAG_ROW "
                "ORDERBY ANTENNA1, ANTENNA2, TIME"
            )
            with closing(main.query(query)) as rows:
                if not rows.nrows():
                    continue
                # Of four correlations the first and the last are parallel hands.
                flags = rows.getcol("FLAG")
                flags = flags[:: max(1, len(flags) - 1)]
                data = rows.getcol("DATA")
                data = data[:: max(1, len(data) - 1)]
                first, second, times = (rows.getcol(name) for name in ("ANTENNA1", "ANTENNA2", "TIME"))
                usable = ~flags.all(axis=(0, 1))
                intervals += rows.getcol("INTERVAL")[usable].tolist()
            scans.setdefault(scan, set()).update(times[usable].tolist())
            antennas.update(first[usable].tolist(), second[usable].tolist())
            hands.update(np.flatnonzero(~flags.all(axis=(1, 2))).tolist())
            weight += _weight(data, flags, first * (second.max() + 1) + second)
    return Sampling(
        integration=statistics.median(intervals) if intervals else 0.0,
        scans=tuple(len(times) for times in scans.values() if times),
        antennas=len(antennas),
        polarisations=len(hands),
        noise=1.0 / math.sqrt(weight) if weight else 0.0,
    )


def _weight(data: Any, flags: Any, baselines: Any) -> float:
    """The sum of 1/σ² of some visibilities, whose rows are in the order of baselines and times.

    The noise of each baseline is that of the differences between successive integrations, in which neither the
    source nor gains that change slowly are left.
    """
    import numpy as np

    same = (baselines[1:] == baselines[:-1]) & ~(flags[..., 1:] | flags[..., :-1])
    # A difference of two complex numbers has four times the variance of one real part.
    squares = np.where(same, np.abs(data[..., 1:] - data[..., :-1]) ** 2, 0.0).sum(axis=(0, 1)) / 4.0
    numbers, position = np.unique(baselines, return_inverse=True)

    def by_baseline(values: Any, of: Any) -> Any:
        return np.bincount(of, weights=values, minlength=len(numbers))

    pairs = by_baseline(same.sum(axis=(0, 1)), position[1:])
    variance = by_baseline(squares, position[1:]) / np.maximum(pairs, 1)
    samples = by_baseline((~flags).sum(axis=(0, 1)), position)
    measured = (pairs > 0) & (variance > 0)
    return float((samples[measured] / variance[measured]).sum())
