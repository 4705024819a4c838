from __future__ import annotations

import math

import pytest

from surgeline.report import units


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (units.right_ascension(359.9999999), "00:00:00.000"),
        (units.declination(-0.5), "-00:30:00.00"),
        (units.duration(99.96), "1 min 40 s"),
        (units.duration(3599.7), "1 h 00 min"),
        (units.significant(math.nan), "–"),
        (units.significant(0.000012345), "1.23e-05"),
        (units.with_error(2.5, 0.0), "2.500"),
        (units.flux_scale("Jy/beam km/s", 0.02), (1e3, "mJy/beam km/s")),
        (units.flux_scale("km/s", 0.02), (1.0, "km/s")),
    ],
)
def test_numbers_are_written_as_the_field_writes_them(written: object, expected: object) -> None:
    assert written == expected
