"""A scenario: the complete input of one simulation, with unit, range and help of every option."""

from .scenario import Scenario

__all__ = ["Scenario"]
