"""Compile a CUDA source for the CPU (see `emulator.hpp`) and call its kernels with NumPy arrays."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opbyte.kernels.cuda_build import SOURCES, source_text

HERE = Path(__file__).parent
COMPILER = shutil.which("g++")


class Emulated:
    """The kernels of one source in one variant."""

    def __init__(self, name: str, macros: Sequence[str], folder: Path) -> None:
        text = source_text(name)
        for header in ("cuda_bf16.h", "cuda_fp16.h"):
            text = text.replace(f"#include <{header}>", "")
        text = text.replace(
            "extern __shared__ __align__(16) unsigned char raw[];", "alignas(16) static unsigned char raw[1 << 17];"
        )
        product = (
            "static void mma(float c[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) "
            "{ mma_of<T>(c, a0, a1, a2, a3, b0, b1); }\n"
        )
        text = text.replace("#ifndef EMULATED", f"{product}#ifndef EMULATED", 1)
        calls = "".join(
            f'extern "C" void run_{k}(const int* shape, void** args) {{ launch({k}, shape, args); }}\n'
            for k in SOURCES[name].kernels
        )
        source = folder / f"{name}-{'-'.join(macros).replace('=', '')}.cpp"
        source.write_text(f'#include "emulator.hpp"\n{text}\n{calls}')
        library = source.with_suffix(".so")
        assert COMPILER is not None
        command = [COMPILER, "-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-mf16c", f"-I{HERE}",
                   *(f"-D{m}" for m in macros), str(source), "-o", str(library)]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr[-3000:]
        self.library = ctypes.CDLL(str(library))

    def __call__(self, kernel: str, grid: Sequence[int], block: int, *args: Any) -> None:
        """Run a kernel; arrays go by address, Python ints and floats as 32-bit numbers."""
        shape = (ctypes.c_int * 4)(*grid, *([1] * (3 - len(grid))), block)
        held: list[Any] = []
        for value in args:
            if value is None or isinstance(value, np.ndarray):
                held.append(ctypes.c_void_p(None if value is None else value.ctypes.data))
            elif isinstance(value, np.int64):
                held.append(ctypes.c_longlong(int(value)))
            else:
                held.append((ctypes.c_float if isinstance(value, float) else ctypes.c_int)(value))
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(h) for h in held))
        getattr(self.library, f"run_{kernel}")(shape, pointers)
