"""A cost model whose bandwidth the DRAM model derives, pattern by pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ...workloads.ops import Op
from ..cost import Cost, Evidence, Roof, Roofline
from ..device import SharedMemoryDevice
from ..prices import PriceRow, Probe
from .efficiency import efficiency, in_words, pages, weights
from .pim import bundle_stream, measure
from .spec import DramSpec

BUNDLE_COMMANDS = 32_768
"""Commands that the efficiency of bank bundles rests on."""


@dataclass(frozen=True, slots=True)
class DerivedRoofline:
    """A roofline with the memory efficiency of each op's access pattern.

    Attributes
    ----------
    base : Roofline
        The processor's rates, with the flat efficiency that is replaced.
    memory : DramSpec
        DRAM behind the processor.
    page_bytes : float
        One page of the KV cache on one device [B].
    channels : int
        Channels that a page is spread over.
    near : bool
        Whether the processor reads bank bundles from inside the stack, rows of bundles in turn.
    """

    base: Roofline
    memory: DramSpec
    page_bytes: float
    channels: int
    near: bool = False

    def pattern(self, op: Op) -> tuple[str, float]:
        """What an op reads, in words, and the share of the bandwidth that it gets."""
        if self.near:
            return "rows of bank bundles in turn", _bundles(self.memory)
        run = weights()
        if op.kind == "attention_decode":
            run = pages(self.memory, self.page_bytes, self.channels)
        return in_words(run), efficiency(self.memory, run).fraction

    def _roofline(self, op: Op) -> Roofline:
        return replace(self.base, memory_efficiency=self.pattern(op)[1])

    def cost(self, op: Op) -> Cost:
        """Seconds, joules and bound of one op."""
        return self._roofline(op).cost(op)

    def row(self, op: Op, probe: Probe) -> PriceRow:
        """The same price for every batch: a pattern does not depend on the batch."""
        return self._roofline(op).row(op, probe)

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        """One line a pattern, with its efficiency and the basis ``derived``."""
        kinds: dict[tuple[str, float], list[str]] = {}
        for op in ops:
            names = kinds.setdefault(self.pattern(op), [])
            if op.kind not in names:
                names.append(op.kind)
        return [
            Evidence(
                f"roofline, {self.memory.name}: {words}, {fraction:.1%} of the bandwidth",
                ", ".join(names), "derived",
            )
            for (words, fraction), names in kinds.items()
        ]  # fmt: skip

    def roof(self, dtype: str) -> Roof:
        """Nominal and attainable rates; the bandwidth is that of weights in sequence."""
        share = efficiency(self.memory, weights()).fraction
        return replace(self.base, memory_efficiency=share).roof(dtype)


@lru_cache(maxsize=64)
def _bundles(memory: DramSpec) -> float:
    """Share of its commands' rate that a stream over bundles in turn gets."""
    return measure(memory, bundle_stream(memory, BUNDLE_COMMANDS, overlap=True)).fraction


def with_dram(
    device: SharedMemoryDevice, memory: DramSpec, page_bytes: float = 16 * 4096
) -> SharedMemoryDevice:
    """Let a described DRAM say what every roofline processor of a device gets of its bandwidth.

    Processors with other cost models (fitted ones, FPGA designs with ports) keep theirs.

    Parameters
    ----------
    device : SharedMemoryDevice
    memory : DramSpec
        The DRAM of its stacks.
    page_bytes : float
        A page of the KV cache on one device [B]; 16 tokens of 4 KB by default.
    """
    channels = memory.organisation.channels * device.spec.memory.stacks
    processors = {}
    for name, processor in device.processors.items():
        if processor.model is processor.base and processor.kind in ("xpu", "logic-pim"):
            near = processor.kind == "logic-pim"
            model = DerivedRoofline(processor.base, memory, page_bytes, channels, near)
            processor = replace(processor, model=model)
        processors[name] = processor
    return replace(device, processors=processors)
