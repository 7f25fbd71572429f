"""What the CPU kernels promise, as ratios taken within one run, and how to take them.

Kernel and NumPy's way take turns, round by round, on cold buffers, each between two readings of the read rate. A round
counts if our kernel's turn was left alone and its two rates agree within 5 %, and for a ratio of times the other's turn
likewise; the figure is the median over the rounds that count, or over all where none does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from opbyte.kernels import attention_decode, blocked, delta_rule, experts, gathered_attention, gemm, rmsnorm
from opbyte.kernels.ceilings import BLAS_SIZE, copy_once, read_rate
from opbyte.kernels.jit import blas_threads, max_threads, use_threads
from opbyte.kernels.lab import Bench, Case, Shape
from opbyte.kernels.measure import MAX_DRIFT
from opbyte.kernels.timing import CoreWaits, Stopwatch, settle

DENSE: Shape = {"batch": 1, "kv_len": 4096, "heads_q": 32, "heads_kv": 8, "head_dim": 128, "window": 0}
GEMV: Shape = {"dtype": "fp32", "tokens": 1, "hidden": 2048, "inter": 768, "experts": 24, "topk": 8}
ROWS = (32, 64, 128, 256)
"""Rows of the products that are compared with BLAS."""
STATES: Shape = {"dtype": "fp32", "phase": delta_rule.DECODE, "batch": 16, "q_len": 1, "tokens": 16, "conv": 4,
                 "heads_k": 16, "dim_k": 128, "heads_v": 32, "dim_v": 128}  # fmt: skip
CHUNKS: Shape = {**STATES, "phase": delta_rule.PROMPT, "batch": 1, "q_len": 256, "tokens": 256}
CHOSEN: Shape = {"dtype": "fp32", "batch": 1, "context": 8192, "chosen": 2048, "block": 128, "heads": 32, "heads_kv": 8}
NORM: Shape = {"kernel": "rmsnorm", "rows": 8192, "cols": 4096}
WINDOW, START_S = 512, 20e-6
WAKING = 8
"""Undisturbed readings before a turn."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One promise: a figure, its bar, and how many rounds stand behind it.

    Attributes
    ----------
    at_least : bool
        Whether the figure must reach the bar, or stay below it.
    """

    what: str
    value: float
    bar: float
    at_least: bool
    counted: int
    rounds: int

    @property
    def kept(self) -> bool:
        return self.value >= self.bar if self.at_least else self.value <= self.bar

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return (
            f"{self.what:76} {self.value:6.3f} {sign} {self.bar:<6g}"
            f"{'kept' if self.kept else 'MISSED':7} {self.counted} of {self.rounds} rounds counted"
        )


@dataclass(frozen=True, slots=True)
class Rounds:
    """Seconds of several ways to do a thing, round by round, and which turns count.

    Attributes
    ----------
    seconds : float64 array, shape (rounds, ways)
    read_Bps : float64 array, shape (rounds,)
        Mean of the read rates before and after the first way.
    counts : bool array, shape (rounds, ways)
    """

    seconds: np.ndarray
    read_Bps: np.ndarray
    counts: np.ndarray

    def figure(self, what: str, values: np.ndarray, bar: float, at_least: bool = True, ways: int = 1) -> Figure:
        """Median of a value of each round, over those whose first `ways` turns count."""
        counts = self.counts[:, :ways].all(1)
        median = float(np.median(values[counts] if counts.any() else values))
        return Figure(what, median, bar, at_least, int(counts.sum()), len(values))


def take_turns(bench: Bench, ways: Sequence[Callable[[int], object]], rounds: int, budget_s: float) -> Rounds:
    """Time all ways in every round, each between two readings of the ceiling."""
    for way in ways:
        way(0)
    taken = []
    began = time.perf_counter()
    for i in range(rounds):
        taken.append([_one_turn(bench, way, i) for way in ways])
        if time.perf_counter() - began > budget_s:
            break
    seconds, rates, counts = (np.array([[turn[n] for turn in t] for t in taken]) for n in range(3))
    return Rounds(seconds, rates[:, 0], counts)


def _one_turn(bench: Bench, way: Callable[[int], object], i: int) -> tuple[float, float, bool]:
    """Seconds, read rate around them [B/s], and whether the turn was left alone."""
    settle()
    read_rate(bench, least=WAKING, budget_s=0.03)  # threads that slept start on one core
    before = read_rate(bench, least=1, budget_s=0.0)
    way(2 * i)  # so that its code is at hand, which in a run of layers it is; the data is not
    with CoreWaits() as waits, Stopwatch(bench.threads, waits) as watch:
        way(2 * i + 1)
    after = read_rate(bench, least=1, budget_s=0.0)
    return (watch.seconds, 0.5 * (before + after), watch.alone and abs(after / before - 1.0) <= MAX_DRIFT)


def figures(*, budget_s: float = 12.0, rounds: int = 400, block_bytes: int = 640 << 20) -> list[Figure]:
    """Take all promises; `budget_s` seconds each, about a minute altogether."""
    out = []
    for threads in sorted({1, max_threads()}):
        use_threads(threads)
        bench = Bench(block_bytes, threads)
        with blas_threads(threads):
            out += _of_threads(bench, rounds, budget_s, threads == max_threads())
    return out


def _of_threads(bench: Bench, rounds: int, budget_s: float, every: bool) -> list[Figure]:
    n = f"{bench.threads} thread{'s' if bench.threads > 1 else ''}"
    decode = attention_decode.case(DENSE, bench)
    decode.check()
    r = take_turns(bench, [decode.run, _other(decode)], rounds, budget_s)
    out = [
        r.figure(f"GQA decode, {n}: share of the read rate", _share(r, decode), 0.72),
        r.figure(f"GQA decode, {n}: NumPy's time over ours", r.seconds[:, 1] / r.seconds[:, 0], 4, ways=2),
    ]
    gemv = experts.case(GEMV, bench)
    half = experts.case({**GEMV, "dtype": "bf16"}, bench)
    gemv.check()
    half.check()
    r = take_turns(bench, [gemv.run, _other(gemv), half.run], rounds, budget_s)
    # One thread alone cannot draw the read rate in this kernel: its bar is on two.
    out += [
        r.figure(f"expert GEMV, {n}: share of the read rate", _share(r, gemv), 0.88 if every else 0.8),
        r.figure(f"expert GEMV, {n}: OpenBLAS's time over ours", r.seconds[:, 1] / r.seconds[:, 0], 1.2, ways=2),
        r.figure(f"expert GEMV in bf16, {n}: time over fp32's", r.seconds[:, 2] / r.seconds[:, 0], 0.6, False),
    ]
    out += _products(bench, rounds, budget_s)
    out += _layers(bench, rounds, budget_s)
    if not every:
        return out
    norm = rmsnorm.case(NORM, bench)
    norm.check()
    r = take_turns(bench, [norm.run, _other(norm)], rounds, budget_s)
    out.append(r.figure(f"RMSNorm, {n}: share of the read rate", _share(r, norm), 0.9))
    narrow = attention_decode.case({**DENSE, "window": WINDOW}, bench)
    narrow.check()
    r = take_turns(bench, [decode.run, narrow.run], rounds, budget_s)
    allowed = r.seconds[:, 0] * WINDOW / DENSE["kv_len"]
    ratio = (r.seconds[:, 1] - START_S) / allowed
    out.append(r.figure(f"window {WINDOW} of 4096, {n}: (time - 20 us) over its share", ratio, 1.15, False))
    return out


def _products(bench: Bench, rounds: int, budget_s: float) -> list[Figure]:
    """Blocked products of many rows beside BLAS."""
    n, c, out = f"{bench.threads} thread{'s' if bench.threads > 1 else ''}", blocked.DEFAULT, []
    how = f"{c.register_m}x{c.register_n} tile, {c.block_n} rows of weights"
    for rows in ROWS:
        case = gemm.case({"m": rows, "n": 1024, "k": 1024, "batch": 1}, bench)
        case.check()
        r = take_turns(bench, [case.run, _other(case)], rounds, budget_s / len(ROWS))
        ratio = r.seconds[:, 1] / r.seconds[:, 0]
        what = f"GEMM of {rows} rows, {n} ({how}): BLAS's time over ours"
        out.append(r.figure(what, ratio, 0.85, ways=2))
    return out


def _layers(bench: Bench, rounds: int, budget_s: float) -> list[Figure]:
    """Recurrences and attention to chosen keys, beside a copy of as many bytes and BLAS at its best size."""
    n, out = f"{bench.threads} thread{'s' if bench.threads > 1 else ''}", []
    a, b, c = (bench.room((BLAS_SIZE, BLAS_SIZE)) for _ in range(3))
    ways = {
        "recurrent decode": (delta_rule.case(STATES, bench), 0.8),
        "gathered attention": (gathered_attention.case(CHOSEN, bench), 0.75),
        "chunked prompts": (delta_rule.case(CHUNKS, bench), 0.6),
    }
    for what, (case, bar) in ways.items():
        case.check()
        copies, scale = what != "chunked prompts", 1.0
        other: Callable[[], object] = partial(copy_once, bench, int(case.bytes) // 8)
        if not copies:
            other, scale = partial(np.matmul, a, b, out=c), case.flops / (2.0 * BLAS_SIZE**3)
        r = take_turns(bench, [case.run, partial(_again, other)], rounds, budget_s)
        than = "the copy rate" if copies else "BLAS's FLOP/s"
        share = scale * r.seconds[:, 1] / r.seconds[:, 0]
        out.append(r.figure(f"{what}, {n}: share of {than}", share, bar, ways=2))
    return out


def _again(do: Callable[[], object], _: int) -> None:
    do()


def _share(r: Rounds, case: Case) -> np.ndarray:
    return np.asarray(case.bytes / r.seconds[:, 0] / r.read_Bps)


def _other(case: Case) -> Callable[[int], object]:
    assert case.other is not None
    return case.other
