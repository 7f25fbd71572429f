"""What a deployment is refused for: names that are not known, formats and attention without a rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ...devices.device import SharedMemoryDevice, build_device
from ...devices.dram.model import derivable, with_dram
from ...devices.hosts.catalog import host_of, joined
from ...devices.spec import SystemSpec
from ...workloads.errors import InputError, nearest
from ...workloads.layers.base import SCORE_PASSES
from ...workloads.model import ModelSpec
from ...workloads.numerics import WEIGHT_GROUPS
from .placement import PLACEMENTS

ATTENTION = tuple(SCORE_PASSES)
"""Algorithms of attention: one pass over K and V, or scores through main memory."""

DRAWS = ("layer", "step")
"""How often expert loads are sampled; see `deploy`."""

EXCHANGES = ("all_to_all", "gather")
"""How ranks share experts; see `deploy`."""

COSTS = ("auto", "roofline")
"""Where an op's seconds come from; see `deploy`."""

MEMORIES = ("flat", "derived")
"""Where a memory's efficiency comes from; see `deploy`."""


def checked_device(
    model: ModelSpec, system: SystemSpec, costs: str, memory: str, kernels: Sequence[str],
    frameworks: Mapping[str, str], attention: str,
) -> SharedMemoryDevice:  # fmt: skip
    """A system's device with the cost models that are asked for, able to run the model.

    Raises
    ------
    InputError
        Number formats it has no rate for, or scores through memory where its kernels are fused.
    """
    device = _priced(system, costs, memory, kernels, frameworks)
    _check_formats(model, device)
    _check_attention(attention, device)
    return device


def _priced(
    system: SystemSpec, costs: str, memory: str, kernels: Sequence[str], frameworks: Mapping[str, str]
) -> SharedMemoryDevice:
    """A system's device with the cost models that are asked for."""
    device = build_device(
        joined(system), calibrated=costs == "auto", kernels=kernels, frameworks=frameworks,
        host=host_of(system), assumed=system.host is None,
    )  # fmt: skip
    if memory == "derived" and any(map(derivable, device.processors.values())):
        return with_dram(device)
    return device


def check_choices(system: SystemSpec, given: Mapping[str, str | None]) -> None:
    """Refuse a system without ops, and names that are not known."""
    if system.device.on_engine:  # its time comes from its engine, not from ops one by one
        raise InputError(
            system.name,
            "is an FPGA, whose engine is simulated by `opbyte compare` (a step or images) and "
            "`opbyte frames` (a stream of images)",
        )
    placement_key = f"mapping.placement of {system.name}"
    known: dict[str, Iterable[str]] = {
        "--placement": PLACEMENTS, placement_key: PLACEMENTS, "--attention": ATTENTION, "--costs": COSTS,
        "--memory": MEMORIES, "draws": DRAWS, "exchange": EXCHANGES,
    }  # fmt: skip
    for where, name in {**given, placement_key: system.mapping.placement}.items():
        if name is not None and name not in known[where]:
            reason = f"must be a known name, not {name!r}{nearest(name, known[where])}"
            raise InputError(where, reason)


def _check_formats(model: ModelSpec, device: SharedMemoryDevice) -> None:
    """Refuse arithmetic that a processor has no rate for, not even in a wider format."""
    needed = {model.numerics.default, *map(model.numerics.compute, WEIGHT_GROUPS)}
    for processor in device.processors.values():
        for name in sorted(needed - set(processor.peak)):
            known = ", ".join(sorted(processor.peak))
            raise InputError(
                "--dtype",
                f"{processor.name} of {device.spec.name} cannot compute in {name}, as "
                f"{model.name} would; it has {known}",
            )


def _check_attention(attention: str, device: SharedMemoryDevice) -> None:
    """Refuse scores through main memory if attention's times are measured for fused kernels.

    Fitted and measured kernels are fused: their seconds would be for "flash", bytes and joules for "unfused", and the
    op would exceed its own memory roofline.
    """
    if SCORE_PASSES[attention] and device.collectives is not None:  # it has kernel models
        raise InputError(
            "--attention", f"{attention} has no fitted kernels on {device.spec.name}, whose attention "
            "was measured fused; add --costs roofline, or remove it",
        )  # fmt: skip
