"""The local machine as a device: its properties and measured rates, as a YAML description."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..workloads.yamlfile import quoted, scalar
from .ceilings import Ceilings
from .vector import LANES

LIBRARIES = ("numpy", "numba", "llvmlite", "cupy", "cupy-cuda12x", "cupy-cuda13x")


@dataclass(frozen=True, slots=True)
class HostInfo:
    """Properties of a machine as its operating system reports them.

    Attributes
    ----------
    cpu : str
        Model name of the processor.
    cores, threads : int
        Cores of the machine, and threads the kernels used.
    clock_Hz : float or None
        As the system reports it; None where it does not.
    cache_bytes, memory_bytes : float
        Last-level cache and main memory; 0 where unknown.
    libraries : dict of str to str
        Versions of the libraries that matter.
    name : str or None
        The device's name in kernel tables; only a GPU has its own.
    """

    cpu: str
    cores: int
    threads: int
    clock_Hz: float | None
    cache_bytes: float
    memory_bytes: float
    libraries: dict[str, str]
    name: str | None = None

    @property
    def device(self) -> str:
        """Name of the device in tables: `name`, or one made from the processor, such as ``host-amd-epyc-2``."""
        if self.name is not None:
            return self.name
        words = re.findall(r"[a-z0-9]+", re.sub(r"\([^)]*\)|@.*|\bcpu\b", "", self.cpu.lower()))
        return "-".join(["host", *words[:4], str(self.threads)])

    def header(self, ceilings: Ceilings) -> list[str]:
        """Return lines of provenance for the head of a table."""
        rates = (
            f"read {ceilings.read_Bps / 1e9:.2f} GB/s, copy {ceilings.copy_Bps / 1e9:.2f} GB/s, "
            f"FMA {ceilings.fma_flops_per_s / 1e9:.1f} GFLOP/s, "
            f"GEMM {ceilings.gemm_flops_per_s / 1e9:.1f} GFLOP/s"
        )
        return [
            (
                f"host: {self.cpu}, {self.threads} threads of {self.cores} cores, {platform.system()} "
                f"{platform.release()}, Python {platform.python_version()}"
            ),
            "libraries: " + ", ".join(f"{k} {v}" for k, v in self.libraries.items()),
            "ceilings: " + rates,
        ]


def this_host(threads: int) -> HostInfo:
    """Return the properties of the machine that runs this process."""
    info = _text("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    clock = re.search(r"^cpu MHz\s*:\s*([\d.]+)$", info, re.MULTILINE)
    values = {}
    for library in LIBRARIES:
        try:
            values[library] = version(library)
        except PackageNotFoundError:
            continue
    return HostInfo(
        name[1].strip() if name else platform.processor() or platform.machine() or "unknown",
        os.cpu_count() or 1,
        threads,
        float(clock[1]) * 1e6 if clock else None,
        max(cache_bytes().values(), default=0.0),
        _memory_bytes(),
        values,
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cache_bytes() -> dict[int, float]:
    """Return the sizes of the first core's data caches by level [B]; empty if unknown."""
    sizes: dict[int, float] = {}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        match = re.fullmatch(r"(\d+)([KM]?)", _text(str(folder / "size")).strip())
        level = _text(str(folder / "level")).strip()
        if match and level.isdigit() and _text(str(folder / "type")).strip() != "Instruction":
            unit = {"": 1, "K": 1 << 10, "M": 1 << 20}[match[2]]
            sizes[int(level)] = float(match[1]) * unit
    return sizes


def _memory_bytes() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return 0.0


def device_yaml(host: HostInfo, ceilings: Ceilings, memory_share: float, launch_s: float) -> str:
    """Return the YAML description of the host as a device (schema: ``devices/spec.py``).

    Parameters
    ----------
    memory_share : float
        Median share of the read rate that the memory-bound kernels reached.
    launch_s : float
        Shortest kernel [s].
    """
    run = "measured by `opbyte measure` in the same run"
    drawn = memory_share * ceilings.read_Bps / ceilings.memory_Bps
    efficiency = min(1.0, ceilings.gemm_flops_per_s / ceilings.fma_flops_per_s)
    clock = host.clock_Hz or ceilings.fma_flops_per_s / (4.0 * LANES * host.threads)
    said = "as the system reports it" if host.clock_Hz else "assumed: two FMA a cycle and core"
    memory = host.memory_bytes or 8 * 2**30
    known = "as the system reports it" if host.memory_bytes else "assumed: the system does not say"
    none = "assumed: energy is not measured on a host"
    lonely = "assumed: a single host; tensor parallelism over it means nothing"
    return f"""\
# Written by `opbyte measure`: this host as a device.
name: {scalar(host.device)}
title: {quoted(f"{host.cpu}, {host.threads} threads")}
processors:
  cpu:
    kind: xpu
    peak_TFLOPS: {{fp32: {ceilings.fma_flops_per_s / 1e12:.4g}, source: "FMA on registers, {run}"}}
    compute_efficiency: {{value: {efficiency:.3f}, source: "BLAS on 1024 x 1024 over FMA, {run}"}}
    memory_efficiency: {{value: {min(max(drawn, 0.05), 1.0):.3f}, source: "median share of the bandwidth of the memory-bound kernels, {run}"}}
    launch_us: {{value: {launch_s * 1e6:.3g}, source: "shortest kernel, {run}"}}
    memory_pJ_per_bit: {{value: 0, source: "{none}"}}
    compute_pJ_per_FLOP: {{fp32: 0, source: "{none}"}}
    cores: {{value: {host.threads}, source: "threads used"}}
    clock_MHz: {{value: {clock / 1e6:.6g}, source: "{said}"}}
    matrix_rows: {{value: 1, source: "vector units: no matrix instruction"}}
memory:
  capacity_GiB: {{value: {memory / 2**30:.6g}, source: "{known}"}}
  bandwidth_GBps: {{value: {ceilings.memory_Bps / 1e9:.4g}, source: "read or copy rate, the higher, {run}"}}
  cache_MiB: {{value: {host.cache_bytes / 2**20:.6g}, source: "as the system reports it"}}
  usable_fraction: {{value: 0.8, source: "assumed: the system and its programs take the rest"}}
link:
  name: none
  bandwidth_GBps: {{value: 1, source: "{lonely}"}}
  latency_us: {{value: 10, source: "{lonely}"}}
node_link:
  name: none
  bandwidth_GBps: {{value: 1, source: "{lonely}"}}
  latency_us: {{value: 10, source: "{lonely}"}}
node_size: {{value: 1, source: "{lonely}"}}
"""
