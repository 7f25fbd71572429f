"""Schemas of an FPGA board's resources and of an accelerator design on it, in SI units."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ..workloads.specfile import Spec
from .lines import Count, NonNegative, Positive

BRAM_BYTES = 36 * 1024 // 8
URAM_BYTES = 288 * 1024 // 8


class FabricSpec(Spec):
    """What a board's FPGA offers to a design.

    `bram` counts blocks of 36 Kb, `uram` of 288 Kb; `memory_ports` are the interfaces to external
    memory, each `memory_port_bits` wide.
    """

    dsp: Count
    lut: Count
    ff: Count | None = None
    bram: Count
    uram: NonNegative = 0
    memory_ports: Count
    memory_port_bits: Count

    @property
    def on_chip_bytes(self) -> float:
        """Size of block and ultra RAM [B]."""
        return self.bram * BRAM_BYTES + self.uram * URAM_BYTES


class ArraySpec(Spec):
    """A vector-matrix unit of `inputs` x `outputs` multipliers, one product each a cycle."""

    inputs: Count
    outputs: Count
    dsp_per_mac: Positive

    @property
    def macs(self) -> int:
        """Multiply-accumulates per cycle."""
        return self.inputs * self.outputs


class AttentionSpec(Spec):
    """The QK and the PV unit: `queries` held at once x `features` of a key or value a cycle.

    `dsp_per_mac` counts for each of the two units. `softmax_cycles` is the time of the running softmax for one query
    and key, all heads at once; it runs in parallel with the QK unit.
    """

    queries: Count
    features: Count
    dsp_per_mac: Positive
    softmax_cycles: NonNegative = 1.0

    @property
    def macs(self) -> int:
        """Multiply-accumulates per cycle of one unit."""
        return self.queries * self.features


class BuffersSpec(Spec):
    """On-chip buffers.

    `weights_bytes` is one of a pair: one is used while the other loads. `attention_bytes`, if given, holds the
    projections of attention outside of the pair. `others` are all other buffers by name (activations, queues,
    accumulators).
    """

    weights_bytes: Positive
    attention_bytes: Positive | None = None
    embedding_bytes: Positive | None = None
    others: dict[str, Positive] = Field(default_factory=dict)


class PortsSpec(Spec):
    """Paths to external memory: words of `kernel_bits` go through ports of `port_bits`.

    A word wider than its port takes several cycles. `weights` ports serve one weight load after another together;
    `data` ports carry activations, each way at full rate.
    """

    kernel_bits: Count
    port_bits: Count
    weights: Count = 1
    data: Count = 1
    latency_cycles: NonNegative = 0.0


class CacheSpec(Spec):
    """The expert cache of the ``cache`` schedule: `experts` entries under a policy."""

    experts: NonNegative
    policy: str = "lru"


class EngineSpec(Spec):
    """An accelerator: arrays, buffers, ports and number formats, at one clock.

    Without `attention`, attention runs on the linear array. `weight_bits` and `activation_bits` are the stored formats
    (default: the model's own). `load_unit` is the content of one buffer: a whole expert, one matrix, or tiles cut to
    fit. `first_expert` says whether a MoE layer's first expert is loaded before its gate is computed ("speculative").
    """

    clock_Hz: Positive
    linear: ArraySpec
    attention: AttentionSpec | None = None
    buffers: BuffersSpec
    ports: PortsSpec
    weight_bits: Positive | None = None
    activation_bits: Positive | None = None
    activations: Literal["on-chip", "external"] = "external"
    load_unit: Literal["expert", "matrix", "tile"] = "matrix"
    first_expert: Literal["speculative", "after-gate"] = "after-gate"
    norm_cycles_per_value: NonNegative = 0.0
    gate_cycles_per_token: NonNegative = 0.0
    cache: CacheSpec | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates per cycle of the linear array."""
        return self.linear.macs

    @property
    def dsp(self) -> float:
        """Number of DSP slices of all arrays."""
        slices = self.linear.macs * self.linear.dsp_per_mac
        if self.attention is not None:
            slices += 2 * self.attention.macs * self.attention.dsp_per_mac
        return slices

    @property
    def buffer_bytes(self) -> float:
        """Size of all on-chip buffers [B]."""
        b = self.buffers
        size = 2 * b.weights_bytes + (b.attention_bytes or 0.0) + (b.embedding_bytes or 0.0)
        return size + sum(b.others.values())

    def port_bytes_per_s(self, ports: int) -> float:
        """Return the rate of `ports` ports of this design in one direction [B/s]."""
        bits = min(self.ports.kernel_bits, self.ports.port_bits)
        return ports * bits / 8 * self.clock_Hz
