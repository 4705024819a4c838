"""Makes small observations whose truth is known: a VLA-like array, two calibrators and a target.

The casatools simulator lays out the MeasurementSet (times, uvw, subtables); the visibilities are computed
here with numpy, because `sm.predict` is several times slower. There is no polarisation and no smearing, and no
primary beam unless the target has several pointings, so that what the truth says is exactly what a perfect
reduction finds.
"""

from surgeline.simulate.fields import primary_beam_arcsec
from surgeline.simulate.observation import simulate
from surgeline.simulate.simulation import Simulation

__all__ = ["Simulation", "primary_beam_arcsec", "simulate"]
