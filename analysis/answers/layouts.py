"""What a data layout is worth to a model: address mapping and KV blocks, in tokens a second.

Every layout is ranked by the time that memory takes for a step's bytes, each op at what its access
pattern gets of the DRAM; the best ones are then costed as whole steps, on rooflines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from ...devices.catalog import list_devices
from ...devices.dram.layout import DataLayout
from ...devices.dram.model import DerivedRoofline, with_dram
from ...devices.dram.spec import load_memory
from ...devices.dram.state import NAMED
from ...devices.spec import SystemSpec
from ...simulator.deploy.deployment import Deployment, deploy
from ...simulator.scenario.load import load
from ...simulator.step.explicit import PlacedOp, dealt, explicit_stage
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ...workloads.ops import Access
from ...workloads.requests.options import check_count
from ..parallel.study import Study
from ..show.declared import record, row, text
from ..show.output import OutputFolder
from ..show.result import Rests, Result
from ..show.text import Blocks, Rows
from .rests import rests_of
from .step import MAX_BATCH

MAPPINGS = tuple(name + fold for name in NAMED for fold in ("", "+xor"))
INTERLEAVES = (256, 1024, 4096, 16_384, 65_536)
BLOCKS = (8, 16, 32, 64, 128, 256)
PIECES = (1, 2)
"""What is tried."""

EVEN = 8
"""Minimum pieces of KV blocks per channel: distributed in turn, no channel then has an eighth more than the mean."""

FINALISTS = 8
"""Number of layouts that are simulated as whole steps, in addition to the device's own."""


@dataclass(frozen=True, slots=True)
class RankedLayout:
    """One layout and what it gives.

    Attributes
    ----------
    step_s : float
        A step [s].
    tokens_per_s : float
        Of the whole system.
    gets : mapping of str to float
        Share of its processor's bandwidth by kind of op, of those that weigh most.
    """

    layout: DataLayout
    step_s: float
    tokens_per_s: float
    gets: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Layouts(Result):
    """Layouts of one model on one system, best first.

    Attributes
    ----------
    tried : int
        Layouts that were ranked.
    usual : RankedLayout
        The device's own.
    ranked : tuple of RankedLayout
        Those costed as whole steps.
    """

    FILE = "layout.json"

    model: str
    system: SystemSpec
    batch: int
    context: int
    tried: int
    usual: RankedLayout
    ranked: tuple[RankedLayout, ...]
    described: tuple[Rests, ...] = ()

    def rests(self) -> Sequence[Rests]:
        return self.described

    @property
    def gain(self) -> float:
        """What the best layout brings over the device's own; 0 where that is as good."""
        return self.ranked[0].tokens_per_s / self.usual.tokens_per_s - 1.0

    def records(self) -> Rows:
        return [record(row) for row in self.ranked]

    def rows(self) -> Rows:
        return [
            row(one, "first")
            | {kind: f"{share:.1%}" for kind, share in one.gets.items()}
            | row(one, "last")
            | {"gain": f"{one.tokens_per_s / self.usual.tokens_per_s - 1.0:+.1%}"}
            for one in (*self.ranked, self.usual)
        ]

    def blocks(self) -> Blocks:
        return [text(self, "heading"), self.rows()]

    def write(self, folder: OutputFolder) -> None:
        """Also write a device of the catalog with the best layout."""
        Result.write(self, folder)
        device = self.device_file()
        if device is not None:
            folder.text("device.yaml", device)

    def device_file(self) -> str | None:
        """A device with the best layout, as YAML; None where it extends none of the catalog."""
        if self.system.device.name not in list_devices():
            return None
        best, name = self.ranked[0].layout, self.system.device.name
        source = (
            f"opbyte layout {self.model} --system {self.system.name} --batch {self.batch} "
            f"--context {self.context}: the best of {self.tried}"
        )
        return "\n".join(
            [
                f"extends: {name}", f"name: {name}-laid-out", f"title: {name}, laid out for {self.model}",
                "memory:", "  dram:", f"    source: {source!r}", f"    standard: {best.standard}",
                f"    mapping: {best.mapping!r}", f"    interleave_bytes: {best.interleave_bytes}",
                f"    kv_block_tokens: {best.kv_block_tokens}", f"    kv_pieces: {best.kv_pieces}", "",
            ]
        )  # fmt: skip


def layouts(
    model: str | Path | ModelSpec, system: str | Path | SystemSpec, *,
    standard: str | None = None, batch: int = 64, context: int = 2048,
    mappings: Sequence[str] = MAPPINGS, interleaves: Sequence[int] = INTERLEAVES,
    block_tokens: Sequence[int] = BLOCKS,
) -> Layouts:  # fmt: skip
    """Search address mapping, interleaving and KV blocks for the shortest decode step.

    A step is costed on rooflines: fitted kernels were measured on the layout that they had. Blocks
    are read as a whole: half of a sequence's last one is read for nothing.

    Parameters
    ----------
    standard : str, optional
        The devices' DRAM (name or file); default: from their description.
    batch, context : int
        Decoding sequences of the system, and tokens in the cache of each.
    mappings, interleaves, block_tokens : sequence
        Values to try; blocks contiguous, or with keys and values separate.

    Raises
    ------
    InputError
        Unknown names, an empty list, a model that reads no KV cache or a device without DRAM.
    """
    check_count(batch, "--batch", 1, MAX_BATCH)
    check_count(context, "--context", 1)
    if not mappings or not interleaves or not block_tokens:
        raise InputError("mappings, interleaves, block_tokens", "need one entry each at least")
    spec, where = load(model, system)
    search = _Search(spec, where, _own(where, standard), batch, context)
    grid = product(mappings, interleaves, block_tokens, PIECES)
    tried = [
        search.usual.model_copy(update={"mapping": m, "interleave_bytes": i, "kv_block_tokens": b, "kv_pieces": p})
        for m, i, b, p in grid
    ]
    tried = [layout for layout in tried if search.spreads(layout)]
    if not tried:
        raise InputError(
            "--batch, --context",
            "are too small for a layout to matter: some of the channels would hold no part of the KV cache",
        )
    steps = Study(search.whole, lambda row: (row.step_s,))
    ranked = steps.ranked(steps.results(sorted(tried, key=search.memory_s)[:FINALISTS]))
    usual = search.whole(search.usual)
    return Layouts(
        spec.name, where, batch, context, len(tried), usual, tuple(ranked), (rests_of(system, where, search.flat),)
    )


def _own(system: SystemSpec, standard: str | None) -> DataLayout:
    """The layout of a system's devices, of another standard if one is given."""
    layout = system.device.memory.dram
    if layout is not None:
        return layout if standard is None else layout.model_copy(update={"standard": standard})
    if standard is None:
        raise InputError(
            system.name, "names no DRAM: give memory.dram in its file, or --memory with one of `opbyte list memories`"
        )
    return DataLayout(standard=standard)


class _Search:
    """One decode step under many layouts."""

    def __init__(self, model: ModelSpec, system: SystemSpec, usual: DataLayout, batch: int, context: int) -> None:
        self.model, self.usual, self.batch, self.context = model, usual, batch, context
        self.memory = load_memory(usual.standard)
        self.flat = deploy(model, system, costs="roofline")
        self.ops = [p for p in self._placed(self.flat, context) if not p.op.exchange]
        if not any(p.op.access.kind == "pages" for p in self.ops):
            raise InputError(f"model {model.name!r}", "reads no KV cache")
        self.works = self._works()

    def _placed(self, deployment: Deployment, context: int) -> Iterator[PlacedOp]:
        batches = dealt(deployment, -(-self.batch // deployment.replicas), context)
        return (p for p in explicit_stage(deployment, batches, expected=True).ops if p.critical)

    def _works(self) -> dict[tuple[str, str, Access], float]:
        """Bytes by processor, kind of op and access pattern."""
        out: dict[tuple[str, str, Access], float] = {}
        for p in self.ops:
            key = p.processor, p.op.kind, p.op.access
            out[key] = out.get(key, 0.0) + p.op.bytes * p.count
        return out

    def spreads(self, layout: DataLayout) -> bool:
        """Whether the cache has pieces enough to busy every channel alike."""
        sequences = self.batch / self.flat.layout.dp
        blocks = -(-self.context // layout.kv_block_tokens)
        channels = self.memory.organisation.channels * self.flat.system.device.memory.stacks
        patterns = [a for _, _, a in self.works if a.kind == "pages"]
        pages = min(
            min(layout.kv_pieces, a.items)
            * max(1.0, layout.page_bytes(a.item_bytes, a.items) / layout.interleave_bytes)
            for a in patterns
        )
        return sequences * blocks * pages >= EVEN * channels

    def _laid(self, layout: DataLayout) -> Deployment:
        return replace(self.flat, device=with_dram(self.flat.device, self.memory, layout))

    def _shares(self, layout: DataLayout) -> Iterator[tuple[str, float, float]]:
        """Kind of op, bytes over nominal bandwidth [s], and share that the op gets of it."""
        processors = self._laid(layout).device.processors
        for (name, kind, access), size in self.works.items():
            processor = processors[name]
            assert isinstance(processor.model, DerivedRoofline)
            share = processor.model.share_of(access).fraction
            # On average half of a sequence's last block is read for nothing.
            more = layout.kv_block_tokens / 2 / self.context if access.kind == "pages" else 0.0
            yield kind, size * (1.0 + more) / processor.bandwidth, share

    def memory_s(self, layout: DataLayout) -> float:
        """Seconds that a step's bytes take, one op after another."""
        return sum(least / share for _, least, share in self._shares(layout))

    def whole(self, layout: DataLayout) -> RankedLayout:
        """A step under a layout, arithmetic, links and co-processing included."""
        deployment = self._laid(layout)
        context = self.context + layout.kv_block_tokens // 2
        stage = explicit_stage(
            deployment, dealt(deployment, -(-self.batch // deployment.replicas), context), expected=True
        )
        ranked = sorted(self._shares(layout), key=lambda pair: -pair[1])
        gets: dict[str, float] = {}
        for kind, _, share in ranked[:4]:
            gets.setdefault(kind, share)
        return RankedLayout(layout, stage.seconds, self.batch / stage.seconds, gets)
