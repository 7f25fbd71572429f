"""`opbyte design`: devices that nobody has built yet, found; and what a device takes."""

from .describe import design_describe

__all__ = ["design_describe"]
