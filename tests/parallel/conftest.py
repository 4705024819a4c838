"""What tests of backends share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vis(casa: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small simulated MS."""
    from surgeline.simulate import Simulation, simulate

    path = tmp_path_factory.mktemp("observation") / "simulated.ms"
    simulate(path, Simulation(antennas=8, channels=8, target_scans=1, seed=4))
    return path
