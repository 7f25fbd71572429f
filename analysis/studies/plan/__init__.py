"""The system that meets an SLO at a load with the fewest devices, or least cost, energy or carbon."""

from .search import plan

__all__ = ["plan"]
