"""The window function of the Triton engine spreads and collects what it should."""

from __future__ import annotations

import numpy as np
import pytest

from surgeline.errors import BadInput
from surgeline.imaging.gpu.window import OVERSAMPLING, Window


@pytest.mark.parametrize("epsilon", [1e-2, 2e-3, 3e-4, 3e-5, 1e-5])
def test_spread_over_cells_and_corrected_a_wave_is_what_it_was(epsilon: float, random: np.random.Generator) -> None:
    window = Window.of(epsilon)
    where = random.uniform(-0.5, 0.5, (1000, 1))
    cells = np.arange(-window.support, window.support + 1)
    distance = (cells - where) * 2 / window.support
    spread = np.where(abs(distance) < 1, window.values(distance), 0)
    # In turns for each cell, as an image's pixels have them up to its edges.
    frequency = np.linspace(-0.5, 0.5, 41) / OVERSAMPLING
    wave = spread @ np.exp(2j * np.pi * np.outer(cells, frequency)) / window.transform(frequency)
    errors = np.sqrt((abs(wave - np.exp(2j * np.pi * where * frequency)) ** 2).mean(axis=0))
    # Of three axes that do so at once.
    assert errors.max() <= epsilon / np.sqrt(3)


@pytest.mark.parametrize("epsilon", [1e-2, 1e-5])
def test_the_correction_is_one_over_the_transform(epsilon: float, random: np.random.Generator) -> None:
    window = Window.of(epsilon)
    frequency = random.uniform(-0.5, 0.5, (30, 20)) / OVERSAMPLING
    frequency[0, :3] = 0, 0.5 / OVERSAMPLING, -0.5 / OVERSAMPLING
    assert window.correct(frequency) * window.transform(frequency) == pytest.approx(1, abs=1e-9)


def test_the_narrowest_window_is_taken() -> None:
    assert [Window.of(epsilon).support for epsilon in (0.1, 1e-3, 2e-4, 3e-5, 1e-5)] == [4, 5, 6, 7, 8]
    with pytest.raises(BadInput, match=r"triton cannot keep an error of 9e-06\.\n.*1e-05"):
        Window.of(9e-6)
