"""What antennas do to visibilities: gains that drift, and bandpasses."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from surgeline.simulate.simulation import CORRELATIONS, Simulation


class Corruption:
    """Gains and bandpasses of every spectral window, antenna and polarisation."""

    def __init__(self, simulation: Simulation, random: np.random.Generator) -> None:
        shape = (simulation.spectral_windows, simulation.antennas, CORRELATIONS)
        self.amplitude = np.exp(simulation.gain_amplitude_scatter * random.standard_normal(shape))
        self._swing = math.radians(simulation.gain_phase_scatter_deg) * math.sqrt(2)
        self._rate = 2 * math.pi / random.uniform(1.5 * 3600, 3 * 3600, shape)  # nosec B311  # noise
        self._start = random.uniform(0, 2 * math.pi, shape)  # nosec B311  # noise
        # A few cosines over the band: smooth, as a receiver's bandpass is.
        order = np.arange(1, 4)
        weight = random.standard_normal((*shape, 3)) + 1j * random.standard_normal((*shape, 3))
        across = (np.arange(simulation.channels) + 0.5) / simulation.channels
        ripple = np.einsum("sapk,kc->sacp", weight / order, np.cos(math.pi * np.outer(order, across)))
        self.bandpass = np.exp(simulation.bandpass_scatter * ripple).astype(np.complex64)

    def gain(self, spectral_window: int, seconds: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Complex gains, (time, antenna, polarisation)."""
        turn = self._start[spectral_window] + self._rate[spectral_window] * seconds[:, None, None]
        phase = self._swing * np.sin(turn)
        return np.asarray(self.amplitude[spectral_window] * np.exp(1j * phase), dtype=np.complex64)
