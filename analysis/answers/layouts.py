"""What a data layout is worth to a model: address mapping and KV blocks, in tokens a second.

A decode step of memory-bound ops lasts as long as its bytes do: weights in sequence and pages of
the KV cache at random, each at the efficiency that the DRAM model derives for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from ...devices.dram.catalog import load_memory
from ...devices.dram.efficiency import efficiency, pages, weights
from ...devices.dram.mapping import NAMED
from ...devices.dram.spec import DramSpec
from ...workloads.errors import InputError
from ..show.result import Result
from ..show.text import si
from .roofline import roofline

USUAL_MAPPING, USUAL_TOKENS = "col64", 16
"""What others are compared with: whole blocks of vLLM's size."""

MAPPINGS = tuple(name + fold for name in NAMED for fold in ("", "+xor"))
BLOCKS = (8, 16, 32, 64, 128)
PIECES = {"whole": 1, "keys and values apart": 2}


@dataclass(frozen=True, slots=True)
class Layout:
    """One layout; `tokens_per_s` is what memory alone allows, of the whole system."""

    mapping: str
    block_tokens: int
    pieces: str
    weights_fraction: float
    kv_fraction: float
    tokens_per_s: float


@dataclass(frozen=True, slots=True)
class Layouts(Result):
    """Layouts of one model on one system, best first.

    Attributes
    ----------
    title : str
    weights_bytes, kv_bytes : float
        Read by one device in one step [B].
    usual : Layout
        ``col64`` with whole blocks of 16 tokens.
    ranked : tuple of Layout
    """

    title: str
    weights_bytes: float
    kv_bytes: float
    usual: Layout
    ranked: tuple[Layout, ...]

    @property
    def gain(self) -> float:
        """What the best layout brings over the usual one."""
        return self.ranked[0].tokens_per_s / self.usual.tokens_per_s - 1.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "title": self.title, "weights_bytes": self.weights_bytes, "kv_bytes": self.kv_bytes,
            "gain": self.gain, "usual": asdict(self.usual),
            "layouts": [asdict(layout) for layout in self.ranked],
        }  # fmt: skip

    def records(self) -> Sequence[Mapping[str, Any]]:
        return [asdict(layout) for layout in self.ranked]

    def rows(self) -> Sequence[Mapping[str, Any]]:
        return [
            {
                "mapping": each.mapping, "block": each.block_tokens, "pieces": each.pieces,
                "weights": f"{each.weights_fraction:.1%}", "KV pages": f"{each.kv_fraction:.1%}",
                "tokens/s": f"{each.tokens_per_s:,.0f}",
                "gain": f"{each.tokens_per_s / self.usual.tokens_per_s - 1.0:+.1%}",
            }
            for each in self.ranked[:8]
        ]  # fmt: skip

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        read = f"{si(self.weights_bytes, 'B')} of weights, {si(self.kv_bytes, 'B')} of KV cache"
        return [f"{self.title}: a device reads {read} a step", self.rows()]


def layouts(
    model: str,
    system: str,
    *,
    memory: str | DramSpec = "hbm3-5200-8hi",
    batch: int = 64,
    context: int = 2048,
    mappings: Sequence[str] = MAPPINGS,
    block_tokens: Sequence[int] = BLOCKS,
) -> Layouts:
    """Rank address mappings and KV blocks by the decode throughput that memory allows.

    Parameters
    ----------
    model, system : str
        As for :func:`~opbyte.analysis.answers.roofline.roofline`, which counts the bytes.
    memory : str or DramSpec
        The devices' DRAM; a block is spread over the channels of all their stacks.
    batch, context : int
        Decoding sequences of the system, and tokens in the cache of each.
    mappings, block_tokens : sequence
        What to try.
    """
    if not mappings or not block_tokens:
        raise InputError("mappings, block_tokens", "need one entry at least")
    spec = load_memory(memory) if isinstance(memory, str) else memory
    counted = roofline(model, system, batch=batch, context=context, costs="roofline")
    device = counted.deployment.system.device
    kv = [op for op in counted.ops if op.kind == "attention_decode"]
    if not kv or context < 1:
        raise InputError(f"model {model!r}", "reads no KV cache at this context")
    kv_bytes = sum(op.count * op.bytes for op in kv)
    rest = sum(op.count * op.bytes for op in counted.ops) - kv_bytes
    ranks = counted.deployment.layout.dp
    token_bytes = kv[0].bytes / (batch / ranks * context)
    rate = device.memory.bandwidth_bytes_per_s
    channels = spec.organisation.channels * device.memory.stacks

    def layout(mapping: str, tokens: int, pieces: str) -> Layout:
        streams = efficiency(spec, replace(weights(), mapping=mapping)).fraction
        page = tokens * token_bytes / PIECES[pieces]
        gathers = efficiency(spec, replace(pages(spec, page, channels), mapping=mapping)).fraction
        # On average half of a sequence's last block is read for nothing.
        read = kv_bytes * (1.0 + tokens / 2 / context)
        seconds = rest / (rate * streams) + read / (rate * gathers)
        return Layout(mapping, tokens, pieces, streams, gathers, batch / seconds)

    tried = [layout(*one) for one in product(mappings, block_tokens, PIECES)]
    usual = layout(USUAL_MAPPING, USUAL_TOKENS, next(iter(PIECES)))
    title = f"{counted.deployment.model.name} on {counted.deployment.system.name}, {spec.name}"
    best = tuple(sorted(tried, key=lambda each: -each.tokens_per_s))
    return Layouts(title, rest, kv_bytes, usual, best)
