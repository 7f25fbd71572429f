"""One self-contained HTML file per result: tables, plots, and the evidence."""

from . import simulation, studies  # they register their sections
from .page import report

__all__ = ["report", "simulation", "studies"]
