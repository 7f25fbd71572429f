"""Which processor runs an op, and what runs side by side: the placement rules.

``xpu-only``     everything on the main processor.
``op-per-byte``  the op's Op/B against the processors' nominal rooflines: the processor that
                 attains more FLOP/s at that Op/B.
``fastest``      the processor on which the op's full cost model says fewer seconds.
``paper``        Duplex, section IV: Logic-PIM takes decode attention always and experts in
                 decoding-only stages; the main processor takes the rest.
``co-process``   Duplex, section V-B: prefill attention beside decode attention, and experts
                 split between both processors by increasing load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ...devices.device import Processor, Region, SharedMemoryDevice
from ...workloads.errors import SpecError
from ...workloads.ops import Loads, Op
from ...workloads.registry import Registry

Choose = Callable[[Op, Sequence[Processor], bool], Processor]
PLACEMENTS: Registry[Choose] = Registry("placement")

CLEARLY = 1.0 - 1e-12
"""A split must beat another by more than rounding: with equal loads two can last equally long,
and both paths must choose the same."""

PAPER_DECODE = ("attention_decode", "mla_decode", "linear_state")


@PLACEMENTS.register("xpu-only")
def xpu_only(op: Op, able: Sequence[Processor], mixed: bool) -> Processor:
    """The main processor."""
    return able[0]


@PLACEMENTS.register("op-per-byte")
def op_per_byte(op: Op, able: Sequence[Processor], mixed: bool) -> Processor:
    """The processor that attains more at the op's Op/B."""
    opb = op.op_per_byte or 0.0
    return max(able, key=lambda p: p.attainable(opb, op.dtype))


@PLACEMENTS.register("fastest")
def fastest(op: Op, able: Sequence[Processor], mixed: bool) -> Processor:
    """The processor on which the op takes the least time."""
    return min(able, key=lambda p: p.model.cost(op).seconds)


@PLACEMENTS.register("paper")
@PLACEMENTS.register("co-process")
def paper(op: Op, able: Sequence[Processor], mixed: bool) -> Processor:
    """Decode attention, and experts of decoding-only stages, near memory; the rest not."""
    decode = op.kind in PAPER_DECODE and op.phase == "decode"
    near = able[1:] if decode or (op.kind == "experts" and not mixed) else ()
    return near[0] if near else able[0]


def processors_of(device: SharedMemoryDevice) -> list[Processor]:
    """Main processor first (it must run everything), then the others by peak/bandwidth.

    Raises
    ------
    SpecError
        No processor of the device runs every op kind.
    """
    ranked = sorted(device.processors.values(), key=lambda p: (p.kind != "xpu", p.name))
    full = [p for p in ranked if p.runs is None]
    if not full:
        raise SpecError(device.spec.name, "needs a processor without `runs`, for all other ops")
    for kind in sorted(full[0].excludes):
        if not any(p.can_run(kind) for p in ranked):
            raise SpecError(
                device.spec.name, f"no processor runs {kind}, which {full[0].name} excludes"
            )
    return [full[0], *(p for p in ranked if p is not full[0])]


def able(processors: Sequence[Processor], kind: str) -> list[Processor]:
    """Processors that can run an op kind, the main one first."""
    return [p for p in processors if p.can_run(kind)]


def regions(
    ops: Sequence[Op],
    device: SharedMemoryDevice,
    rule: str,
    mixed: bool,
    splitter: str = "paper",
) -> list[Region]:
    """Place ops on processors; ops run one region after another.

    Parameters
    ----------
    ops : sequence of Op
        Ops of one device in order of execution, collectives left out.
    rule : str
        One of `PLACEMENTS`.
    mixed : bool
        Whether the stage holds any prefill.
    splitter : str
        How co-processing divides experts; see `split_experts`.
    """
    choose = PLACEMENTS[rule]
    processors = processors_of(device)
    out: list[Region] = []
    for op in ops:
        can = able(processors, op.kind)
        if rule == "co-process" and op.kind == "experts" and len(can) > 1:
            both = (can[0], can[1])
            split = split_experts(op, *both, device.spec.memory.spaces, splitter)
            out += [split, *added_sums(split, processors)]
            continue
        name = choose(op, can, mixed).name
        beside = out[-1].tracks if out else {}
        if rule == "co-process" and _is_pair(beside, op) and name not in beside:
            out[-1] = _beside(next(iter(beside)), beside, name, op, device.spec.memory.spaces)
        elif op.kind == "experts":
            alone = Region({name: [op]})
            out += [alone, *added_sums(alone, processors)]
        else:
            out.append(Region({name: [op]}))
    return out


def _beside(
    first: str, tracks: Mapping[str, Sequence[Op]], second: str, op: Op, spaces: int
) -> Region:
    """Prefill attention and decode attention side by side (Duplex, section V-C).

    The last memory space holds Q, K and V of prefills, the others the KV cache of decodes; with
    one space both lie in it.
    """
    cache = frozenset(range(max(spaces - 1, 1)))
    return Region({**tracks, second: [op]}, {first: frozenset({spaces - 1}), second: cache})


def sum_bytes(op: Op, processor: Processor) -> float:
    """Bytes of partial sums per routed token: one output row for each memory stack."""
    return processor.partial_sums * op.shape.get("output_bytes", 0.0)


def added_sums(region: Region, processors: Sequence[Processor]) -> list[Region]:
    """What follows a device's experts (Duplex, section V-A); nothing where no sums were left.

    Once all experts are done the main processor reads and adds the partial sums of all stacks,
    which lie in the buffers of temporaries on the logic dies (VII-E): an expert's own output is
    written once, whatever adds it up.
    """
    total, named = 0.0, {p.name: p for p in processors}
    for name, (op,) in region.tracks.items():
        assert op.loads is not None
        total += sum_bytes(op, named[name]) * op.loads.routed
    if not total:
        return []
    add = Op("partial_sums", op.layer, "partial_sums", "both", {}, op.dtype, 0.0, act_bytes=total)
    return [Region({processors[0].name: [add]})]


def _is_pair(tracks: object, op: Op) -> bool:
    """Whether the last region is the prefill half of this decode attention or scan."""
    if not isinstance(tracks, dict) or len(tracks) != 1 or op.phase != "decode":
        return False
    last: Op = next(iter(tracks.values()))[-1]
    return last.phase == "prefill" and last.layer == op.layer


def split_experts(
    op: Op, main: Processor, near: Processor, spaces: int, splitter: str = "paper"
) -> Region:
    """Co-process one device's experts (Duplex, section V-B).

    Starting from all experts on the main processor, experts move to the near-memory one in
    increasing load; the prefix with the smallest maximum of both sums wins. With the "optimal"
    splitter every subset is tried, not prefixes alone. Experts of one memory space move
    together: with more experts than `spaces`, expert e lies in space ``e mod spaces``
    (round-robin, section V-C), so the two processors never read one space.
    """
    loads = op.loads
    assert loads is not None
    count = len(loads.tokens)
    group = np.arange(count) if count <= spaces else np.arange(count) % spaces
    total = np.bincount(group, weights=loads.tokens * loads.experts)
    order = np.argsort(total, kind="stable")
    best, best_s = Region({main.name: [op]}), float("inf")
    for moved in _choices(order[total[order] > 0], splitter):
        to_near = np.isin(group, moved)
        tracks = {
            p.name: [part]
            for p, mask in ((main, ~to_near), (near, to_near))
            if (part := _with_loads(op, loads, mask)) is not None
        }
        seconds = max(
            (p.model.cost(tracks[p.name][0]).seconds for p in (main, near) if p.name in tracks),
            default=0.0,
        )
        if seconds < best_s * CLEARLY:
            held = {main.name: frozenset(map(int, group[~to_near])),
                    near.name: frozenset(map(int, group[to_near]))}  # fmt: skip
            best, best_s = Region(tracks, held), seconds
    return best


def _choices(order: npt.NDArray[np.intp], splitter: str) -> Iterator[npt.NDArray[np.intp]]:
    """Memory spaces that could move near memory, in the order in which they are tried."""
    if splitter == "paper":
        yield from (order[:moved] for moved in range(len(order) + 1))
        return
    for mask in range(1 << len(order)):
        yield order[[bool(mask >> j & 1) for j in range(len(order))]]


def _with_loads(op: Op, loads: Loads, mask: npt.NDArray[np.bool_]) -> Op | None:
    """The part of an expert op that serves the masked experts; None if they have no tokens."""
    part = Loads(loads.tokens[mask], loads.experts[mask])
    if part.routed == 0:
        return None
    share = part.routed / loads.routed
    return replace(
        op,
        flops=op.flops * share,
        act_bytes=op.act_bytes * share,
        weight_bytes=op.weight_bytes * part.active / loads.active,
        loads=part,
    )
