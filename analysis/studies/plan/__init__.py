"""The system that serves a load within a service level at the least devices, cost, energy or carbon."""

from .search import plan

__all__ = ["plan"]
