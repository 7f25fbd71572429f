"""Compiled hooks of a part: its state in one engine, and what they read and change of the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared

if TYPE_CHECKING:
    from opbyte.simulator.engine.allocation import kv_bytes as kv_bytes
    from opbyte.simulator.engine.allocation import take as take
    from opbyte.simulator.engine.engine_part import EnginePart as EnginePart
    from opbyte.simulator.engine.prefix import content_key as content_key
    from opbyte.simulator.engine.prefix import find as find
    from opbyte.simulator.engine.prefix import give_back as give_back
    from opbyte.simulator.engine.prefix import place as place
    from opbyte.simulator.engine.prefix import remember as remember
    from opbyte.simulator.engine.queues import cut_out as cut_out
    from opbyte.simulator.engine.queues import link_in as link_in
    from opbyte.workloads.jit import compiled_code as compiled_code
    from opbyte.workloads.jit import compiled_part as compiled_part
    from opbyte.workloads.jit import int64 as int64
    from opbyte.workloads.jit_address import by_address as by_address
    from opbyte.workloads.records import named as named
    from opbyte.workloads.records import records as records

__all__, __getattr__ = declared(__name__, __file__)
