"""Checks of a deployment: names must be known, number formats and attention must have a rate.

The weights of one device under a layout are also checked against its memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...devices.device import SharedMemoryDevice, build_device
from ...devices.dram.model import derivable, with_dram
from ...devices.hosts.catalog import host_of, joined
from ...devices.spec import SystemSpec
from ...workloads.errors import CapacityError, InputError, nearest
from ...workloads.layers.base import SCORE_PASSES
from ...workloads.model import ModelSpec
from ...workloads.numerics import WEIGHT_GROUPS
from .layout import Layout
from .placement import PLACEMENTS

ATTENTION = tuple(SCORE_PASSES)
"""Names of attention algorithms: one pass over K and V, or scores through main memory."""

DRAWS = ("layer", "step")
"""How often expert loads are sampled, once for every layer or for every step; see `deploy`."""

EXCHANGES = ("all_to_all", "gather")
"""How data-parallel ranks exchange the tokens of experts; see `deploy`."""

COSTS = ("auto", "roofline")
"""Sources of op times: measured and fitted kernels where there are any, or rooflines; see `deploy`."""

MEMORIES = ("flat", "derived")
"""Sources of a memory's efficiency: flat, or derived from a simulated DRAM; see `deploy`."""


def checked_device(
    model: ModelSpec, system: SystemSpec, costs: str, memory: str, kernels: Sequence[str],
    frameworks: Mapping[str, str], attention: str,
) -> SharedMemoryDevice:  # fmt: skip
    """Build a system's device with the requested cost models, and check that it can run the model.

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
    """Build a system's device with the requested cost models."""
    device = build_device(
        joined(system), calibrated=costs == "auto", kernels=kernels, frameworks=frameworks,
        host=host_of(system), assumed=system.host is None,
    )  # fmt: skip
    if memory == "derived" and any(map(derivable, device.processors.values())):
        return with_dram(device)
    return device


def check_choices(system: SystemSpec, given: Mapping[str, str | None]) -> None:
    """Refuse a system without ops (an FPGA engine), and unknown names in the options."""
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
    """Refuse a model with a number format that some processor cannot compute in, even in a wider format."""
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
    """Refuse attention scores through main memory on a device whose attention kernels are measured as fused.

    Fitted and measured kernels are fused: their seconds would be for "flash", bytes and joules for "unfused", and the
    op would exceed its own memory roofline.
    """
    if SCORE_PASSES[attention] and device.collectives is not None:  # it has kernel models
        raise InputError(
            "--attention", f"{attention} has no fitted kernels on {device.spec.name}, whose attention "
            "was measured fused; add --costs roofline, or remove it",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of one device under a layout [B].

    Attributes
    ----------
    capacity, weights : float
        Usable capacity and stored weights.
    """

    capacity: float
    weights: float

    @property
    def kv(self) -> float:
        """Return the bytes of a device that are left for KV cache and constant states."""
        return self.capacity - self.weights


def device_memory(
    shard: ModelSpec,
    layout: Layout,
    system: SystemSpec,
    usable_bytes: float | None = None,
    stage: int = 0,
    elsewhere: float = 0.0,
    beside: float = 0.0,
) -> Memory:
    """Return the memory of one device with the weights of its shard; raise an error if they do not fit.

    Embedding and head are split by vocabulary over a rank's devices; the first pipeline stage has the embedding, the
    last the head (tied ones are copied). If experts run on a separate device, their weights share its memory only with
    the KV cache.

    Parameters
    ----------
    shard : ModelSpec
        Shard of the device: the layers of its `stage`.
    elsewhere : float
        Bytes of experts in another memory [B].
    beside : float
        Bytes of another model's weights on the same device [B].

    Raises
    ------
    CapacityError
        The weights do not fit; the message contains needed and available GiB.
    """
    table = shard.vocab * shard.hidden
    num = shard.numerics
    embedding = 0.0 if shard.borrows else table * num.weight_bytes("embedding")
    head = 0.0 if shard.tied or shard.borrows else table * num.weight_bytes("head")
    first, last = stage == 0, stage == layout.pp - 1
    vocabulary = (embedding if first or (last and shard.tied) else 0.0) + (head if last else 0.0)
    weights = shard.weight_bytes - (embedding + head - vocabulary) - vocabulary * (1 - 1 / layout.tp)
    weights += beside - elsewhere
    if "experts" in layout.away:
        near = sum(
            w.total * num.weight_bytes(w.group)
            for layer in shard.layers for part in layer.parts for w in part.weights()
            if w.group == "experts"
        )  # fmt: skip
        _check_weights(weights - near, shard, layout, system, usable_bytes)
        weights = near
    return Memory(_check_weights(weights, shard, layout, system, usable_bytes), weights)


def _check_weights(
    weights: float, shard: ModelSpec, layout: Layout, system: SystemSpec, usable_bytes: float | None
) -> float:
    """Return the usable bytes of one device's memory; refuse weights that do not fit in it."""
    memory = system.device.memory
    usable = usable_bytes or memory.capacity_bytes * memory.usable_fraction
    if weights >= usable:
        raise CapacityError(
            system.name,
            f"{shard.name} does not fit: needs {weights / 2**30:.1f} GiB of weights per device, "
            f"{usable / 2**30:.1f} GiB available ({layout.degrees}){_way_out(shard, system)}",
        )
    return usable


def _way_out(shard: ModelSpec, system: SystemSpec) -> str:
    """Return advice for weights that do not fit: the option that keeps experts in host memory, if it applies."""
    parts = [part.routed for layer in shard.layers for part in layer.expert_parts]
    if system.device.host_memory is None or not parts:
        return ""
    if any(routed.by_request for routed in parts):
        return "; --adapters-resident N leaves all but N of the adapters in the host's memory"
    return "; --experts-resident N leaves all but N of a layer's experts in the host's memory"
