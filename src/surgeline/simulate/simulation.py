"""What to simulate, and when what is observed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgeline.errors import BadInput

CORRELATIONS = 2  # RR and LL
_SLEW_SECONDS = 20.0
# The phase calibrator is at hour angle -3.9 h, 31 degrees high, at the start of so long an observation.
_LONGEST_SECONDS = 7 * 3600.0
_LOWEST_FREQUENCY, _HIGHEST_FREQUENCY = 50e6, 50e9
# The fields' numbers; of a mosaic, further pointings follow the first.
FLUX, PHASE, FIRST_POINTING = range(3)
_LIMITS = {
    "antennas": (4, 27),
    "spectral_windows": (1, 64),
    "channels": (1, 16384),
    "start_frequency_hz": (_LOWEST_FREQUENCY, _HIGHEST_FREQUENCY),
    "channel_width_hz": (1, 1e9),
    "integration_seconds": (0.1, 600),
    "flux_scan_seconds": (0.1, _LONGEST_SECONDS),
    "phase_scan_seconds": (0.1, _LONGEST_SECONDS),
    "target_scan_seconds": (0.1, _LONGEST_SECONDS),
    "target_scans": (1, 1000),
    "pointings": (1, 100),
    "phase_calibrator_jy": (1e-6, 1e6),
    "phase_calibrator_spectral_index": (-5, 5),
    "noise_jy": (0, 1e6),
    "gain_amplitude_scatter": (0, 1),
    "gain_phase_scatter_deg": (0, 180),
    "bandpass_scatter": (0, 1),
    "seed": (0, 2**63 - 1),
}


@dataclass(frozen=True)
class Simulation:
    """What to simulate. The noise is the rms of the real, and of the imaginary, part of one visibility.

    Gain amplitudes are constant in time and the same for all fields, so the flux scale carries over
    exactly; gain phases drift smoothly over hours. Both have the given scatter over antennas,
    polarisations and spectral windows. `line=False` leaves the spectral line out of the target,
    `intents=False` leaves the scan intents blank. With several `pointings` the target is a mosaic: fields TARGET_1,
    TARGET_2, ... from west to east, half a primary beam apart, each observed in each of the target's scans, with a
    further source north of each, and all of the sky seen through a primary beam, a Gaussian, in each. CASA takes
    another beam for the VLA unless it is told by tclean's `vptable`.

    Raises BadInput when a value makes no sense.
    """

    antennas: int = 15
    configuration: str = "D"
    spectral_windows: int = 1
    channels: int = 16
    start_frequency_hz: float = 1.40e9
    channel_width_hz: float = 1e6
    integration_seconds: float = 10.0
    flux_scan_seconds: float = 120.0
    phase_scan_seconds: float = 60.0
    target_scan_seconds: float = 300.0
    target_scans: int = 2
    pointings: int = 1
    phase_calibrator_jy: float = 2.5
    phase_calibrator_spectral_index: float = 0.0
    noise_jy: float = 0.1
    gain_amplitude_scatter: float = 0.1
    gain_phase_scatter_deg: float = 40.0
    bandpass_scatter: float = 0.05
    line: bool = True
    intents: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        for name, (least, most) in _LIMITS.items():
            if not least <= getattr(self, name) <= most:
                problem = f"cannot simulate {name} = {getattr(self, name)}"
                raise BadInput(problem, f"give a number from {least:g} to {most:g}")
        if self.configuration not in ("A", "B", "C", "D"):
            raise BadInput(f"the VLA has no configuration {self.configuration!r}", "use A, B, C or D")
        if self.frequencies_hz(self.spectral_windows - 1)[-1] > _HIGHEST_FREQUENCY:
            problem = "the flux density of 3C286 is not known above 50 GHz, where the last channels are"
            raise BadInput(problem, "ask for fewer or narrower channels")
        if self.duration_seconds > _LONGEST_SECONDS:
            problem = f"the sources set during an observation of {self.duration_seconds / 3600:.1f} h"
            raise BadInput(problem, "ask for fewer or shorter scans: 7 h at most in all")

    @property
    def duration_seconds(self) -> float:
        """From the start of the first scan to the end of the last, in seconds."""
        last = list(schedule(self))[-1]
        return last.start_seconds + last.integrations * self.integration_seconds

    @property
    def data_bytes(self) -> int:
        """Size of the DATA column, which is nearly all of the MeasurementSet, in bytes."""
        integrations = sum(scan.integrations for scan in schedule(self))
        rows = integrations * self.spectral_windows * self.antennas * (self.antennas - 1) // 2
        return rows * self.channels * CORRELATIONS * np.dtype(np.complex64).itemsize

    def frequencies_hz(self, spectral_window: int) -> NDArray[np.float64]:
        """Channel centres of one spectral window, in Hz, in the frame of the telescope (TOPO)."""
        channel = np.arange(self.channels, dtype=np.float64) + spectral_window * self.channels
        return self.start_frequency_hz + channel * self.channel_width_hz


@dataclass(frozen=True)
class Scan:
    """A scan: of which field, and when it begins, in seconds after the first."""

    number: int
    field: int
    start_seconds: float
    integrations: int


def schedule(simulation: Simulation) -> Iterator[Scan]:
    """Flux calibrator, then phase calibrator and target's pointings in turn, ending with the phase calibrator."""
    lengths = (simulation.flux_scan_seconds, simulation.phase_scan_seconds, simulation.target_scan_seconds)
    start = 0.0
    pointings = range(FIRST_POINTING, FIRST_POINTING + simulation.pointings)
    for index, field in enumerate([FLUX, *[PHASE, *pointings] * simulation.target_scans, PHASE]):
        integrations = max(1, round(lengths[min(field, FIRST_POINTING)] / simulation.integration_seconds))
        yield Scan(index + 1, field, start, integrations)
        start += integrations * simulation.integration_seconds + _SLEW_SECONDS
