"""Simulated observations of the VLA with what the CASA Pipeline reads and simulations have not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

OBSERVATIONS = ("first.ms", "second.ms")
BAD_CHANNEL = 3


def observe(folder: Path) -> None:
    """Simulate two MSs, in each of which a channel is to be flagged; CASA has been set up in this process."""
    from casatools import table

    from surgeline.simulate import Simulation, simulate

    for number, name in enumerate(OBSERVATIONS):
        path = folder / name
        simulate(path, Simulation(antennas=8, channels=16, target_scans=1, seed=number))
        with closing(table()) as at_hand:
            at_hand.open(f"{path}/SPECTRAL_WINDOW", nomodify=False)
            at_hand.putcol("NAME", [f"EVLA_L#A0C0#{window}" for window in range(at_hand.nrows())])
            described = at_hand.getcoldesc("NAME") | {"valueType": "int"}
            if "BBC_NO" not in at_hand.colnames():
                at_hand.addcols({"BBC_NO": described})
            at_hand.putcol("BBC_NO", [12] * at_hand.nrows())
            at_hand.close()
            at_hand.open(f"{path}/OBSERVATION", nomodify=False)
            at_hand.putcol("TELESCOPE_NAME", ["EVLA"])
            at_hand.putcell("SCHEDULE", 0, ["SchedulingBlock uid://A/X/1", f"ExecBlock uid://A/X/{number + 2}"])
            at_hand.close()
            at_hand.open(str(path), nomodify=False)
            data = at_hand.getcol("DATA")
            data[:, BAD_CHANNEL] *= 100
            at_hand.putcol("DATA", data)
