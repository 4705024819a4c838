"""Where arrays live, how they get there and back, and how a kernel runs on them.

What computes is written once, against the array API: `device.xp` is the namespace of the arrays of a device. They are
torch's on a GPU. In Triton's interpreter (TRITON_INTERPRET=1) they are NumPy's, and kernels run on them one after
another on the CPU: slow, and good for trying out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# NumPy's, or of a GPU.
Array = Any


class Device(ABC):
    """One place where arrays live and kernels run."""

    # The namespace of its arrays, as the array API has it.
    xp: Any
    # What errors call it.
    name: str

    @abstractmethod
    def array(self, values: Any, kind: Any = None) -> Array:
        """An array here of values from anywhere, of one of xp's types; what is here already is not copied."""

    @abstractmethod
    def host(self, array: Array) -> NDArray[np.generic]:
        """An array of this device as one of NumPy's."""

    @abstractmethod
    def zeros(self, shape: tuple[int, ...], kind: Any) -> Array:
        """An array here that is full of zeros."""

    @abstractmethod
    def parts(self, array: Array) -> Array:
        """A complex array as one of real numbers, with the real and the imaginary parts along one more axis."""

    @abstractmethod
    def holds(self, array: Any) -> bool:
        """Whether an array is one of a GPU, so that what is computed of it should stay there."""

    @abstractmethod
    def free_bytes(self) -> int:
        """How much memory there is for more arrays."""

    @abstractmethod
    def brought(self, pieces: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Array, ...]]:
        """Arrays of the host, group after group, here: the next group is copied while one is worked on.

        What is here already stays, and so does None.
        """

    @abstractmethod
    def launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        """Run a kernel of Triton's on arrays of this device; does nothing where the grid is empty.

        Arguments:
            grid: how many programs there are along each of up to three axes.
            arguments: of the kernel in their order, arrays and numbers.
            constants: its compile-time constants, num_warps and num_stages.
        """


class InterpretedDevice(Device):
    """This computer's own memory, with kernels in Triton's interpreter."""

    name = "Triton's interpreter"
    # Nothing large is done here.
    _BYTES = 1 << 30

    def __init__(self) -> None:
        import array_api_compat.numpy as xp

        self.xp = xp

    def array(self, values: Any, kind: Any = None) -> Array:
        return self.xp.asarray(values, dtype=kind, order="C")

    def host(self, array: Array) -> NDArray[np.generic]:
        found: NDArray[np.generic] = array
        return found

    def zeros(self, shape: tuple[int, ...], kind: Any) -> Array:
        return self.xp.zeros(shape, dtype=kind)

    def parts(self, array: Array) -> Array:
        return array.view(self.xp.float32).reshape(*array.shape, 2)

    def holds(self, array: Any) -> bool:
        return False

    def free_bytes(self) -> int:
        return self._BYTES

    def brought(self, pieces: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Array, ...]]:
        yield from pieces

    def launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        import numpy as np

        if 0 not in grid:
            kernel[grid](*(_Pointed(one) if isinstance(one, np.ndarray) else one for one in arguments), **constants)


class _Pointed:
    """One of NumPy's arrays as the interpreter wants it, which knows torch's alone: it is its own storage."""

    def __init__(self, array: NDArray[np.generic]) -> None:
        assert array.flags.c_contiguous
        self._array = array
        self.dtype = str(array.dtype)

    def data_ptr(self) -> int:
        return self._array.ctypes.data

    def untyped_storage(self) -> _Pointed:
        return self

    def cpu(self) -> _Pointed:
        return self

    def new_empty(self, *_: Any, **__: Any) -> _Pointed:
        return _Pointed(self._array)

    def set_(self, *_: Any) -> None:
        """The copy for the interpreter is this array itself."""

    def copy_(self, _: _Pointed) -> None:
        """Nothing has to come back."""

    def storage_offset(self) -> int:
        return 0

    def size(self) -> tuple[int, ...]:
        return self._array.shape

    def stride(self) -> tuple[int, ...]:
        return self._array.strides


class TorchDevice(Device):
    """A GPU of this computer, with torch's arrays."""

    def __init__(self, number: int = 0) -> None:
        import array_api_compat.torch as xp
        import torch

        self.xp = xp
        self._torch = torch
        self._device = torch.device("cuda", number)
        self.name = f"GPU {number} ({torch.cuda.get_device_name(self._device)})"

    def array(self, values: Any, kind: Any = None) -> Array:
        return self._torch.as_tensor(values, dtype=kind, device=self._device).contiguous()

    def host(self, array: Array) -> NDArray[np.generic]:
        found: NDArray[np.generic] = array.cpu().numpy()
        return found

    def zeros(self, shape: tuple[int, ...], kind: Any) -> Array:
        return self._torch.zeros(shape, dtype=kind, device=self._device)

    def parts(self, array: Array) -> Array:
        return self._torch.view_as_real(array)

    def holds(self, array: Any) -> bool:
        return isinstance(array, self._torch.Tensor) and array.is_cuda

    def free_bytes(self) -> int:
        free, _ = self._torch.cuda.mem_get_info(self._device)
        # What torch keeps for later arrays is free, too.
        kept = self._torch.cuda.memory_reserved(self._device) - self._torch.cuda.memory_allocated(self._device)
        return int(free + kept)

    def brought(self, pieces: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Array, ...]]:
        torch = self._torch
        copying = torch.cuda.Stream(self._device)

        def begun(piece: tuple[Any, ...]) -> tuple[tuple[Array, ...], Any]:
            # What was freed on the main stream must be done with before its memory is used again here.
            copying.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(copying):
                here = tuple(one if one is None or self.holds(one) else self._copied(one) for one in piece)
                return here, copying.record_event()

        waiting = None
        for piece in pieces:
            following = begun(piece)
            if waiting is not None:
                yield self._arrived(*waiting)
            waiting = following
        if waiting is not None:
            yield self._arrived(*waiting)

    def _copied(self, array: Any) -> Array:
        """A copy here that is under way when this returns: from memory that the GPU can read by itself."""
        return self._torch.as_tensor(array).contiguous().pin_memory().to(self._device, non_blocking=True)

    def _arrived(self, arrays: tuple[Array, ...], copied: Any) -> tuple[Array, ...]:
        present = self._torch.cuda.current_stream(self._device)
        present.wait_event(copied)
        for array in (one for one in arrays if one is not None):
            # Its memory is not given to others while the present stream still works on it.
            array.record_stream(present)
        return arrays

    def launch(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        if 0 not in grid:
            with self._torch.cuda.device(self._device):
                kernel[grid](*arguments, **constants)
