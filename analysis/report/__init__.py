"""One self-contained HTML file per answer: tables, figures, and what they rest on."""

from . import simulation, studies, validation  # they register their sections
from .page import report

__all__ = ["report", "simulation", "studies", "validation"]
