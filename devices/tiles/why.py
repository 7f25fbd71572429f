"""One sentence on a configuration, made from its numbers: what bounds it, and what the next choice costs."""

from __future__ import annotations

from dataclasses import replace

from .form import F8, Shape, TiledKernel
from .layout import most_registers_of
from .machine import M_BANDWIDTH, M_CACHE_BANDWIDTH, Machine
from .rank import Priced, price_one, reason_of

KIB, US = 1024.0, 1e6


def why(form: TiledKernel, machine: Machine, shape: Shape, parameters: F8, of: Priced) -> str:
    """Say what bounds a configuration."""
    terms, config = of.terms, of.config
    said = {
        "memory": lambda: (
            f"memory-bound: its bytes take {_us(terms['memory'])} of {_us(of.seconds)} at "
            f"{machine.vector[M_BANDWIDTH] / 1e9:,.0f} GB/s"
        ),
        "cache": lambda: (
            f"bound by the last-level cache: blocks read {_us(terms['cache'])} from it at "
            f"{machine.vector[M_CACHE_BANDWIDTH] / 1e9:,.0f} GB/s"
        ),
        "matrix": lambda: (
            f"bound by matrix units: the busiest core multiplies for {_us(terms['matrix'])}, its shared "
            f"memory works {_us(terms['shared'])}"
        ),
        "shared": lambda: (
            f"bound by shared memory: operands and copies take {_us(terms['shared'])} of the busiest core, "
            f"arithmetic {_us(terms['matrix'])}"
        ),
        "step": lambda: f"bound by barriers and addresses, {_us(terms['step'])} of the busiest core",
        "latency": lambda: f"bound by latency: {of.waves:.2g} waves wait {_us(terms['latency'])} in all",
        "launch": lambda: f"bound by its launch, {_us(terms['launch'])} of {_us(of.seconds)}",
        "start": lambda: f"bound by starts of blocks, {_us(terms['start'])} of {_us(of.seconds)}",
        "partial_wave": lambda: (
            f"bound by its last wave: {of.waves:.2f} waves leave cores idle for {_us(terms['partial_wave'])}"
        ),
    }[of.bound]()
    if not form.threads:
        shared_KiB = of.shared_bytes / KIB
        return f"{said}; a module's buffer holds {shared_KiB:,.1f} KiB of inputs and sums"
    text = (
        f"{said}; {config.stages} stages keep {of.in_flight_bytes / KIB:,.0f} KiB on their way to a core"
        f"{_fewer(form, machine, shape, parameters, of)}"
    )
    spilled = of.registers - most_registers_of(machine)
    if spilled > 0:
        text += f"; {spilled:.0f} registers of a thread spill"
    return text


def _fewer(form: TiledKernel, machine: Machine, shape: Shape, parameters: F8, of: Priced) -> str:
    """What one stage less, or one more, would do."""
    for change, word in ((-1, "would wait"), (1, "would wait")):
        other = replace(of.config, stages=of.config.stages + change) if of.config.stages + change >= 2 else None
        if other is None or "stages" not in form.used or reason_of(form, machine, shape, other):
            continue
        waits = price_one(form, machine, shape, parameters, other).wait_s
        return f" and a step waits {_us(of.wait_s)}, {other.stages} {word} {_us(waits)}"
    return f" and a step waits {_us(of.wait_s)}"


def _us(seconds: float) -> str:
    return f"{float(f'{seconds * US:.3g}'):,g} us"
