"""Work of a kernel on which its power depends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...workloads.kernel_tables import KernelTable

F8 = npt.NDArray[np.float64]

NARROW = ("fp8", "fp8_block", "int8")
"""8-bit number formats in tables."""
FOUR_BIT = ("nvfp4", "mxfp4")
"""4-bit number formats in which the matrix units compute."""
BITS = {**dict.fromkeys(NARROW, 8.0), **dict.fromkeys(FOUR_BIT, 4.0)}
"""Width of a matrix operand by format [bits]; 16 for others."""
WEIGHT_BYTES = {**dict.fromkeys(NARROW, 1.0), **dict.fromkeys(FOUR_BIT, 0.5625), "fp32": 4.0, "w4a16_mxfp4": 0.53125}
"""Stored bytes of a weight by format, block scales included; 2 for others."""
ROWS, COLUMNS = 128.0, 128.0
"""Tile of a thread block: rows of queries, and columns of a matrix product."""
EXPERT_ROWS = 64.0
"""Rows of an expert's tile, which are fewer because each expert has fewer tokens."""


@dataclass(frozen=True, slots=True)
class Work:
    """Work of `n` kernel calls; all arrays have shape (n,).

    Attributes
    ----------
    seconds : float64 array
        Duration of one call [s], at the clock it ran at.
    flops : float64 array
        FLOP of matrix products.
    bits : float64 array
        Width of their operands.
    lost : float64 array
        FLOPs of one more row of every active expert: what an expert's tile adds to its tokens.
    stream_bytes : float64 array
        Weights, or keys, values, queries and outputs of attention.
    vector_bytes : float64 array
        Inputs and outputs of a chain of kernels, once each; the chain moves them several times.
    scores : float64 array
        Attention scores, each of which takes an exponential.
    blocks : float64 array
        Thread blocks of the widest kernel.
    """

    seconds: F8
    flops: F8
    bits: F8
    lost: F8
    stream_bytes: F8
    vector_bytes: F8
    scores: F8
    blocks: F8

    def take(self, rows: npt.NDArray[np.bool_]) -> Work:
        """Return the calls that a mask selects."""
        return Work(*(getattr(self, name)[rows] for name in self.__slots__))


def active_experts(experts: float, tokens: float, top_k: float, skew: float) -> float:
    """Return the number of experts that get a token, for loads made as in the measured tables.

    Loads follow a power law with exponent `skew` between 1 and 0.8 times the tokens (0.01 and 2 with fewer slots than
    experts), are scaled to the slots and rounded, and the remainder goes to experts one by one (``power_law_logits`` in
    ai-dynamo/aiconfigurator, ``collector/helper.py``). There they are sampled, here taken at equal quantiles: within 3
    % of the mean of samples.

    Parameters
    ----------
    experts, tokens, top_k : float
        Experts, tokens, and experts per token of the whole call.
    skew : float
        Exponent; 0 = equal loads.
    """
    slots = tokens * top_k
    if skew == 0.0:
        return min(experts, slots)
    low, high = (1.0, max(0.8 * tokens, 1.0001)) if slots > experts else (0.01, 2.0)
    place, power = (np.arange(experts) + 0.5) / experts, 1.0 - skew
    drawn = ((high**power - low**power) * place + low**power) ** (1.0 / power)
    loads = np.round(drawn / drawn.sum() * slots)
    left = max(slots - float(loads.sum()), 0.0)
    return min(experts, slots, float((loads > 0).sum()) + left)


def _moe(table: KernelTable) -> Work:
    """Return the work of a MoE layer's experts: weights of every active expert once, its tokens, and the vectors."""
    tokens, top_k, ep = table["tokens"], table["topk"], table["ep"]
    one = (2.0 + table["gated"]) * table["hidden"] * table["inter"] / table["tp"]
    experts = table.columns.get("active_experts")
    if experts is None:
        skew = [float(d.rpartition("_")[2]) if "power_law" in d else 0.0 for d in table["distribution"]]
        keys = list(zip(table["experts"], tokens, top_k, skew, strict=True))
        known = {key: active_experts(*key) for key in set(keys)}
        experts = np.array([known[key] for key in keys]) / ep
    routed = np.maximum(tokens * top_k / ep, 1.0)
    active = np.clip(experts, np.minimum(1.0, routed), table["experts"] / ep)
    stored = np.array([WEIGHT_BYTES.get(d, 2.0) for d in table["dtype"]])
    wide = np.ceil((1.0 + table["gated"]) * table["inter"] / table["tp"] / COLUMNS)
    n = np.zeros(len(table))
    return Work(
        table["measured_s"], 2.0 * routed * one, _bits(table["dtype"]), 2.0 * active * one,
        active * one * stored, 4.0 * routed * table["hidden"], n,
        active * wide * np.ceil(routed / active / EXPERT_ROWS),
    )  # fmt: skip


def _attention(table: KernelTable, queries: F8, pairs: F8, keys: F8, tiles: F8, split: F8) -> Work:
    batch, heads, width = table["batch"], table["heads_q"], table["head_dim"]
    cached = np.array([WEIGHT_BYTES.get(d, 2.0) for d in table["kv_dtype"]])
    moved = 4.0 * heads * queries + 2.0 * table["heads_kv"] * keys * cached
    n = np.zeros(len(table))
    return Work(
        table["measured_s"], 4.0 * batch * heads * width * pairs, _bits(table["kv_dtype"]), n,
        batch * width * moved, n, batch * heads * pairs, batch * split * tiles,
    )  # fmt: skip


def _prefill(table: KernelTable) -> Work:
    """Return the work of prompts: the pairs within the mask, in tiles of query rows."""
    q, end = table["q_len"], table["q_len"] + table["kv_prefix"]
    window = np.where(table["window"] > 0, table["window"], np.inf)
    pairs = np.where(table["causal"] > 0, _visible(end, window) - _visible(end - q, window), q * end)
    keys = np.minimum(end, window + q - 1.0)
    return _attention(table, q, pairs, keys, np.ceil(q / ROWS), table["heads_q"])


def _decode(table: KernelTable) -> Work:
    """Return the work of decodes: one query per sequence, and a thread block per sequence and group of heads."""
    keys = np.where(table["window"] > 0, np.minimum(table["kv_len"], table["window"]), table["kv_len"])
    one = np.ones(len(table))
    return _attention(table, one, keys, keys, one, table["heads_kv"])


def _visible(tokens: F8, window: F8) -> F8:
    """Return the query-key pairs of a causal prompt if a query sees at most `window` keys."""
    inside = np.minimum(tokens, window)
    beyond = np.where(tokens > window, (tokens - inside) * np.where(tokens > window, window, 0), 0)
    return inside * (inside + 1.0) / 2.0 + beyond


def _bits(formats: npt.NDArray[np.object_]) -> F8:
    return np.array([BITS.get(name, 16.0) for name in formats])


FROM_TABLE: Mapping[str, Callable[[KernelTable], Work]] = {
    "moe": _moe, "attention_prefill": _prefill, "attention_decode": _decode,
}  # fmt: skip
"""Readers of work from tables, for the families whose power is modelled."""
