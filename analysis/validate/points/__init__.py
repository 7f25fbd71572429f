"""Serving points: one measured TTFT and TPOT of a whole deployment each, and what we predict."""

from .table import ServingPoint, WorkerGroup, read_points

__all__ = ["ServingPoint", "WorkerGroup", "read_points"]
