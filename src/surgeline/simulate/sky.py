"""What is in the sky of each field, and the visibilities of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from surgeline.simulate.fields import (
    ARCSEC,
    LIGHT_SPEED,
    TARGET,
    Field,
    direction_of,
    fields_of,
    offset_of,
    pointing_offsets,
    primary_beam_arcsec,
)
from surgeline.simulate.simulation import FIRST_POINTING, Simulation

# 3C286: log10 of its flux density in Jy as a polynomial in log10 of the frequency in GHz,
# from table 6 of Perley & Butler 2017, ApJS 230, 7; it holds from 50 MHz to 50 GHz.
_FLUX_CALIBRATOR_COEFFICIENTS = (1.2481, -0.4507, -0.1798, 0.0357)


@dataclass(frozen=True)
class Component:
    """A point (`fwhm_arcsec` 0) or a circular Gaussian, `l` arcsec east and `m` north of the field centre.

    It has either a continuum, log10(Jy) as a polynomial in log10(GHz), or a Gaussian line.
    """

    name: str
    l_arcsec: float = 0.0
    m_arcsec: float = 0.0
    fwhm_arcsec: float = 0.0
    log10_coefficients: tuple[float, ...] = ()
    line_peak_jy: float = 0.0
    line_centre_hz: float = 0.0
    line_fwhm_hz: float = 0.0

    def spectrum(self, frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
        """Flux density in Jy at each frequency."""
        if self.log10_coefficients:
            log10_ghz = np.log10(frequency_hz / 1e9)
            return np.asarray(10 ** np.polynomial.Polynomial(self.log10_coefficients)(log10_ghz))
        offset = (frequency_hz - self.line_centre_hz) / self.line_fwhm_hz
        return np.asarray(self.line_peak_jy * np.exp(-4 * math.log(2) * offset**2))

    def visibility(
        self, frequency_hz: NDArray[np.float64], uvw: NDArray[np.float64], primary_beam: bool
    ) -> NDArray[np.complex64]:
        """Visibility in Jy, (row, channel), for uvw in metres, (3, row), after Thompson, Moran & Swenson."""
        sky_l, sky_m = self.l_arcsec * ARCSEC, self.m_arcsec * ARCSEC
        below_tangent = math.sqrt(1 - sky_l**2 - sky_m**2) - 1
        path = uvw[0] * sky_l + uvw[1] * sky_m + uvw[2] * below_tangent
        # The phase is positive because the simulator's uvw are antenna 1 minus antenna 2.
        phase = np.outer(path, 2 * math.pi / LIGHT_SPEED * frequency_hz).astype(np.float32)
        spectrum = self.spectrum(frequency_hz)
        if primary_beam:
            distance = math.asin(math.hypot(sky_l, sky_m)) / ARCSEC / primary_beam_arcsec(frequency_hz)
            spectrum = spectrum * np.exp(-4 * math.log(2) * distance**2)
        amplitude = np.broadcast_to(spectrum, phase.shape)
        if self.fwhm_arcsec:
            size = math.pi * self.fwhm_arcsec * ARCSEC / (2 * math.sqrt(math.log(2)) * LIGHT_SPEED)
            amplitude = amplitude * np.exp(-np.outer(uvw[0] ** 2 + uvw[1] ** 2, (size * frequency_hz) ** 2))
        result = np.empty(phase.shape, np.complex64)
        result.real = amplitude * np.cos(phase)
        result.imag = amplitude * np.sin(phase)
        return result


def sky_of(simulation: Simulation, longest_baseline: float) -> list[list[Component]]:
    """The components of each field; offsets scale with the beam, to look alike in every configuration."""
    beam = LIGHT_SPEED / simulation.start_frequency_hz / longest_baseline / ARCSEC
    ghz = simulation.start_frequency_hz / 1e9

    def power_law(jansky: float, index: float) -> tuple[float, float]:
        return math.log10(jansky) - index * math.log10(ghz), index

    phase_law = power_law(simulation.phase_calibrator_jy, simulation.phase_calibrator_spectral_index)
    target = [
        Component("north-east", 8 * beam, 5 * beam, log10_coefficients=power_law(0.30, -0.7)),
        Component("north-west", -6 * beam, 9 * beam, log10_coefficients=power_law(0.15, -0.7)),
        Component("south", 3 * beam, -10 * beam, log10_coefficients=power_law(0.08, 0.0)),
    ]
    if simulation.line:
        frequencies = simulation.frequencies_hz(simulation.spectral_windows // 2)
        target.append(
            Component(
                "line",
                -3 * beam,
                -2 * beam,
                fwhm_arcsec=1.5 * beam,
                line_peak_jy=0.5,
                line_centre_hz=float(frequencies[simulation.channels // 2]),
                line_fwhm_hz=min(4.0, simulation.channels / 3) * simulation.channel_width_hz,
            )
        )
    flux = Component("3C286", log10_coefficients=_FLUX_CALIBRATOR_COEFFICIENTS)
    if simulation.pointings > 1:
        target += [
            Component(f"pointing {number + 1}", east, 4 * beam, log10_coefficients=power_law(0.05, 0.0))
            for number, east in enumerate(pointing_offsets(simulation))
        ]
    pointings = [
        [_seen_from(pointing, component) for component in target]
        for pointing in fields_of(simulation)[FIRST_POINTING:]
    ]
    return [[flux], [Component("J1445+0958", log10_coefficients=phase_law)], *pointings]


def _seen_from(pointing: Field, component: Component) -> Component:
    """A component of the target, its offset counted from the centre of a pointing."""
    if pointing == TARGET:
        return component
    east, north = offset_of(pointing, direction_of(TARGET, component.l_arcsec, component.m_arcsec))
    return replace(component, l_arcsec=east, m_arcsec=north)
