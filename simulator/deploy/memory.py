"""Memory of one device under a layout: stored weights against what it holds."""

from __future__ import annotations

from dataclasses import dataclass

from ...devices.spec import SystemSpec
from ...workloads.errors import CapacityError
from ...workloads.model import ModelSpec
from .layout import Layout


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
        """What is left for KV cache and state."""
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
    """Weights of one device's shard against its usable memory.

    Embedding and head are split by vocabulary over a rank's devices; the first pipeline stage has the embedding, the
    last the head (tied ones are copied). If experts run on a separate device, their weights share its memory only with
    the KV cache.

    Parameters
    ----------
    shard : ModelSpec
        What the device holds: the layers of its `stage`.
    elsewhere : float
        Bytes of experts in another memory.
    beside : float
        Bytes of another model's weights on the same device.

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
    """Usable bytes of one device's memory; refuses weights that do not fit in it."""
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
    """What would make weights fit: experts in the host's memory, where there are some and it is known."""
    parts = [part.routed for layer in shard.layers for part in layer.expert_parts]
    if system.device.host_memory is None or not parts:
        return ""
    if any(routed.by_request for routed in parts):
        return "; --adapters-resident N leaves all but N of the adapters in the host's memory"
    return "; --experts-resident N leaves all but N of a layer's experts in the host's memory"
