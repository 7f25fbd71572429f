"""What is simulated, as one object: every option with its unit, range and help."""

from .scenario import Scenario

__all__ = ["Scenario"]
