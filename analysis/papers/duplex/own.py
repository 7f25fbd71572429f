"""A newcomer's device on the paper's table: peak, area, throughput, energy and EDAP."""

from __future__ import annotations

from collections.abc import Sequence

from opbyte.extend import InputError, Row, judged

from ..points import Point
from .cases import GPU, MOE, Means, closed, grid, mean
from .rows import SPEED
from .static import EDAP_DEVICES, EDAP_OPS, edap, near_processor


def check(device: str) -> None:
    """Refuse a device that cannot stand beside the paper's.

    Raises
    ------
    InputError
        No such device, or one without a processor near memory.
    """
    from opbyte.extend.devices import of_device

    spec, (system, _) = near_processor(device)[0], of_device(device)
    if system.group > 1 or system.mapping.prefill_share is not None:
        raise InputError("--device", f"{spec.name} must work as one device, not as several")


def points(device: str, seeds: Sequence[int], routing: str) -> list[Point]:
    """Fig. 11's grid on the device."""
    return [closed(m, device, b, n, s, routing) for m, b, n in grid(MOE) for s in seeds]


def rows(device: str, get: Means) -> list[Row]:
    """What the table says of the paper's designs, of this one; all of it is predicted."""
    spec, name = near_processor(device)
    from opbyte.extend.devices import build_device

    peak = build_device(spec).processors[name].peak["fp16"] / spec.memory.stacks
    speed = get.ratios(MOE, device, GPU, SPEED)
    saved = [1 - r for r in get.ratios(MOE, device, GPU, "joules_per_token")]
    area = spec.processors[name].area_mm2
    label = spec.name
    out = [
        judged("own.peak", f"{label}: peak of {name} per stack", "TFLOPS", None, peak / 1e12),
        judged("own.area", f"{label}: area added per stack", "mm2", None, sum(area.values()) if area else None),
        judged("own.throughput.max", f"{label}: throughput over GPU, largest", "1", None, max(speed)),
        judged("own.throughput.mean", f"{label}: throughput over GPU, mean", "1", None, mean(speed)),
        judged("own.energy.mean", f"{label}: mean energy saving per token", "1", None, mean(saved)),
    ]
    if area:
        for ops in EDAP_OPS:
            worst = max(edap(d, ops) for d in EDAP_DEVICES.values())
            out.append(
                judged(f"own.edap.opb{ops}", f"{label}: EDAP at {ops} Op/B, over the worst of "
                       "the paper's", "1", None, edap(device, ops) / worst)
            )  # fmt: skip
    return out
