"""Placement rules: which processor runs an op, and which ops run in parallel.

A rule scores every processor that can run an op by its cost there; the lowest score wins. The rules of the Duplex paper
use the kind of op instead; `co-process` (section V-B) also runs prefill attention in parallel with decode attention and
splits experts between both processors by increasing load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ...devices.device import Processor, Region, SharedMemoryDevice
from ...workloads.errors import InputError, SpecError, check_known
from ...workloads.ops import OP_KINDS, Loads, Op, about
from ...workloads.registry import Registry, first_line

CLEARLY = 1.0 - 1e-12
"""A split, or a processor, is faster than another only if it is faster by more than rounding errors. With equal loads two splits can take
equally long, and this implementation and the compiled one must choose the same split.
"""


class Option(NamedTuple):
    """One op on one processor that can run it, as a placement rule sees it.

    Attributes
    ----------
    place : int
        Index of the processor in its device; 0 is the main one.
    near : bool
        Whether the Duplex paper runs the op near memory in this stage: decode attention, whose Op/B is low, and experts
        in decode-only stages (section IV). Attention on a latent cache (MLA) has two Op/B per head, and stays on the
        main processor if it is no slower there.
    seconds, joules : float
        Cost of the op there; 0 for rules that do not use it (`Rule.priced`).
    attained : float
        FLOP/s under the nominal roofs of the processor at the op's Op/B.
    op_per_byte : float
        FLOP over all bytes that the op moves; 0 if it moves none.
    kind : int
        Kind of the op, as a number of `kind_code`. Compiled code has no strings: store ``kind_code("experts")`` in a variable of
        the module, and compare with it.
    phase : int
        Phase of the op's tokens: `DECODE`, `PREFILL` or `BOTH`.
    batch : float
        Tokens of the step on the op's rank; for experts, the tokens sent to the device.
    """

    place: int
    near: bool
    seconds: float
    joules: float
    attained: float
    op_per_byte: float
    kind: int
    phase: int
    batch: float


PHASES = ("decode", "prefill", "both")
DECODE, PREFILL, BOTH = range(3)
"""`Option.phase`: only decodes, only prompts, or all tokens of a step."""


def kind_code(name: str) -> int:
    """Return the number of a kind of op, as placement rules see it (`Option.kind`).

    Raises
    ------
    InputError
        There is no such kind.

    Examples
    --------
    >>> kind_code("gemm"), kind_code("experts") != kind_code("attention_decode")
    (0, True)
    """
    check_known(f"kind of op {name!r}", name, OP_KINDS, "is not known")
    return list(OP_KINDS).index(name)


def phase_code(phase: str) -> int:
    """Return the number of an op's phase for placement rules; ops without a phase are `BOTH`."""
    return PHASES.index(phase) if phase in PHASES else BOTH


@dataclass(frozen=True, slots=True)
class Rule:
    """A placement rule: the option with the lowest score runs the op; among equal scores the first option.

    Attributes
    ----------
    score : callable
        ``score(option)``, a function of numbers that Numba can compile: simulations call it from compiled code.
    priced : bool
        Whether the score uses `Option.seconds` or `Option.joules`.
    shares : bool
        Whether two processors share the experts of a layer and run prefill attention in parallel with decode attention.
    """

    score: Callable[[Option], float]
    priced: bool = False
    shares: bool = False


def _number(rule: Rule) -> None:
    """Refuse a rule whose score is not a number."""
    try:
        float(rule.score(Option(0, False, 1.0, 1.0, 1.0, 1.0, 0, 0, 1.0)))
    except Exception as error:
        raise InputError("its score", f"must give a number ({error})") from error


PLACEMENTS: Registry[Rule] = Registry("placement", described=True, check=_number)

Score = Callable[[Option], float]


def placement(name: str, *, priced: bool = False, shares: bool = False) -> Callable[[Score], Score]:
    """Register a function as a placement rule; see `Rule`.

    Raises
    ------
    InputError
        The function has no docstring, or does not return a number.
    """

    def add(score: Score) -> Score:
        PLACEMENTS.register(name, first_line(score))(Rule(score, priced, shares))
        return score

    return add


@placement("xpu-only")
def xpu_only(option: Option) -> float:
    """Everything on the main processor."""
    return float(option.place)


@placement("op-per-byte", priced=True)
def op_per_byte(option: Option) -> float:
    """Each op on the processor that is fastest at its Op/B."""
    return option.seconds


@placement("fastest", priced=True)
def fastest(option: Option) -> float:
    """Each op on the processor where it takes the least time."""
    return option.seconds


@placement("paper")
def paper(option: Option) -> float:
    """Decode attention of low Op/B near memory, experts too in decoding-only stages (Duplex, section IV)."""
    return 0.0 if option.near and option.place > 0 else 1.0 + option.place


@placement("co-process", shares=True)
def co_process(option: Option) -> float:
    """As `paper`; prefill parallel to decode attention, experts shared (Duplex, section V-B)."""
    return paper(option)


BUILT_IN = PLACEMENTS.names()
"""Names of this module's rules; the index of a name is the rule's number in compiled code."""


def processors_of(device: SharedMemoryDevice) -> list[Processor]:
    """Return a device's processors: the main one first (it must run everything), the others by peak over bandwidth.

    Raises
    ------
    SpecError
        No processor of the device runs every op kind.
    """
    ranked = sorted(device.processors.values(), key=lambda p: (not p.kind.endswith("xpu"), p.name))
    full = [p for p in ranked if p.runs is None]
    if not full:
        raise SpecError(device.spec.name, "needs a processor without `runs`, for all other ops")
    for kind in sorted(full[0].excludes):
        if not any(p.can_run(kind) for p in ranked):
            raise SpecError(device.spec.name, f"no processor runs {kind}, which {full[0].name} excludes")
    return [full[0], *(p for p in ranked if p is not full[0])]


def able(processors: Sequence[Processor], kind: str) -> list[Processor]:
    """Return the processors that can run a kind of op, the main one first."""
    return [p for p in processors if p.can_run(kind)]


def regions(
    ops: Sequence[Op], device: SharedMemoryDevice, rule: str, mixed: bool, splitter: str = "paper", tokens: float = 0.0
) -> list[Region]:
    """Place ops on processors; ops run one region after another.

    Parameters
    ----------
    ops : sequence of Op
        Ops of one device in order of execution, without collectives.
    rule : str
        One of `PLACEMENTS`.
    mixed : bool
        Whether the stage has prompts.
    splitter : str
        How co-processing divides experts; see `split_experts`.
    tokens : float
        Tokens of the step on the ops' rank (`Option.batch`).
    """
    chosen = PLACEMENTS[rule]
    processors = processors_of(device)
    out: list[Region] = []
    for op in ops:
        can = able(processors, op.kind)
        if chosen.shares and op.routed and len(can) > 1:
            both = (can[0], can[1])
            split = split_experts(op, *both, device.spec.memory.spaces, splitter)
            out += [split, *added_sums(split, processors)]
            continue
        name = choose(chosen, op, can, processors, mixed, tokens).name
        pair = out[-1].tracks if out else {}
        if chosen.shares and _is_pair(pair, op) and name not in pair:
            out[-1] = _side_by_side(next(iter(pair)), pair, name, op, device.spec.memory.spaces)
        elif op.routed:
            alone = Region({name: [op]})
            out += [alone, *added_sums(alone, processors)]
        else:
            out.append(Region({name: [op]}))
    return out


def alone_in_cache(op: Op) -> bool:
    """Return whether an op decodes from the KV cache or state of each sequence: Duplex runs such ops near memory for their low Op/B (section IV)."""
    return op.phase == "decode" and about(op.kind).cached


def choose(
    rule: Rule, op: Op, can: Sequence[Processor], processors: Sequence[Processor], mixed: bool, tokens: float
) -> Processor:
    """Return the processor on which a rule runs an undivided op."""
    if len(can) == 1:
        return can[0]
    decode = alone_in_cache(op)
    experts = op.routed and not mixed
    first = can[0].model.cost(op).seconds if decode else 0.0
    ratio, kind = op.flops / op.bytes if op.bytes else 0.0, kind_code(op.kind)
    phase = phase_code(op.phase)
    batch = tokens if op.loads is None else float(op.loads.routed)

    def score(processor: Processor) -> float:
        cost = processor.model.cost(op) if rule.priced or decode else None
        near = experts or (decode and cost is not None and cost.seconds < first * CLEARLY)
        seconds, joules = (cost.seconds, cost.total_joules) if cost and rule.priced else (0.0, 0.0)
        attained = processor.attained(op.flops, op.bytes, op.dtype)
        place = processors.index(processor)
        return rule.score(Option(place, near, seconds, joules, attained, ratio, kind, phase, batch))

    return min(can, key=score)


def _side_by_side(first: str, tracks: Mapping[str, Sequence[Op]], second: str, op: Op, spaces: int) -> Region:
    """Return the region that runs prefill attention in parallel with decode attention (Duplex, section V-C).

    The last memory space has Q, K and V of prefills, the others the KV cache of decodes; a single space has both.
    """
    cache = frozenset(range(max(spaces - 1, 1)))
    return Region({**tracks, second: [op]}, {first: frozenset({spaces - 1}), second: cache})


def sum_bytes(op: Op, processor: Processor) -> float:
    """Return the bytes of partial sums per routed token: one output row for each memory stack."""
    return processor.partial_sums * op.shape.get("output_bytes", 0.0)


def added_sums(region: Region, processors: Sequence[Processor]) -> list[Region]:
    """Return the partial sums after a device's experts (Duplex, section V-A); nothing without sums.

    After all experts the main processor reads and adds the partial sums of all stacks from the buffers on the logic
    dies (VII-E): an expert's output is written once in any case.
    """
    total, named = 0.0, {p.name: p for p in processors}
    for name, (op,) in region.tracks.items():
        assert op.loads is not None
        total += sum_bytes(op, named[name]) * op.loads.routed
    return [Region({processors[0].name: [sums_op(op, total)]})] if total else []


def sums_op(op: Op, size: float) -> Op:
    """Return the op that reads the partial sums of experts on the main processor, in the experts' memory."""
    return Op("partial_sums", op.layer, "partial_sums", "both", {}, op.dtype, 0.0, act_bytes=size, access=op.access)


def _is_pair(tracks: object, op: Op) -> bool:
    """Return whether the last region is the prefill half of this decode attention or scan."""
    if not isinstance(tracks, dict) or len(tracks) != 1 or op.phase != "decode":
        return False
    last: Op = next(iter(tracks.values()))[-1]
    return last.phase == "prefill" and last.layer == op.layer


def split_experts(op: Op, main: Processor, near: Processor, spaces: int, splitter: str = "paper") -> Region:
    """Split one device's experts between two processors that work in parallel (Duplex, section V-B).

    All experts start on the main processor and move to the near-memory one in increasing load; the prefix with the
    smallest maximum of both sums is chosen. The "optimal" splitter tries every subset. Experts of one memory space move
    together: with more experts than `spaces`, expert e is in space ``e mod spaces`` (round-robin, section V-C), so that
    the two processors never read one space.
    """
    loads = op.loads
    assert loads is not None
    count = len(loads.tokens)
    group = np.arange(count) if count <= spaces else np.arange(count) % spaces
    total = np.bincount(group, weights=loads.tokens * loads.experts)
    order = np.argsort(total, kind="stable")
    best, best_s = Region({main.name: [op]}), float("inf")
    for moved in _choices(order[total[order] > 0], splitter):
        near_spaces = np.zeros(len(total), dtype=bool)
        near_spaces[moved] = True
        to_near = near_spaces[group]
        tracks = {
            p.name: [part]
            for p, mask in ((main, ~to_near), (near, to_near))
            if (part := _with_loads(op, loads, mask)) is not None
        }
        seconds = max((p.model.cost(tracks[p.name][0]).seconds for p in (main, near) if p.name in tracks), default=0.0)
        if seconds < best_s * CLEARLY:
            sides = {main.name: frozenset(map(int, group[~to_near])), near.name: frozenset(map(int, group[to_near]))}
            best, best_s = Region(tracks, sides), seconds
    return best


def _choices(order: npt.NDArray[np.intp], splitter: str) -> Iterator[npt.NDArray[np.intp]]:
    """Yield the sets of memory spaces that may move near memory, in the order in which they are tried."""
    if splitter == "paper":
        yield from (order[:moved] for moved in range(len(order) + 1))
        return
    for mask in range(1 << len(order)):
        yield order[[bool(mask >> j & 1) for j in range(len(order))]]


def _with_loads(op: Op, loads: Loads, mask: npt.NDArray[np.bool_]) -> Op | None:
    """Return the part of an expert op that serves the masked experts; None if they have no tokens."""
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
