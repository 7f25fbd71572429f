"""Figures from tidy tables: DataFrames in, matplotlib figures out, nothing else read."""

from .files import save
from .rooflines import roofline

__all__ = ["roofline", "save"]
