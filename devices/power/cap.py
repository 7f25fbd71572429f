"""A device under a power cap or at a locked clock: a lower clock and voltage, then the memory's rate.

Of the power above idle all except the memory's scales with clock and voltage (`clock.draw`): cores and matrix units run
at the clock whose power is the cap's share of the range between idle and limit. Memory keeps its rate while idle power,
cores at the voltage's floor and its own energy fit under the cap; below that its rate falls with the remaining power.
At a locked clock memory keeps its rate.
"""

from __future__ import annotations

from typing import Any

from ...workloads.errors import InputError
from ..catalog import list_devices, load_device
from ..spec import DeviceSpec, ProcessorSpec, SystemSpec
from .clock import FLOOR, SUSTAINED, capped_clock, draw
from .model import HELD, PowerModel

LEAST_CLOCK = 0.1
"""Share of the nominal clock below which no board was measured."""


def capped_system(system: SystemSpec, cap_W: float | None, clock_MHz: float | None = None) -> SystemSpec:
    """Return a system with a power cap and a locked clock; unchanged without either.

    Raises
    ------
    InputError
        A device whose power is not modelled, or a cap or clock that it cannot meet.
    """
    device = system.device
    if clock_MHz is not None:
        device = clocked(device, clock_MHz)
    if cap_W is not None:
        device = capped(device, cap_W)
    return system if device is system.device else system.model_copy(update={"device": device})


def capped(spec: DeviceSpec, cap_W: float) -> DeviceSpec:
    """Return a device with a power cap on its board [W].

    Returns
    -------
    DeviceSpec
        Its `title` says what of clock and memory is left.

    Raises
    ------
    InputError
        A device whose power is not modelled, or a cap that it cannot meet.
    """
    where = f"--power-cap {cap_W:g}"
    known = _known(spec, where)
    if cap_W >= known.limit_W:
        return spec
    least = _waiting_W(known) / HELD
    if cap_W <= least:
        raise InputError(
            where, f"{spec.name} draws {least:.0f} W before it computes anything; give more, up to its "
            f"limit of {known.limit_W:.0f} W",
        )  # fmt: skip
    clock = capped_clock((cap_W - known.idle_W) / (known.limit_W - known.idle_W))
    rates = [memory_rate(spec, known, cap_W, p) for p in spec.processors.values()]
    text = f"capped at {cap_W:g} W: {clock:.2f} of its clock at the limit, {rates[0]:.2f} of its memory's rate"
    text += "".join(f", {rate:.2f} near memory" for rate in rates[1:])
    return _at(spec, clock, cap_W, rates, f"{cap_W:g}W", text)


def _known(spec: DeviceSpec, where: str) -> PowerModel:
    """Return the power model of a device; refuse the option if there is none."""
    from .transfer import can_model, power_model  # compiled code, which steps without a cap start without

    if not can_model(spec):
        named = spec.limit_W is not None and spec.process is not None
        needs = "GPU: its first processor must be an xpu with cores" if named else "GPU with limit_W and process"
        raise InputError(where, f"{spec.name} has no power model: it needs a {needs}")
    return power_model(spec).model


def clocked(spec: DeviceSpec, clock_MHz: float) -> DeviceSpec:
    """Return a device whose cores are locked at a clock [MHz]; unchanged if work at the limit runs below that clock.

    Raises
    ------
    InputError
        A device whose power is not modelled or whose clock is not known, or no clock of it.
    """
    where = f"--clock {clock_MHz:g}"
    known, nominal = _known(spec, where), next(iter(spec.processors.values())).clock_Hz
    if nominal is None:
        raise InputError(where, f"{spec.name} has no clock_MHz")
    clock = clock_MHz * 1e6 / nominal / SUSTAINED
    if clock >= 1.0:
        return spec
    if clock * SUSTAINED < LEAST_CLOCK:
        least = LEAST_CLOCK * nominal / 1e6
        raise InputError(where, f"must be at least {least:.0f}, a tenth of {spec.name}'s clock")
    room = draw(clock * SUSTAINED) / draw(SUSTAINED)
    limit = known.idle_W + room * (known.limit_W - known.idle_W)
    text = f"locked at {clock_MHz:g} MHz: {clock:.2f} of the rate it has at its limit"
    return _at(spec, clock, limit, [1.0] * len(spec.processors), f"{clock_MHz:g}MHz", text)


def _at(spec: DeviceSpec, clock: float, limit_W: float, rates: list[float], suffix: str, text: str) -> DeviceSpec:
    """Return a device at a share of its clock, with a share of the memory's rate for each processor."""
    memory = spec.memory.model_copy(update={"bandwidth_bytes_per_s": spec.memory.bandwidth_bytes_per_s * rates[0]})
    return spec.model_copy(
        update={
            "name": f"{spec.name}-{suffix}",
            "title": f"{spec.title or spec.name} {text}",
            "limit_W": limit_W,
            "rated_W": spec.rated_W or spec.limit_W,
            "clock_share": spec.clock_share * clock,
            "memory": memory,
            "processors": {
                name: _slower(p, clock if p.kind == "xpu" else 1.0, rate / rates[0])
                for (name, p), rate in zip(spec.processors.items(), rates, strict=True)
            },
        }
    )


def held_processor(spec: DeviceSpec, processor: ProcessorSpec) -> ProcessorSpec:
    """Return a processor at the clock of work at its board's limit, if its kernels were timed on another board.

    Kernel rates include the clock at the limit of the board they were timed on. With fewer watts per silicon, clock and
    voltage are the same as under a cap on that board.
    """
    if spec.calibration or spec.limit_W is None or spec.kernels not in list_devices():
        return processor
    timed = load_device(spec.kernels)[0]
    other = next(iter(timed.processors.values()))
    if timed.limit_W is None or other.clock_Hz is None or processor.clock_Hz is None:
        return processor
    rooms = (spec.limit_W - spec.static_W) / (timed.limit_W - timed.static_W)
    share = min(rooms * _width(other) / _width(processor), 1.0)
    left = capped_clock(share) * other.clock_Hz / processor.clock_Hz
    return _slower(processor, left) if left < 1.0 else processor


def _width(processor: ProcessorSpec) -> float:
    """Return the 16-bit FLOP per clock."""
    assert processor.clock_Hz is not None
    return (processor.peak_flops_per_s or {}).get("bf16", 0.0) / processor.clock_Hz


def cap_texts(spec: DeviceSpec) -> tuple[str, ...]:
    """Return the effect of a power cap or a locked clock on a device as text; empty if nothing changes."""
    return (spec.title,) if spec.clock_share < 1.0 else ()


def memory_rate(spec: DeviceSpec, known: PowerModel, cap_W: float, processor: ProcessorSpec | None = None) -> float:
    """Return the share of the memory's rate that a processor has under a cap, by default the xPU; 1 at the limit.

    Bytes of fitted kernels also include the cores' power. Units near memory stream while the cores wait.
    """
    memory, p = spec.memory, processor or next(iter(spec.processors.values()))
    J_per_byte = p.memory_J_per_byte * p.bandwidth_multiple
    streaming = J_per_byte * memory.bandwidth_bytes_per_s * memory.data_fraction
    base_W = _waiting_W(known)
    nominal = min(streaming, HELD * known.limit_W - base_W)
    return min((HELD * cap_W - base_W) / nominal, 1.0)


def _waiting_W(known: PowerModel) -> float:
    """Return the power of a board whose cores wait for memory, at the floor of their voltage."""
    return known.idle_W + known.busy_W * draw(FLOOR)


def _slower(processor: ProcessorSpec, clock: float, fed: float = 1.0) -> ProcessorSpec:
    """Return a processor at a share of its clock, and of its bandwidth relative to the memory's."""
    update: dict[str, Any] = {"bandwidth_multiple": processor.bandwidth_multiple * fed}
    if processor.clock_Hz is not None:
        update["clock_Hz"] = processor.clock_Hz * clock
    if processor.peak_flops_per_s is not None:
        update["peak_flops_per_s"] = {name: x * clock for name, x in processor.peak_flops_per_s.items()}
    return processor.model_copy(update=update)
