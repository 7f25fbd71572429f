"""`opbyte design`: devices that nobody has built yet, found; and what a device takes."""

from ...answers.description import spaces
from .describe import design_describe
from .engines import EngineAnswer
from .result import DesignAnswer
from .run import design

__all__ = ["DesignAnswer", "EngineAnswer", "design", "design_describe", "spaces"]
