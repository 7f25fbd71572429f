"""Figures from tidy tables: DataFrames in, matplotlib figures out, nothing else read."""

from .batches import op_per_byte_vs_batch
from .breakdowns import breakdown
from .files import Picture, save
from .fleets import replicas_over_time
from .fractions import roofline_fractions
from .latencies import latency
from .loads import throughput_latency
from .points import points
from .replays import replays
from .rooflines import roofline
from .serving import serving
from .timelines import timeline
from .tradeoffs import trade_off
from .validation import kernel_errors

__all__ = [
    "Picture",
    "breakdown",
    "kernel_errors",
    "latency",
    "op_per_byte_vs_batch",
    "points",
    "replays",
    "replicas_over_time",
    "roofline",
    "roofline_fractions",
    "save",
    "serving",
    "throughput_latency",
    "timeline",
    "trade_off",
]
