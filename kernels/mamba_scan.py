"""Mamba-2's scan: one decay a head, keys and queries (B and C) shared by a group's heads, nothing erased."""

from __future__ import annotations

from collections.abc import Sequence

from .delta_rule import DECODE, PROMPT, case_of, tokens_of
from .lab import Bench, Case, Kernel, Shape, add
from .recurrent import CHUNK


def shapes(quick: bool) -> Sequence[Shape]:
    """Return decodes and prompts with a quarter of Nemotron-3 Nano's heads (64 of 64 x 128)."""
    calls = [(DECODE, n, 1) for n in ((4, 16) if quick else (1, 4, 16, 64))]
    calls += [(PROMPT, 1, t) for t in ((128,) if quick else (16, 128, 1024))]
    sizes = {"state": 128, "conv": 4, "heads": 16, "head_dim": 64, "groups": 2, "chunk": CHUNK}
    return [
        {"dtype": "fp32", "phase": phase, "batch": n, "q_len": t, "tokens": n * t, **sizes} for phase, n, t in calls
    ]


def case(shape: Shape, bench: Bench) -> Case:
    """Return the case of one shape."""
    n, t, *sizes = (shape[c] for c in ("batch", "q_len", "groups", "heads", "state", "head_dim"))
    x = tokens_of(bench, (n, t), (sizes[0], sizes[1]), (sizes[2], sizes[3]), 1)
    return case_of("scan", shape, x, bench, erase=False)


CPU = add(Kernel("mamba_scan", "numba", "mamba2", shapes, case))
