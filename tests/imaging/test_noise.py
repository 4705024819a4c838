"""The noise that images are cleaned down to."""

from __future__ import annotations

import math

import pytest

from surgeline.errors import DataError
from surgeline.imaging.synthesis import threshold_at, typical_noise


def test_an_image_without_a_valid_pixel_has_no_noise_to_clean_down_to() -> None:
    assert math.isnan(typical_noise([]))
    assert threshold_at(4.0, typical_noise([1e-3, 2e-3, 9e-3]), "my") == "0.008Jy"
    with pytest.raises(DataError, match=r"no pixel of my is valid"):
        threshold_at(4.0, typical_noise([]), "my")
