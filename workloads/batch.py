"""What one step of continuous batching works on, and the sums that its cost depends on.

Every op's FLOPs and bytes are affine in a few sums over the batch (*moments*), given the
expert loads. That is what lets the same layer code serve the explicit path (one op at a time)
and the compiled one (coefficients times moments): see ``simulator/step/lowering.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DECODE, PREFILL = 0, 1

TOKENS, SEQUENCES, DECODES, PREFILL_TOKENS, PREFILLS = range(5)
BASE_MOMENTS = 5
"""Those of the whole batch."""
DECODE_KV, PREFILL_PAIRS, PREFILL_KV, PREFILL_RECT = range(4)
WINDOW_MOMENTS = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """The sequences of one step on one rank.

    Attributes
    ----------
    q_len : int64 array, shape (n,)
        New tokens of each sequence; 1 for a decode.
    context : int64 array, shape (n,)
        Tokens of each sequence already in the KV cache.
    phase : int64 array, shape (n,)
        `DECODE` or `PREFILL`.
    seq_id : int64 array, shape (n,)
        Request of each sequence (routing may depend on it).
    """

    q_len: npt.NDArray[np.int64]
    context: npt.NDArray[np.int64]
    phase: npt.NDArray[np.int64]
    seq_id: npt.NDArray[np.int64]

    @classmethod
    def of(cls, decodes: Sequence[int] = (), chunks: Sequence[tuple[int, int]] = ()) -> Batch:
        """Build a batch from decode contexts and (new tokens, context) prefill chunks."""
        q_len = [1] * len(decodes) + [q for q, _ in chunks]
        context = [*decodes, *(c for _, c in chunks)]
        phase = [DECODE] * len(decodes) + [PREFILL] * len(chunks)
        columns = q_len, context, phase, range(len(q_len))
        return cls(*(np.array(x, dtype=np.int64) for x in columns))

    @property
    def tokens(self) -> int:
        return int(self.q_len.sum())

    def moments(self, windows: tuple[int, ...]) -> Moments:
        """Sum up the batch for a model whose attention windows are `windows` (0 = none)."""
        values = np.zeros(BASE_MOMENTS + WINDOW_MOMENTS * len(windows))
        decode = self.phase == DECODE
        q, c = self.q_len[~decode], self.context[~decode]
        values[TOKENS] = self.q_len.sum()
        values[SEQUENCES] = len(self.q_len)
        values[DECODES] = decode.sum()
        values[PREFILL_TOKENS] = q.sum()
        values[PREFILLS] = len(q)
        seen = self.context[decode] + 1
        for i, window in enumerate(windows):
            at = BASE_MOMENTS + WINDOW_MOMENTS * i
            values[at + DECODE_KV] = (np.minimum(seen, window) if window else seen).sum()
            kv = np.minimum(c + q, window + q - 1) if window else c + q
            values[at + PREFILL_PAIRS] = (
                visible_pairs(c + q, window) - visible_pairs(c, window)
            ).sum()
            values[at + PREFILL_KV] = kv.sum()
            values[at + PREFILL_RECT] = (q * kv).sum()
        return Moments(windows, values)


def visible_pairs(tokens: npt.NDArray[np.int64], window: int) -> npt.NDArray[np.int64]:
    """Query-key pairs of a causal prompt of `tokens`, each query seeing at most `window` keys.

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
        return float(self.values[SEQUENCES])

    @property
    def decodes(self) -> float:
        return float(self.values[DECODES])

    @property
    def prefill_tokens(self) -> float:
        return float(self.values[PREFILL_TOKENS])

    @property
    def prefills(self) -> float:
        """Prompt chunks in the batch."""
        return float(self.values[PREFILLS])

    def _window(self, window: int, which: int) -> float:
        at = BASE_MOMENTS + WINDOW_MOMENTS * self.windows.index(window)
        return float(self.values[at + which])

    def decode_kv(self, window: int) -> float:
        """Keys read by all decodes, the new token's included."""
        return self._window(window, DECODE_KV)

    def prefill_pairs(self, window: int) -> float:
        """Query-key pairs a causal prefill computes."""
        return self._window(window, PREFILL_PAIRS)

    def prefill_kv(self, window: int) -> float:
        """Keys read by all prompt chunks, each key once a chunk."""
        return self._window(window, PREFILL_KV)

    def prefill_rect(self, window: int) -> float:
        """Entries of the full (unmasked) score matrices of all chunks."""
        return self._window(window, PREFILL_RECT)
