"""Graphs of tasks on streams, and their schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared

if TYPE_CHECKING:
    from opbyte.simulator.streams import COMPUTE as COMPUTE
    from opbyte.simulator.streams import DEVICE_LINK as DEVICE_LINK
    from opbyte.simulator.streams import NODE_LINK as NODE_LINK
    from opbyte.simulator.streams import Builder as Builder
    from opbyte.simulator.streams import Graph as Graph
    from opbyte.simulator.streams import Medium as Medium
    from opbyte.simulator.streams import Timeline as Timeline
    from opbyte.simulator.streams import run as run

__all__, __getattr__ = declared(__name__, __file__)
