"""The gated delta rule: one decay per head, states of values x keys in fp32.

Decodes use `recurrent.step`, prompts `recurrent.chunks`, as KDA and Mamba-2's scan (`mamba_scan`) do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from . import recurrent
from .check import require
from .lab import Bench, Case, Kernel, Shape, add

DECODE, PROMPT = "generation", "context"
"""Names of the phases in tables."""
FEW = slice(0, 2)
"""Sequences whose results are checked; only a few, because the reference computes token by token in fp64."""


def tokens_of(
    bench: Bench, lead: tuple[int, int], heads: tuple[int, int], dims: tuple[int, int], decays: int
) -> recurrent.TokenInputs:
    """Return random inputs of prompts for the given heads and dimensions; keys have a norm of about one."""
    q, k = (bench.take((*lead, heads[0], dims[0])) * np.float32(dims[0] ** -0.5) for _ in range(2))
    decay = bench.rng.uniform(0.7, 1.0, (*lead, heads[1], decays)).astype(np.float32)
    beta = bench.rng.uniform(0.0, 1.0, (*lead, heads[1])).astype(np.float32)
    return recurrent.TokenInputs(q, k, bench.take((*lead, heads[1], dims[1])), decay, beta)


def case_of(name: str, shape: Shape, inputs: recurrent.TokenInputs, bench: Bench, erase: bool = True) -> Case:
    """Return the case of a decode or of prompts with these inputs; only the states have several copies."""
    decode = shape["phase"] == DECODE
    columns = {"kernel": f"opbyte_{'recurrent' if decode else 'chunk'}_{name}", **shape}
    state = (len(inputs.v), inputs.v.shape[2], inputs.v.shape[3], inputs.k.shape[3])
    once, entries = 4.0 * np.prod(state), float(state[2] * state[3])
    copies = bench.rooms(once)
    states = [bench.room(state) for _ in range(copies)]
    first = recurrent.TokenInputs(*(np.ascontiguousarray(a[:, 0]) for a in inputs))
    out = np.empty(first.v.shape if decode else inputs.v.shape, np.float32)
    kernel = recurrent.step if decode else recurrent.chunks

    def run(i: int) -> None:
        kernel(first if decode else inputs, states[i % copies], out, bench.threads, erase)

    def check() -> None:
        out[:] = np.nan
        states[0][:] = bench.take(state)
        few = recurrent.TokenInputs(*(a[FEW] for a in inputs))
        want, after = recurrent.reference(few, states[0][FEW].copy(), erase)
        run(0)
        require(out[FEW], want[:, 0] if decode else want, "fp32", str(columns))
        require(states[0][FEW], after, "fp32", f"states of {columns}")

    # Decay, erase, write and read an entry of a state; the products of chunks, and within them
    flops = (8.0 if erase else 6.0) * entries
    if not decode:
        flops += recurrent.CHUNK * (3.0 * state[3] + recurrent.CHUNK) - 2.0 * entries
    moved = 2.0 * once + sum(a.nbytes for a in inputs) + inputs.v.nbytes
    return Case(columns, flops * inputs.beta.size, moved, copies, run, check)


def shapes(quick: bool) -> Sequence[Shape]:
    """Return shapes of decodes of several sequences, and of prompts."""
    heads = ((2, 4, 64), (4, 8, 128)) if quick else ((2, 4, 64), (4, 8, 128), (16, 32, 128))
    lengths = (64, 256, 512) if quick else (16, 64, 256, 1024)
    calls = [(DECODE, n, 1) for n in (1, 2, 4, 8, 16, 32)]
    calls += [(PROMPT, n, t) for n in (1, 2) for t in lengths]
    return [
        {"dtype": "fp32", "phase": phase, "batch": n, "q_len": t, "tokens": n * t, "conv": 4,
         "heads_k": key, "dim_k": dim, "heads_v": value, "dim_v": dim}
        for key, value, dim in heads for phase, n, t in calls
    ]  # fmt: skip


def case(shape: Shape, bench: Bench, name: str = "delta_rule", channels: bool = False) -> Case:
    """Return inputs for one shape; `channels`: every channel of a key has a separate decay."""
    n, t, *sizes = (shape[c] for c in ("batch", "q_len", "heads_k", "heads_v", "dim_k", "dim_v"))
    x = tokens_of(bench, (n, t), (sizes[0], sizes[1]), (sizes[2], sizes[3]), sizes[2] if channels else 1)
    return case_of(name, shape, x, bench)


KDA_TITLE = "Kimi's delta rule (KDA): the gated delta rule with a decay for every channel of a key."
CPU = add(Kernel("delta_rule", "numba", "gdn", shapes, case))
KDA = add(Kernel("kda", "numba", "kda", shapes, partial(case, name="kda", channels=True), KDA_TITLE))
"""The delta rule with a decay for every channel of a key."""
