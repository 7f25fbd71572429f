"""Costs and ops of recurrent layers: short convolutions, the delta rule and scans.

A prompt is computed in chunks, as matrix products between them and a state that goes from one to the next; a decode
reads its sequence's state and writes it. Of several new tokens of a decode the state after each is written, as the last
accepted one is gone on from (`num_speculative_blocks` of vllm-project/vllm, vllm/v1/kv_cache_interface.py). Tables of
measured kernels are read with the same rates (`devices.calibrated.layer_kernels`).
"""

from __future__ import annotations

from ..batch import Moments
from ..ops import Access, Op
from .base import Run
from .streamed import Amount, Rates, Sums, streamed

CHUNK, SCAN_CHUNK = 64, 256
"""Tokens per chunk of the delta rule (Kimi-Linear, tech_report.pdf, equation 13) and of Mamba-2's scan."""


def conv_rates(cols: Amount, taps: Amount, value_bytes: Amount = 2.0) -> Rates:
    """Return the rates of a convolution along each of `cols` channels; its last ``taps - 1`` inputs are kept."""
    return Rates(
        2.0 * taps * cols, token_bytes=2.0 * value_bytes * cols,
        seq_bytes=2.0 * value_bytes * (taps - 1.0) * cols, token_units=cols / 4096,
        seq_units=cols / 512,
    )  # fmt: skip


def delta_rates(
    heads: Amount, key: Amount, value: Amount, state_bytes: Amount, decode: bool, value_bytes: Amount = 2.0
) -> Rates:
    """Return the rates of the delta rule with `heads` states of key x value, `state_bytes` in total.

    A decode decays, erases (reads and adds a product), writes and reads out: 8 FLOP an entry. A chunk
    of C tokens takes 6 dk dv + 3 C dk + C² FLOP a token and head.
    """
    act = heads * (2.0 * key + 2.0 * value) * value_bytes
    if decode:
        return Rates(8.0 * heads * key * value, token_bytes=act + state_bytes,
                     seq_bytes=state_bytes, seq_units=4.0 * heads)  # fmt: skip
    flops = heads * (6.0 * key * value + 3.0 * key * CHUNK + CHUNK**2)
    return Rates(flops, token_bytes=act, seq_bytes=2.0 * state_bytes, token_units=heads / CHUNK, seq_units=heads)


def scan_rates(
    heads: Amount,
    width: Amount,
    state: Amount,
    groups: Amount,
    state_bytes: Amount,
    decode: bool,
    value_bytes: Amount = 2.0,
) -> Rates:
    """Return the rates of a recurrence with one decay per head (Mamba-2, lightning attention).

    States have width x state entries.
    """
    act = value_bytes * (2.0 * heads * width + 2.0 * groups * state)
    if decode:
        return Rates(6.0 * heads * width * state, token_bytes=act + state_bytes,
                     seq_bytes=state_bytes, seq_units=4.0 * heads)  # fmt: skip
    flops = heads * (SCAN_CHUNK * width + 4.0 * width * state) + groups * SCAN_CHUNK * state
    return Rates(flops, token_bytes=act, seq_bytes=2.0 * state_bytes, token_units=heads / SCAN_CHUNK, seq_units=heads)


def phases(moments: Moments) -> tuple[tuple[str, Sums], tuple[str, Sums]]:
    """Return the sums of prompts and of decodes for recurrences, where each token is its only pair."""
    prompt, decode = moments.prefill_tokens, moments.decode_tokens
    return (
        ("prefill", Sums(moments.prefills, prompt, prompt, prompt)),
        ("decode", Sums(moments.decodes, decode, decode, decode)),
    )


def conv_ops(cols: int, taps: int, moments: Moments, run: Run) -> list[Op]:
    """Return the short convolutions of prompts and decodes."""
    rates = conv_rates(cols, taps, run.numerics.act_bytes)
    return [
        streamed(
            f"conv_{phase}", "state", f"conv_{phase}", phase, run, sums, rates,
            act=rates.token_bytes * sums.tokens, written=rates.seq_bytes / 2 * sums.batch,
        )
        for phase, sums in phases(moments)
    ]  # fmt: skip


def state_ops(
    name: str, moments: Moments, run: Run, rates: tuple[Rates, Rates], state_bytes: tuple[float, float]
) -> list[Op]:
    """Return the recurrences of prompts and of decodes, each with its rates and its state's size."""
    out = []
    for (phase, sums), rate, size in zip(phases(moments), rates, state_bytes, strict=True):
        written = size * (sums.tokens if phase == "decode" else sums.batch)
        act = rate.bytes(sums) - size * sums.batch - written
        out.append(streamed(
            f"{name}_{phase}", "state", f"{name}_{phase}", phase, run, sums, rate, act=act,
            written=written, access=Access("update", size),
        ))  # fmt: skip
    return out
