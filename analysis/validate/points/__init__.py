"""Serving points: one measured TTFT and TPOT of a whole deployment each, and what we predict."""

from .table import Point, Workers, read_points

__all__ = ["Point", "Workers", "read_points"]
