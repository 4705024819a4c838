"""The kernels compile for a GPU, whether there is one or not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from surgeline.imaging.gpu import gridding_kernels, screen_kernels, tiles
from surgeline.imaging.gpu.window import Window

DOUBLE = {"uvw", "wavenumber", "scales", "squares_l", "squares_m"}
WHOLE = {"tile", "order", "place", "count_of", "tile_of"}
REAL = {"planes", "vis", "weights", "turn", "image", "plane"}
COMMON = {"W_TERM": True, "SUPPORT": 8, "COEFFICIENTS": Window.of(1e-5).coefficients, "WEIGHTED": True, "BLOCK": 1024}
COMMON["PRECISION"] = tiles._PRECISION

def type_of(kernel, name):
    if name == "planes" and kernel.__name__ == "place_in_tiles":
        return "i32"
    for names, type in ((DOUBLE, "*fp64"), (WHOLE, "*i32"), (REAL, "*fp32"), ({"first_of"}, "*i64")):
        if name in names:
            return type
    return "i64" if name in ("count", "visibilities") else "i32"

for module, names in (
    (gridding_kernels, ("find_tiles", "place_in_tiles", "grid_tiles", "degrid_tiles")),
    (screen_kernels, ("add_plane_to_image", "put_image_on_plane")),
):
    for name in names:
        kernel = getattr(module, name)
        block = {"BLOCK": tiles._AT_ONCE} if name in ("grid_tiles", "degrid_tiles") else {}
        constants = {key: value for key, value in (COMMON | block).items() if key in kernel.arg_names}
        types = {key: "constexpr" if key in constants else type_of(kernel, key) for key in kernel.arg_names}
        places = {(kernel.arg_names.index(key),): value for key, value in constants.items()}
        source = ASTSource(fn=kernel, signature=types, constexprs=places)
        made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": tiles._WARPS})
        print(name, made.metadata.shared, len(made.asm["cubin"]))
"""
# Of a multiprocessor of an H200; two programs should fit.
SHARED_MEMORY = 228 * 1024


def test_the_kernels_compile_for_a_gpu_of_the_year_2022(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert len(found) == 6
    for name, shared, size in found:
        assert int(shared) <= SHARED_MEMORY // 2, name
        assert int(size) > 0, name
