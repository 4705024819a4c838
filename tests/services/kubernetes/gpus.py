"""A device plugin of the kubelet's: GPUs that nobody computes on, given to containers by their numbers.

`gpus.py NUMBER RESOURCE`, in the cluster's namespaces. It speaks the kubelet's device plugin API v1beta1, whose
messages are few and of one kind of field, so that they are put together here.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

_FOLDER = Path("/var/lib/kubelet/device-plugins")


def field(number: int, content: bytes | str) -> bytes:
    """A field of a message: its number, and how many bytes follow."""
    content = content.encode() if isinstance(content, str) else content
    assert len(content) < 128, "a length of more than one byte is not needed here"
    return bytes([number << 3 | 2, len(content)]) + content


def fields(message: bytes) -> Iterator[bytes]:
    """The contents of a message's fields."""
    while message:
        length = message[1]
        yield message[2 : 2 + length]
        message = message[2 + length :]


def serve(number: int, resource: str) -> None:
    """Tell the kubelet of so many devices and give them out, until killed."""

    def devices(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield b"".join(field(1, field(1, str(device)) + field(2, "Healthy")) for device in range(number))
        # The kubelet takes the devices for gone when this ends.
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait()

    def allocate(request: bytes, context: grpc.ServicerContext) -> bytes:
        given = [",".join(device.decode() for device in fields(container)) for container in fields(request)]
        names = ("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
        return b"".join(
            field(1, b"".join(field(1, field(1, name) + field(2, numbers)) for name in names)) for numbers in given
        )

    def no_options(request: bytes, context: grpc.ServicerContext) -> bytes:
        return b""

    socket = f"{resource.replace('/', '-')}.sock"
    (_FOLDER / socket).unlink(missing_ok=True)
    server = grpc.server(ThreadPoolExecutor(4))
    methods: dict[str, Callable[..., bytes]] = {"GetDevicePluginOptions": no_options, "Allocate": allocate}
    handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in methods.items()}
    handlers["ListAndWatch"] = grpc.unary_stream_rpc_method_handler(devices)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", handlers),))
    server.add_insecure_port(f"unix://{_FOLDER / socket}")
    server.start()
    with grpc.insecure_channel(f"unix://{_FOLDER / 'kubelet.sock'}") as kubelet:
        request = field(1, "v1beta1") + field(2, socket) + field(3, resource)
        kubelet.unary_unary("/v1beta1.Registration/Register")(request, timeout=30)
    print("registered", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    # A proxy of this machine's is none for a socket.
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    serve(int(sys.argv[1]), sys.argv[2])
