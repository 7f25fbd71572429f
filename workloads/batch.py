"""The batch of one step of continuous batching, and the sums (moments) that the cost of its ops depends on.

Every op's FLOPs and bytes are affine in a few sums over the batch (*moments*), given the
expert loads. That is what lets the same layer code serve the explicit path (one op at a time)
and the compiled one (coefficients times moments): see ``simulator/step/lowering.py``.

Where a decode may bring several tokens at once (speculative decoding verifies its drafts so), two
kinds of sums stand behind those: new tokens of all decodes, and for every window their pairs of
query and key. Batches of anything else do without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

DECODE, PREFILL = 0, 1

TOKENS, SEQUENCES, DECODES, PREFILL_TOKENS, PREFILLS = range(5)
BASE_MOMENTS = 5
"""Number of moments that cover the whole batch, independent of attention windows."""
DECODE_KV, PREFILL_PAIRS, PREFILL_KV, PREFILL_RECT = range(4)
SHORT_TOKENS = PREFILL_RECT
"""Meaning of this entry for a negative window -n: new tokens of the prompt chunks that see at most `n` tokens. It
replaces the sum of score-matrix entries."""
WINDOW_MOMENTS = 4


def num_moments(windows: int, several: bool) -> int:
    """Return the number of moments of a batch for a model with `windows` attention windows.

    `several`: decodes may have more than one token.
    """
    return BASE_MOMENTS + WINDOW_MOMENTS * windows + (1 + windows if several else 0)


def batch_tokens(m: npt.NDArray[np.float64], windows: int) -> float:
    """Return the tokens of a batch without the padding of captured graphs; decodes count all of their draft tokens."""
    behind = BASE_MOMENTS + WINDOW_MOMENTS * windows
    decodes = m[behind] if m.size - behind > 1 else m[DECODES]
    return float(decodes + m[PREFILL_TOKENS])


@dataclass(frozen=True, slots=True)
class Batch:
    """The sequences of one step on one rank.

    Attributes
    ----------
    q_len : int64 array, shape (n,)
        New tokens of each sequence; 1 for a decode, more for one whose drafts are verified.
    context : int64 array, shape (n,)
        Tokens of each sequence already in the KV cache.
    phase : int64 array, shape (n,)
        `DECODE` or `PREFILL`.
    seq_id : int64 array, shape (n,)
        Request of each sequence (routing may depend on it).
    every : bool
        Whether each new token of a decode has a row of logits, as verification needs; if not, only its last one.
    """

    q_len: npt.NDArray[np.int64]
    context: npt.NDArray[np.int64]
    phase: npt.NDArray[np.int64]
    seq_id: npt.NDArray[np.int64]
    every: bool = field(default=True, kw_only=True)

    @classmethod
    def of(cls, decodes: Sequence[int] = (), chunks: Sequence[tuple[int, int]] = (), new: int = 1) -> Batch:
        """Build a batch from decode contexts and (new tokens, context) prefill chunks.

        Each decode brings `new` tokens.
        """
        q_len = [new] * len(decodes) + [q for q, _ in chunks]
        context = [*decodes, *(c for _, c in chunks)]
        phase = [DECODE] * len(decodes) + [PREFILL] * len(chunks)
        columns = q_len, context, phase, range(len(q_len))
        return cls(*(np.array(x, dtype=np.int64) for x in columns))

    @property
    def tokens(self) -> int:
        return int(self.q_len.sum())

    def moments(self, windows: tuple[int, ...], several: bool = False) -> Moments:
        """Return the moments of the batch for attention windows `windows` (0 = none; see `SHORT_TOKENS`).

        `several` adds the sums for decodes of more than one token; a batch with such decodes needs them.
        """
        values = np.zeros(num_moments(len(windows), several))
        decode = self.phase == DECODE
        q, c = self.q_len[~decode], self.context[~decode]
        decode_q, before = self.q_len[decode], self.context[decode]
        if not several and (decode_q > 1).any():
            raise ValueError("decodes of several tokens need the sums of such")
        values[TOKENS] = self.q_len.sum()
        values[SEQUENCES] = len(q) + (decode_q.sum() if self.every else len(decode_q))
        values[DECODES] = decode.sum()
        values[PREFILL_TOKENS] = q.sum()
        values[PREFILLS] = len(q)
        seen = before + decode_q
        for i, window in enumerate(windows):
            at = BASE_MOMENTS + WINDOW_MOMENTS * i
            if window < 0:  # of prompts that see at most so many tokens
                new, all_ = q[c + q <= -window], (c + q)[c + q <= -window]
                pairs = visible_pairs(all_, 0) - visible_pairs(all_ - new, 0)
                values[at + PREFILL_PAIRS], values[at + PREFILL_KV] = pairs.sum(), all_.sum()
                values[at + SHORT_TOKENS] = new.sum()
                continue
            read = np.minimum(seen, window + decode_q - 1) if window else seen
            values[at + DECODE_KV] = read.sum()
            if several:
                pairs = visible_pairs(seen, window) - visible_pairs(before, window)
                values[num_moments(len(windows), False) + 1 + i] = pairs.sum()
            kv = np.minimum(c + q, window + q - 1) if window else c + q
            values[at + PREFILL_PAIRS] = (visible_pairs(c + q, window) - visible_pairs(c, window)).sum()
            values[at + PREFILL_KV] = kv.sum()
            values[at + PREFILL_RECT] = (q * kv).sum()
        if several:
            values[num_moments(len(windows), False)] = decode_q.sum()
        return Moments(windows, values)


def visible_pairs(tokens: npt.NDArray[np.int64], window: int) -> npt.NDArray[np.int64]:
    """Return the query-key pairs of a causal prompt of `tokens` tokens if each query sees at most `window` keys.

    Closed form of ``sum(min(j, window) for j in 1..tokens)``; `window` 0 means no limit.
    """
    inside = np.minimum(tokens, window) if window else tokens
    return inside * (inside + 1) // 2 + (tokens - inside) * window


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over a batch: tokens, sequences, decodes, and KV lengths per attention window."""

    windows: tuple[int, ...]
    values: npt.NDArray[np.float64]

    @property
    def tokens(self) -> float:
        return float(self.values[TOKENS])

    @property
    def sequences(self) -> float:
        """Rows of logits: one per sequence, and one more for each draft token that is verified."""
        return float(self.values[SEQUENCES])

    @property
    def decode_tokens(self) -> float:
        """New tokens of all decodes, draft tokens included."""
        return self._several(0, self.decodes)

    def _several(self, which: int, single: float) -> float:
        """Return the extra sum number `which` of a batch whose decodes have several tokens.

        `single` if the batch has no such sums.
        """
        at = num_moments(len(self.windows), False) + which
        return float(self.values[at]) if at < len(self.values) else single

    @property
    def decodes(self) -> float:
        return float(self.values[DECODES])

    @property
    def prefill_tokens(self) -> float:
        return float(self.values[PREFILL_TOKENS])

    @property
    def prefills(self) -> float:
        """Number of prompt chunks in the batch."""
        return float(self.values[PREFILLS])

    def _window(self, window: int, which: int) -> float:
        at = BASE_MOMENTS + WINDOW_MOMENTS * self.windows.index(window)
        return float(self.values[at + which])

    def decode_kv(self, window: int) -> float:
        """Return the number of keys that all decodes read, new tokens included; each decode reads a key once."""
        return self._window(window, DECODE_KV)

    def decode_pairs(self, window: int) -> float:
        """Return the number of query-key pairs of all decodes."""
        return self._several(1 + self.windows.index(window), self.decode_kv(window))

    def prefill_pairs(self, window: int) -> float:
        """Return the number of query-key pairs that causal prefill computes."""
        return self._window(window, PREFILL_PAIRS)

    def prefill_kv(self, window: int) -> float:
        """Return the number of keys that all prompt chunks read; each chunk reads a key once."""
        return self._window(window, PREFILL_KV)

    def short_tokens(self, most: int) -> float:
        """Return the new tokens of the prompt chunks that see at most `most` tokens."""
        return self._window(-most, SHORT_TOKENS)

    def prefill_rect(self, window: int) -> float:
        """Return the number of entries of the full (unmasked) score matrices of all prompt chunks."""
        return self._window(window, PREFILL_RECT)
