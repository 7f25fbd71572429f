"""Figures from tidy tables: DataFrames in, matplotlib figures out, nothing else read."""

from .batches import op_per_byte_vs_batch
from .breakdowns import breakdown
from .files import save
from .latencies import latency
from .rooflines import roofline
from .validation import kernel_errors

__all__ = ["breakdown", "kernel_errors", "latency", "op_per_byte_vs_batch", "roofline", "save"]
