"""Sweeps: many simulations over axes of parameters, resumable, on all cores or a cluster."""

from .run import Sweep, sweep

__all__ = ["Sweep", "sweep"]
