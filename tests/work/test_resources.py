from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from surgeline import Resources


@pytest.mark.parametrize(
    ("amount", "in_bytes"),
    [
        ("8GB", 8 * 10**9),
        ("8 GB", 8 * 10**9),
        ("8g", 8 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("512MiB", 2**29),
        ("2T", 2 * 10**12),
        ("4096", 4096),
        (4096, 4096),
        (None, None),
    ],
)
def test_memory_is_understood_as_people_write_it(amount: Any, in_bytes: int | None) -> None:
    assert Resources(memory=amount).memory == in_bytes


@pytest.mark.parametrize("amount", ["lots", "8 parsecs", "1.2.3GB", "-1GB", "0", "0GB", -5, "", "GB", 1.5])
def test_what_is_no_memory_is_refused(amount: Any) -> None:
    with pytest.raises(ValidationError):
        Resources(memory=amount)


@pytest.mark.parametrize(
    ("duration", "seconds"), [("1:30:00", 5400), ("90m", 5400), ("2h", 7200), ("1d", 86400), ("45 s", 45), (60, 60)]
)
def test_walltime_is_understood_as_people_write_it(duration: Any, seconds: int) -> None:
    assert Resources(walltime=duration).walltime == seconds


@pytest.mark.parametrize("duration", ["1:90:00", "soon", "90", "1.5h", 0, -1])
def test_what_is_no_walltime_is_refused(duration: Any) -> None:
    with pytest.raises(ValidationError):
        Resources(walltime=duration)


@pytest.mark.parametrize("wrong", [{"cores": 0}, {"gpus": -1}, {"nodes": 2}])
def test_other_wrong_resources_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Resources(**wrong)


def test_resources_are_told_as_people_read_them() -> None:
    assert str(Resources()) == "1 core"
    asked = Resources(cores=4, memory="8GB", gpus=2, walltime="1h")
    assert str(asked) == "4 cores, 8 GB, 2 GPUs, 3600 s"
