"""Whether a sweep chooses kernels; a separate module, so that other sweeps do not load the search."""

from __future__ import annotations

from pathlib import Path

from ...workloads.yamlfile import read_yaml

KERNEL = "kernel"


def chooses_kernels(path: str | Path) -> bool:
    """Whether a sweep's file asks for the best kernels."""
    base = read_yaml(Path(path)).get("base")
    return isinstance(base, dict) and KERNEL in base
