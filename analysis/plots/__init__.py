"""Plots from tidy tables: DataFrames in, matplotlib figures out.

Other modules of the package load on demand: ``plots.memory``.
"""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from .batches import op_per_byte_vs_batch
from .breakdowns import breakdown
from .files import Picture, save
from .latencies import latency
from .loads import throughput_latency, throughput_pace
from .rooflines import roofline
from .timelines import replicas_over_time, timeline
from .tradeoffs import trade_off
from .validation import kernel_errors, replays, roofline_fractions, serving

__all__ = [
    "Picture", "breakdown", "kernel_errors", "latency", "op_per_byte_vs_batch",
    "replays", "replicas_over_time", "roofline", "roofline_fractions", "save", "serving",
    "throughput_latency", "throughput_pace", "timeline", "trade_off",
]  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    """Load a module of the package on first use (PEP 562)."""
    if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
