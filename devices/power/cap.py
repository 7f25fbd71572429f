"""A device under a power cap: a lower clock, and the memory's rate where its power leaves no other way.

A board meets a cap below its limit by its clock, as it meets the limit. Of the power above idle everything
is taken to go with the clock: at a share of the room between idle and limit, cores and matrix units run at that
share of their nominal rates. The voltage is left as it is, so that energy of a FLOP stays: a board that lowers
it too is faster than is said here. Memory keeps its rate while idle power, what is awake while kernels run,
and its own fit under the cap; cores that wait for it may be clocked lower than those that compute. Below that
its rate falls with what is left.
"""

from __future__ import annotations

from typing import Any

from ...workloads.errors import InputError
from ..spec import DeviceSpec, ProcessorSpec, SystemSpec
from .model import HELD, PowerModel


def capped_system(system: SystemSpec, cap_W: float | None) -> SystemSpec:
    """A system whose boards draw no more than a cap; the same without one, or with one above the limit.

    Raises
    ------
    InputError
        A device whose power is not modelled, or a cap that it cannot meet.
    """
    if cap_W is None:
        return system
    device = capped(system.device, cap_W)
    return system if device is system.device else system.model_copy(update={"device": device})


def capped(spec: DeviceSpec, cap_W: float) -> DeviceSpec:
    """A device whose board draws no more than a cap [W].

    Returns
    -------
    DeviceSpec
        Its `title` says what of clock and memory is left.

    Raises
    ------
    InputError
        A device whose power is not modelled, or a cap that it cannot meet.
    """
    from .transfer import (
        can_model,
        power_model,
    )  # compiled code, which steps without a cap start without

    where = f"--power-cap {cap_W:g}"
    if not can_model(spec) or len(spec.processors) > 1:
        reason = "has no power model: that is of GPUs with limit_W and process alone"
        raise InputError(where, f"{spec.name} {reason}")
    known = power_model(spec).model
    if cap_W >= known.limit_W:
        return spec
    least = (known.idle_W + known.awake_W) / HELD
    if cap_W <= least:
        raise InputError(
            where, f"{spec.name} draws {least:.0f} W before it computes anything; give more, up to its "
            f"limit of {known.limit_W:.0f} W",
        )  # fmt: skip
    clock = (cap_W - known.idle_W) / (known.limit_W - known.idle_W)
    rate = memory_rate(spec, known, cap_W)
    memory = spec.memory.model_copy(
        update={"bandwidth_bytes_per_s": spec.memory.bandwidth_bytes_per_s * rate}
    )
    return spec.model_copy(
        update={
            "name": f"{spec.name}-{cap_W:g}W",
            "title": f"{spec.title or spec.name} capped at {cap_W:g} W: {clock:.2f} of its clock, "
            f"{rate:.2f} of its memory's rate",
            "limit_W": cap_W,
            "memory": memory,
            "processors": {name: _slower(p, clock) for name, p in spec.processors.items()},
        }
    )


def told_cap(spec: DeviceSpec, cap_W: float | None) -> tuple[str, ...]:
    """What a cap leaves of a device that is `capped`; nothing where the cap is above its limit."""
    title = spec.title or ""
    return (title,) if cap_W is not None and f" capped at {cap_W:g} W" in title else ()


def memory_rate(spec: DeviceSpec, known: PowerModel, cap_W: float) -> float:
    """Share of the memory's rate that a cap leaves; 1 at the limit, under which it was measured."""
    memory = spec.memory
    each = known.dram_J_per_byte + known.cache_J_per_byte
    streaming = each * memory.bandwidth_bytes_per_s * memory.data_fraction
    beside = known.idle_W + known.awake_W
    nominal = min(streaming, HELD * known.limit_W - beside)
    return min((HELD * cap_W - beside) / nominal, 1.0)


def _slower(p: ProcessorSpec, clock: float) -> ProcessorSpec:
    """A processor at a share of its clock."""
    update: dict[str, Any] = {}
    if p.clock_Hz is not None:
        update["clock_Hz"] = p.clock_Hz * clock
    if p.peak_flops_per_s is not None:
        update["peak_flops_per_s"] = {name: x * clock for name, x in p.peak_flops_per_s.items()}
    return p.model_copy(update=update)
