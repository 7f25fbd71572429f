"""One self-contained HTML file per answer: tables, figures, and what they rest on."""

from .page import Drawing, Section, report

__all__ = ["Drawing", "Section", "report"]
