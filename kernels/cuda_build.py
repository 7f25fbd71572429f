"""Compilation of the CUDA sources of this folder: with NVRTC without a GPU, or through CuPy.

`python -m opbyte.kernels.cuda_build NAME ARCH` compiles one source in a separate process and prints ptxas's output: a
crash of the compiler then does not end the caller.
"""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CudaSource:
    """One CUDA source file and the variants in which it is used.

    Attributes
    ----------
    kernels : tuple of str
        Names of its kernels.
    variants : tuple of tuple of str
        Macros of each variant, without the number format.
    tensor_cores : bool
        Whether its products claim to run on tensor cores.
    """

    kernels: tuple[str, ...]
    variants: tuple[tuple[str, ...], ...] = ((),)
    tensor_cores: bool = False


SOURCES = {
    "rmsnorm": CudaSource(("rmsnorm",), (("COLS=1024",), ("COLS=4096",), ("COLS=8192",))),
    "router": CudaSource(("route",), (("EXPERTS=8",), ("EXPERTS=128",), ("EXPERTS=256",))),
    "permute": CudaSource(("sort_slots", "gather_rows", "combine_rows")),
    "experts": CudaSource(
        ("gate_up", "down"), (("NT=1",), ("NT=2",), ("NT=4",), ("NT=2", "FOUR=32"), ("NT=2", "FOUR=16")), True
    ),
    "attention": CudaSource(("decode", "merge", "prefill"), (("DIM=64",), ("DIM=128",)), True),
    "gemm": CudaSource(("grouped_gemm", "swiglu"), (("STAGES=2",), ("STAGES=3",), ("STAGES=4",), ("STAGES=5",)), True),
    "mla": CudaSource(("mla_decode", "mla_merge"), ((),), True),
    "indexer": CudaSource(("index_scores", "index_select"), (("DIM=64",), ("DIM=128",)), True),
    "recurrent": CudaSource(("recurrent_step", "recurrent_chunks"), (("KEYS=64",), ("KEYS=128",))),
}
ARCHITECTURES = ("sm_80", "sm_90a")
FORMATS = {"fp16": (), "bf16": ("USE_BF16",)}


def source_text(name: str) -> str:
    """Return a source with the common header inserted at its include."""
    folder = files("opbyte.kernels") / "cuda"
    common = (folder / "common.cuh").read_text(encoding="utf-8")
    text = (folder / f"{name}.cu").read_text(encoding="utf-8")
    return text.replace('#include "common.cuh"', common.replace("#pragma once\n", ""))


def header_folders() -> list[str]:
    """Return the folders with CUDA's headers: of the runtime wheel, or of an installed toolkit."""
    folders = []
    spec = find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        folders += [str(p) for p in sorted(Path(root).glob("*/include")) if (p / "cuda_fp16.h").exists()]
    for path in (Path("/usr/local/cuda/include"), Path("/opt/cuda/include")):
        if (path / "cuda_fp16.h").exists():
            folders.append(str(path))
    return folders


def find_nvrtc() -> Path | None:
    """Return the path of the NVRTC library in its wheel; None if it is not installed."""
    spec = find_spec("nvidia")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(root).glob("**/libnvrtc.so.*")):
            return path
    return None


@dataclass(frozen=True, slots=True)
class Built:
    """A compiled source: its machine code, and ptxas's log of each kernel."""

    cubin: bytes
    log: str
    ptx: str

    @property
    def spilled_bytes(self) -> int:
        """Bytes of spilled registers over all kernels."""
        return sum(int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", self.log))

    @property
    def registers(self) -> list[int]:
        return [int(n) for n in re.findall(r"Used (\d+) registers", self.log)]


def build(name: str, arch: str, macros: Sequence[str] = ()) -> Built:
    """Compile a source with NVRTC; this needs its wheel and CUDA's headers, but no GPU.

    Raises
    ------
    RuntimeError
        NVRTC is absent, or the source does not compile; the message holds the log.
    """
    library = find_nvrtc()
    if library is None:
        raise RuntimeError("libnvrtc is not installed: pip install nvidia-cuda-nvrtc-cu12")
    nvrtc = ctypes.CDLL(str(library))
    options = [f"-arch={arch}", "-std=c++17", "--ptxas-options=-v"]
    options += [f"-D{m}" for m in macros] + [f"-I{folder}" for folder in header_folders()]
    program = ctypes.c_void_p()
    text = source_text(name).encode()
    _call(nvrtc, "nvrtcCreateProgram", ctypes.byref(program), text, f"{name}.cu".encode(), 0, None, None)
    given = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), given)
    log = _bytes(nvrtc, "ProgramLog", program).decode(errors="replace")
    if status:
        raise RuntimeError(f"{name}.cu for {arch} does not compile:\n{log}")
    cubin = _bytes(nvrtc, "CUBIN", program)
    ptx = _bytes(nvrtc, "PTX", program).decode(errors="replace")
    return Built(cubin, log, ptx)


def _call(library: ctypes.CDLL, function: str, *args: object) -> None:
    status = getattr(library, function)(*args)
    if status:
        raise RuntimeError(f"{function} failed with status {status}")


def _bytes(library: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _call(library, f"nvrtcGet{what}Size", program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    _call(library, f"nvrtcGet{what}", program, buffer)
    return buffer.raw.rstrip(b"\0") if what != "CUBIN" else buffer.raw


def main(arguments: Sequence[str]) -> None:
    """Build every variant and number format of one source; print one line of values for each."""
    name, arch = arguments
    for variant in SOURCES[name].variants:
        for format_, macros in FORMATS.items():
            built = build(name, arch, (*variant, *macros))
            print(name, arch, format_, ",".join(variant) or "-", f"spilled={built.spilled_bytes}",
                  f"registers={max(built.registers)}", f"mma={built.ptx.count('mma.sync')}",
                  f"bytes={len(built.cubin)}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
