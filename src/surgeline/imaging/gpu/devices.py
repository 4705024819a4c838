"""The GPU that there is, and what goes wrong with it in words that help."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec

from surgeline.errors import JobFailed
from surgeline.imaging.gpu.arrays import Device, InterpretedDevice, TorchDevice


class GpuError(JobFailed):
    """The GPU is absent, was lost, or has not enough memory; a CPU may do the same."""


def there_is_a_gpu() -> bool:
    """Whether this computer has a GPU, and the packages that it is used with."""
    return not _what_is_missing()


def the_device() -> Device:
    """The GPU of this computer; where TRITON_INTERPRET=1 is set, Triton's interpreter, slowly on a CPU.

    Raises:
        GpuError: there is none, or a package that it is used with is not installed.
    """
    if _interpreted():
        return _interpreted_device()
    missing = _what_is_missing()
    if missing:
        raise GpuError(f"No GPU can be used: {missing}.", "Image with the engine ducc0, or on a worker with a GPU.")
    with gpu_errors("The GPU"):
        return _torch_device()


@contextmanager
def gpu_errors(name: str) -> Iterator[None]:
    """What goes wrong on a GPU inside the block, told as such.

    Arguments:
        name: what the errors call the device.

    Raises:
        GpuError: the GPU was lost, or has not enough memory.
    """
    try:
        yield
    except MemoryError as error:
        raise _out_of_memory(name, error) from error
    except RuntimeError as error:
        # torch and Triton raise kinds of RuntimeError, of which some versions have no more than the text.
        kinds = {kind.__name__ for kind in type(error).__mro__}
        text = str(error)
        if "OutOfMemoryError" in kinds or "out of memory" in text:
            raise _out_of_memory(name, error) from error
        if "AcceleratorError" in kinds or "CUDA error" in text or "cuFFT error" in text or "Triton Error" in text:
            raise GpuError(
                f"{name} was lost, or failed: {text.splitlines()[0]}",
                "Look at nvidia-smi, and start its worker anew; a CPU does the same by the engine ducc0.",
            ) from error
        raise


def _out_of_memory(name: str, error: Exception) -> GpuError:
    said = str(error).splitlines()
    return GpuError(
        f"{name} has not enough memory" + (f": {said[0]}" if said else "."),
        "Let no other process use it, image fewer pixels, use a larger GPU, or a CPU by the engine ducc0.",
    )


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def _interpreted_device() -> Device:
    return InterpretedDevice()


@cache
def _torch_device() -> Device:
    return TorchDevice()


@cache
def _what_is_missing() -> str:
    """What keeps this process from using a GPU; empty when nothing does."""
    for package in ("torch", "triton", "array_api_compat"):
        if find_spec(package) is None:
            return f"the package {package.replace('_', '-')} is not installed (pip install 'surgeline[gpu]')"
    import torch

    return "" if torch.cuda.is_available() else "torch finds none on this computer"
