"""Serving points: of whole deployments one measured TTFT and TPOT, and what we predict."""

from .table import ServingPoint, WorkerGroup, read_points

__all__ = ["ServingPoint", "WorkerGroup", "read_points"]
