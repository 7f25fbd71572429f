"""Pipeline schedules: alternating forward and backward passes, with one or several parts of the model on a stage.

1F1B and interleaved orders follow Narayanan et al. (arXiv 2104.04473, section 2.2). A schedule is computed pass by pass. With
equal stages it takes (m + (p - 1) / v) (F + B), as a test checks: m micro-batches, p stages, v parts of a stage, and F and B the
times of a micro-batch's forward and backward passes on a stage.

The layers of a stage follow Megatron's layout strings, or its even split (NVIDIA/Megatron-LM@d98e8a6,
pipeline_parallel_layer_layout.py and transformer_block.py in core/transformer).

Exchanges of gradients and weights overlap with the passes. The links are a second resource: layer by layer, in the order of
the pass, an exchange starts when its layer's computation and the previous exchange have ended. Nothing else uses the links
at that time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, chain
from math import inf
from typing import NamedTuple

from ...workloads.errors import InputError


class MicroBatchPass(NamedTuple):
    """One pass of a micro-batch through one part of a stage."""

    backward: bool
    micro: int
    part: int


@dataclass(frozen=True, slots=True)
class Schedule:
    """End times and busy times of the stages of a pipeline.

    Attributes
    ----------
    ends : tuple of float
        Time at which each stage has run all its passes [s].
    busy : tuple of float
        Time of the passes of each stage [s].
    """

    ends: tuple[float, ...]
    busy: tuple[float, ...]


def order(stage: int, stages: int, micro: int, parts: int = 1) -> list[MicroBatchPass]:
    """Return the passes of one stage: first forward passes, then one of each kind alternately, then the remaining ones.

    Parameters
    ----------
    micro : int
        Micro-batches; a multiple of `stages` if there are several parts.
    parts : int
        Parts of the model on each stage (interleaving).
    """
    forward, backward = _numbered_passes(stages, micro, parts)
    warm = stages - stage - 1
    warm = min(warm if parts == 1 else 2 * warm + (parts - 1) * stages, len(forward))
    pairs = chain.from_iterable(zip(forward[warm:], backward, strict=False))
    return [*forward[:warm], *pairs, *backward[len(forward) - warm :]]


DualTask = tuple[str, MicroBatchPass]
"""A pass of DualPipe: forward (F), backward (B), backward without gradients of weights (I), or only these gradients (W)."""


def dual_order(rank: int, ranks: int, micro: int) -> list[tuple[DualTask, ...]]:
    """Return the passes of one rank of DualPipe; two passes in one entry run together, and each hides the other's exchanges.

    The first half of the micro-batches enters at the first rank, the second half at the last rank. Rank r of p runs stage r for
    the first half, and stage p - 1 - r for the second half (deepseek-ai/DualPipe, dualpipe.py; DeepSeek-V3, arXiv 2412.19437,
    fig. 5).

    Parameters
    ----------
    micro : int
        Number of micro-batches, both halves together; even, and at least twice `ranks`.
    """
    half = min(rank, ranks - 1 - rank)
    left, steady = ranks // 2 - half - 1, micro // 2 - ranks + half
    first = ["Fb"] if left else ["F", "b"]  # the middle ranks start without overlap
    n = half + 1
    program = (
        ["F"] * 2 * left
        + ["F", "f"] * n
        + ["i", "W", "f"] * left
        + [*first, "fB"]
        + ["Fb", "fB"] * steady
        + ["b", "fB"] * left
    )
    program += [*("bB" * n)[:n], *("iI" * n)[n:]] + ["W", "I"] * left + ["W"] * n  # gradients of weights come late
    counts, waiting = Counter[tuple[bool, int]](), list[MicroBatchPass]()

    def task_of(letter: str) -> DualTask:
        if letter == "W":
            return letter, waiting.pop(0)
        key = letter not in "Ff", letter.islower() ^ (rank >= ranks // 2)
        task = MicroBatchPass(key[0], key[1] * micro // 2 + counts[key], 0)
        counts[key] += 1
        waiting.extend([task] * (letter in "Ii"))
        return letter.upper(), task

    return [tuple(map(task_of, letters)) for letters in program]


def _stage_of(rank: int, task: MicroBatchPass, ranks: int, micro: int) -> int:
    """Return the stage that a DualPipe rank runs for a micro-batch, or the rank that runs a stage."""
    return rank if task.micro < micro // 2 else ranks - 1 - rank


def in_flight(stages: int, micro: int, kept_bytes: Sequence[Sequence[float]], late: bool = False) -> tuple[float, ...]:
    """Return the peak of activations that each stage stores [B].

    Parameters
    ----------
    kept_bytes : sequence of sequence of float
        Bytes that a micro-batch stores on each stage, for each of its parts [B].
    late : bool
        Whether gradients of weights are computed later: then each stage stores activations for as many micro-batches as the
        first stage.
    """
    parts = len(kept_bytes[0])
    micro = min(micro, 2 * stages * parts)
    return tuple(
        max(accumulate(sizes[p.part] * (1 - 2 * p.backward) for p in order(0 if late else s, stages, micro, parts)))
        for s, sizes in enumerate(kept_bytes)
    )


@cache
def _numbered_passes(stages: int, micro: int, parts: int) -> tuple[list[MicroBatchPass], list[MicroBatchPass]]:
    """Return the forward and the backward passes of any stage, each in order of execution."""
    numbers = range(micro * parts)
    forward = [_numbered(k, stages, parts, False) for k in numbers]
    return forward, [_numbered(k, stages, parts, True) for k in numbers]


def _numbered(k: int, stages: int, parts: int, backward: bool) -> MicroBatchPass:
    """Return the k-th forward or backward pass of a stage: `stages` micro-batches for each part."""
    if parts == 1:
        return MicroBatchPass(backward, k, 0)
    round_, place = divmod(k, stages * parts)
    part = place // stages
    return MicroBatchPass(backward, round_ * stages + place % stages, parts - 1 - part if backward else part)


def schedule(
    forward: Sequence[Sequence[float]],
    backward: Sequence[Sequence[float]],
    micro: int,
    *,
    send_s: float = 0.0,
    before: Sequence[float] = (),
    weights: Sequence[float] = (),
    dual: bool = False,
) -> Schedule:
    """Schedule every pass as early as its order and its dependencies allow.

    Parameters
    ----------
    forward, backward : sequence of sequence of float
        Time of a micro-batch on each stage, for each of its parts [s].
    micro : int
        See `order`.
    send_s : float
        Time from the end of a pass until the next stage has its output; the sender does not wait [s].
    before : sequence of float
        Time that each stage waits before its first pass [s].
    weights : sequence of float
        Part of `backward` on each stage for gradients of weights, which may be computed later (zero-bubble) [s].
    dual : bool
        DualPipe: each rank has two stages, see `dual_order`.
    """
    stages = len(forward)
    weights = weights or [0.0] * stages
    busy = tuple(micro * (sum(f) + sum(b)) for f, b in zip(forward, backward, strict=True))
    if dual:
        busy = tuple((one + other) / 2 for one, other in zip(busy, busy[::-1], strict=True))

    def ends_of(micro: int) -> tuple[float, ...]:
        return (_dual_ends if dual else _ends)(forward, backward, micro, send_s, before, weights)

    rounds = (micro - 1) // stages + 1
    if rounds <= STEADY:
        return Schedule(ends_of(micro), busy)
    # After some rounds a schedule repeats itself, so all rounds left out here take the same time.
    shorter = micro - (rounds - STEADY) * stages
    ends, one_less = (ends_of(m) for m in (shorter, shorter - stages))
    added = rounds - STEADY
    return Schedule(tuple(e + added * (e - o) for e, o in zip(ends, one_less, strict=True)), busy)


STEADY = 12
"""Number of rounds after which a schedule repeats itself; a round has one micro-batch for each stage."""


def _ends(
    forward: Sequence[Sequence[float]], backward: Sequence[Sequence[float]], micro: int, send_s: float, before: Sequence[float],
    weights: Sequence[float],
) -> tuple[float, ...]:  # fmt: skip
    """Return the end time of each stage [s]; gradients of weights fill the time until the next pass can start."""
    stages, parts = len(forward), len(forward[0])
    orders = _orders(stages, micro, parts)
    seconds = []
    for s, passes in enumerate(orders):
        inputs = [took - weights[s] for took in backward[s]]
        by_place = dict(zip(_places(s, stages, parts), [*forward[s], *inputs], strict=True))
        seconds.append([by_place[number % (2 * stages * parts)] for (number,) in passes])
    return _run(orders, seconds, 2 * stages * parts, send_s, before, weights)


@cache
def _orders(stages: int, micro: int, parts: int) -> list[list[tuple[int, ...]]]:
    """Return the order of each stage's passes, by number (see `_run`)."""
    places = [_places(s, stages, parts) for s in range(stages)]
    return [
        [(2 * stages * parts * t.micro + at[t.part + parts * t.backward],) for t in order(s, stages, micro, parts)]
        for s, at in enumerate(places)
    ]


def _places(stage: int, stages: int, parts: int) -> list[int]:
    """Return the places of a stage's forward passes, part by part, then of its backward passes, among a micro-batch's passes."""
    there = range(stage, stages * parts, stages)
    return [*there, *(2 * stages * parts - 1 - place for place in there)]


def _dual_ends(
    forward: Sequence[Sequence[float]], backward: Sequence[Sequence[float]], micro: int, send_s: float, before: Sequence[float],
    weights: Sequence[float],
) -> tuple[float, ...]:  # fmt: skip
    """Return the end time of each DualPipe rank [s]; its order determines when gradients of weights are computed."""
    ranks = len(forward)
    whole = [b[0] for b in backward]
    seconds = {
        "F": [f[0] for f in forward],
        "B": whole,
        "I": [b - w for b, w in zip(whole, weights, strict=True)],
        "W": weights,
    }

    orders = [dual_order(r, ranks, micro) for r in range(ranks)]
    took = [
        [sum(seconds[kind][_stage_of(r, t, ranks, micro)] for kind, t in tasks) for tasks in o]
        for r, o in enumerate(orders)
    ]
    passes = [
        [tuple(2 * ranks * t.micro + _places(_stage_of(r, t, ranks, micro), ranks, 1)[t.backward] for _, t in tasks) for tasks in o]
        for r, o in enumerate(orders)
    ]  # fmt: skip
    return _run(passes, took, 2 * ranks, send_s, before, [0.0] * ranks)


def _run(
    orders: Sequence[Sequence[tuple[int, ...]]], seconds: Sequence[Sequence[float]], size: int, send_s: float,
    before: Sequence[float], weights: Sequence[float],
) -> tuple[float, ...]:  # fmt: skip
    """Return the end time of each rank [s]; passes of one entry of its order start and end together.

    The `size` passes of a micro-batch have consecutive numbers, and each reads the output of the previous one. The first
    backward pass runs where the last forward pass ran. Gradients of weights fill the time until the next pass can start. At most
    as many of them wait as there are previous stages.
    """
    ranks, half = len(orders), size // 2
    done = [inf] * (1 + max(number for entry in chain(*orders) for number in entry))
    clock = [before[s] if before else 0.0 for s in range(ranks)]
    at, waiting = [0] * ranks, [0] * ranks
    left = sum(map(len, orders))
    while left:
        moved = 0
        for s, entries in enumerate(orders):
            now, late = clock[s], weights[s]
            while at[s] < len(entries):
                entry, ready = entries[at[s]], 0.0
                for n in entry:
                    if n % size:
                        ready = max(ready, done[n - 1] + (send_s if ranks > 1 and n % size != half else 0.0))
                if ready == inf:
                    break
                while waiting[s] and (waiting[s] > s or now + late <= ready):
                    now += late
                    waiting[s] -= 1
                waiting[s] += entry[0] % size >= half
                now = max(now, ready) + seconds[s][at[s]]
                for n in entry:  # gradients of weights follow those of inputs, for which other stages have waited
                    done[n] = min(done[n], now)
                at[s] += 1
                moved += 1
            clock[s] = now
        assert moved, "the orders wait for each other"
        left -= moved
    return tuple(end + late * n for end, late, n in zip(clock, weights, waiting, strict=True))


def pipeline_chunks(layers: int, mtp: int, pp: int, parts: int, text: str = "") -> tuple[int, ...]:
    """Return the number of layers of each part of each stage, in the order of the model: part 0 of all stages, then part 1.

    The layout string `text` gives the numbers. Without it, layers are split evenly. If the layers do not divide evenly, the
    embedding, the loss and each MTP layer count as a layer too, and parts in the middle get the remaining layers. MTP layers
    are in the last part.

    Raises
    ------
    InputError
        The layout string does not fit the model or the number of parts.

    Examples
    --------
    >>> pipeline_chunks(126, 0, 8, 4)[:2], pipeline_chunks(61, 1, 4, 4)[-2:]
    ((3, 4), (4, 3))
    >>> pipeline_chunks(61, 1, 4, 4, "Et*4|(t*4|)*14tmL")[-2:]
    (4, 2)
    """
    chunks = pp * parts
    if text:
        return _laid_out(text, layers, mtp, chunks)
    if layers % chunks == 0:
        sizes = [layers // chunks] * chunks
    else:
        chunk_layers, left = divmod(layers + mtp + 2, chunks)
        sizes = [chunk_layers] * chunks
        for i in range(left):
            sizes[(i + chunks // 2) % chunks] += 1
        sizes[0] -= 1
        sizes[-1] -= 1 + mtp
        while min(sizes) < 0:
            sizes[sizes.index(max(sizes))] -= 1
            sizes[sizes.index(min(sizes))] += 1
    return (*sizes[:-1], sizes[-1] + mtp)


def layout_chunks(text: str) -> list[str]:
    """Return the parts of a layout string, with repetitions expanded."""
    text = re.sub(r"[,\s]", "", text)
    text = re.sub(r"([EtmL])\*(\d+)", lambda m: m[1] * int(m[2]), text)
    text = re.sub(r"\(([^()]*)\)(?:\*(\d+))?", lambda m: m[1] * int(m[2] or 1), text)
    if re.search(r"[^EtmL|]", text):
        raise InputError(
            f"--pipeline-layout {text[:60]!r}", "is made of E, t, m, L and |, with repetitions as t*2 and (tt|)*3"
        )
    return text.split("|")


def _laid_out(text: str, layers: int, mtp: int, chunks: int) -> tuple[int, ...]:
    """Return the sizes by a layout string; raise an error for strings that Megatron rejects."""
    parts = layout_chunks(text)
    order, wanted = "".join(parts), "E" + "t" * layers + "m" * mtp + "L"
    for letter, what, count in (("t", "decoder layers", layers), ("m", "MTP layers", mtp)):
        if order.count(letter) != count:
            raise InputError("--pipeline-layout", f"has {order.count(letter)} {what}, the model has {count}")
    if order != wanted:
        raise InputError("--pipeline-layout", "must begin with one E, then have all t, all m, and end with one L")
    if len(parts) != chunks:
        raise InputError("--pipeline-layout", f"has {len(parts)} parts, and must have {chunks}: --pp x --interleave")
    if sum("m" in chunk for chunk in parts) > 1:
        raise InputError("--pipeline-layout", "must have all MTP layers in one part")
    return tuple(chunk.count("t") + chunk.count("m") for chunk in parts)


def pass_seconds(work: Sequence[float], gathers: Sequence[float] = (), scatters: Sequence[float] = ()) -> float:
    """Return the time of a pass with its exchanges [s].

    Parameters
    ----------
    work : sequence of float
        Computation of each layer, in the order of the pass [s].
    gathers : sequence of float, optional
        Gather before each layer, in parallel with the computation of the previous layer [s].
    scatters : sequence of float, optional
        Scatter after each layer [s].

    Examples
    --------
    >>> pass_seconds([1.0, 1.0], scatters=[0.5, 0.5])
    2.5
    >>> pass_seconds([1.0, 1.0], gathers=[0.5, 2.0])
    3.5
    """
    if not work:
        return 0.0
    gathers = gathers or [0.0] * len(work)
    scatters = scatters or [0.0] * len(work)
    link = ready = gathers[0]
    compute = 0.0
    for i, took in enumerate(work):
        start = max(compute, ready)
        compute = start + took
        if i + 1 < len(work):
            link = ready = max(link, start) + gathers[i + 1]
        if scatters[i]:
            link = max(link, compute) + scatters[i]
    return max(compute, link)
