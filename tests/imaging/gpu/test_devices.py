"""What goes wrong on a GPU is told in words that help; what is no fault of its is not taken for one."""

from __future__ import annotations

import pytest

from surgeline.imaging.gpu.devices import GpuError, gpu_errors


class OutOfMemoryError(RuntimeError):
    """As torch has it."""


class AcceleratorError(RuntimeError):
    """As torch has it."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), r"GPU 0 has not enough memory: .*2 GiB"),
        (MemoryError(), r"GPU 0 has not enough memory\."),
        (AcceleratorError("device-side assert"), "GPU 0 was lost, or failed: device-side assert"),
        (
            RuntimeError("CUDA error: unspecified launch failure\nCompile with…"),
            "lost, or failed: .*launch failure\n",
        ),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access"), "lost, or failed: .*illegal memory access"),
    ],
)
def test_a_gpu_that_is_full_or_lost_is_told_with_the_way_out(error: Exception, message: str) -> None:
    with pytest.raises(GpuError, match=message) as told, gpu_errors("GPU 0"):
        raise error
    assert "ducc0" in told.value.way_out


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ") as told, gpu_errors("GPU 0"):
        raise RuntimeError("shapes differ")
    assert type(told.value) is RuntimeError
