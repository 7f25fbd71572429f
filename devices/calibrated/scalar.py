"""The kernel models as one compiled function of a batch's sums, for the simulator's inner loop.

Matmuls, vector kernels and collectives depend on one count (the tokens of a step) and are
tabulated by it; the formulas here depend on several sums. Each is a family's own scalar kernel,
with the quantities of `Family.from_op` and the roofline floor of `model.Model.seconds`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...workloads.jit import compiled_part
from . import attention_decode, attention_prefill, mla, moe
from .hardware import C_16, C_FP8, H_BANDWIDTH, H_PEAK

F8 = npt.NDArray[np.float64]

(ROOFLINE, CURVE, DECODE, PREFILL, MLA, MOE, MIXED_PREFILL, MIXED_DECODE,
 MOE_GRID) = range(9)  # fmt: skip
"""Codes of formulas; the last three are read from measured grids (`devices.tables.model`)."""

CODES = {"attention_decode": DECODE, "attention_prefill": PREFILL, "mla_decode": MLA,
         "mla_prefill": MLA, "experts": MOE}  # fmt: skip

SUMS = ("batch", "tokens", "pairs", "kv", "decodes", "decode_kv", "uneven")
"""Entries of an attention op's shape that depend on the batch."""
(U_BATCH, U_TOKENS, U_PAIRS, U_KV, U_DECODES, U_DECODE_KV, U_UNEVEN) = range(7)
WIDTH = 14
"""Most parameters, and most quantities, of a formula."""


@compiled_part
def decode_seconds(p: F8, h: F8, x: F8, batch: float, kv: float) -> float:
    """Decode attention of `batch` sequences that read `kv` keys together."""
    if batch <= 0.0 or kv <= 0.0:
        return 0.0
    x[attention_decode.X_BATCH] = batch
    keys = kv / batch
    x[attention_decode.X_KEYS] = keys
    heads, dim = x[attention_decode.X_HEADS], x[attention_decode.X_DIM]
    cached = 2.0 * x[attention_decode.X_KV_HEADS] * keys * x[attention_decode.X_KV_BYTES]
    floor = max(
        4.0 * batch * heads * dim * keys / h[H_PEAK + C_16],
        batch * dim * (cached + 4.0 * heads) / h[H_BANDWIDTH],
    )
    return float(max(attention_decode.seconds(p, h, x), floor))


@compiled_part
def prefill_seconds(
    p: F8, h: F8, x: F8, window: float, batch: float, tokens: float, pairs: float, kv: float
) -> float:
    """Prefill attention of `batch` chunks with `tokens` new tokens and `kv` keys together."""
    if batch <= 0.0 or tokens <= 0.0:
        return 0.0
    q, own = tokens / batch, kv / batch
    x[attention_prefill.X_BATCH], x[attention_prefill.X_Q] = batch, q
    x[attention_prefill.X_KEYS], x[attention_prefill.X_KV] = pairs / tokens, own
    windowed = window > 0.0 and own >= window
    x[attention_prefill.X_WINDOWED] = 1.0 if windowed else 0.0
    x[attention_prefill.X_PREFIXED] = 1.0 if not windowed and own > q else 0.0
    heads, dim = x[attention_prefill.X_HEADS], x[attention_prefill.X_DIM]
    code = C_FP8 if x[attention_prefill.X_FP8] > 0.0 else C_16
    cached = 2.0 * x[attention_prefill.X_KV_HEADS] * own * x[attention_prefill.X_KV_BYTES]
    floor = max(
        4.0 * dim * heads * pairs / h[H_PEAK + code],
        batch * dim * (4.0 * heads * q + cached) / h[H_BANDWIDTH],
    )
    return float(max(attention_prefill.seconds(p, h, x), floor))


@compiled_part
def mla_seconds(p: F8, h: F8, x: F8, batch: float, tokens: float, pairs: float, kv: float) -> float:
    """Latent attention, prefill or decode as `x` says."""
    if batch <= 0.0 or kv <= 0.0:
        return 0.0
    prefill = x[mla.X_PREFILL] > 0.0
    q = tokens / batch if prefill else 1.0
    keys = pairs / tokens if prefill else kv / batch
    own, heads = kv / batch, x[mla.X_HEADS]
    x[mla.X_BATCH], x[mla.X_Q], x[mla.X_KEYS], x[mla.X_KV] = batch, q, keys, own
    if prefill:
        per_pair = mla.QK_DIM + mla.V_DIM
        moved = 2.0 * heads * (mla.QK_DIM + mla.V_DIM) * (q + own)
    else:
        per_pair = 2.0 * mla.LATENT + mla.ROPE
        moved = own * (mla.LATENT + mla.ROPE) * x[mla.X_KV_BYTES]
        moved += 2.0 * heads * q * (2.0 * mla.LATENT + mla.ROPE)
    floor = max(
        2.0 * batch * heads * q * keys * per_pair / h[H_PEAK + C_16],
        batch * moved / h[H_BANDWIDTH],
    )
    return float(max(mla.seconds(p, h, x), floor))


@compiled_part
def moe_seconds(p: F8, h: F8, x: F8, routed: float, active: float) -> float:
    """One device's experts at `routed` token-expert pairs over `active` experts."""
    if routed <= 0.0:
        return 0.0
    x[moe.X_SLOTS] = x[moe.X_ROUTED] = routed
    x[moe.X_ACTIVE] = active
    one = x[moe.X_MATRICES] * x[moe.X_HIDDEN] * x[moe.X_INTER]
    floor = max(
        2.0 * routed * one / h[H_PEAK + int(x[moe.X_CODE])],
        (active * one * x[moe.X_WEIGHT] + 4.0 * routed * x[moe.X_HIDDEN]) / h[H_BANDWIDTH],
    )
    return float(max(moe.seconds(p, h, x), floor))
