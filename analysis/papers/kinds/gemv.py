"""Matrix-vector products and attention in the banks of a GDDR6 PIM, and its kind of processor.

A channel broadcasts a chunk of the vector from its global buffer to all banks; every bank holds its
share of the matrix's rows, one DRAM row after another, and multiplies a column a clock. Nothing is
reused between vectors, so a product with m vectors takes m times as long (CENT, ASPLOS 2025, arXiv
2502.07578; GDDR6-AiM).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from opbyte.extend import DESCRIPTION, Cost, Described, Evidence, Op, PriceRow, Probe, Roof, Roofline, processor_kind


@dataclass(frozen=True, slots=True)
class BankGemv:
    """Units at the banks of one device's channels.

    Attributes
    ----------
    channels, banks : float
        Channels of a device, banks of a channel.
    row_values, column_values, registers : float
        Values of one bank's row (and of a global buffer), of a column, and accumulators a bank.
    column_s, row_cycle_s : float
        One column, and one row opened and closed (tRC) [s].
    row_extra_s : float
        What a row of a product takes besides: accumulators set and read [s].
    load_s : float
        A chunk of `row_values` into every global buffer [s].
    step_extra_s : float
        What a row of attention takes besides [s].
    softmax_s, vector_s : float
        The controller's part: of one head and cached token, and of one value of a norm [s].
    activation_J, column_J, load_J_per_byte, mac_J : float
        Opening one row of a bank, reading one column of it, the global buffer's path, one MAC.
    """

    channels: float
    banks: float
    row_values: float
    column_values: float
    registers: float
    column_s: float
    row_cycle_s: float
    row_extra_s: float
    load_s: float
    step_extra_s: float
    softmax_s: float
    vector_s: float
    activation_J: float
    column_J: float
    load_J_per_byte: float
    mac_J: float

    def __post_init__(self) -> None:
        for name in ("channels", "banks", "row_values", "column_values", "registers", "column_s", "row_cycle_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")

    def gemv_s(self, n: float, k: float, channels: float) -> float:
        """Return the time of a vector of k values through an n x k matrix in `channels` channels [s]."""
        rows, columns, chunks = self._work(n, k, channels)
        opened = rows * (self.row_cycle_s + self.row_extra_s)
        return opened + columns * self.column_s + chunks * self.load_s

    def _work(self, n: float, k: float, channels: float) -> tuple[int, int, int]:
        """DRAM rows and columns that a bank goes through, and chunks of the vector."""
        outputs = math.ceil(n / (channels * self.banks))
        chunks = math.ceil(k / self.row_values)
        return outputs * chunks, outputs * math.ceil(k / self.column_values), chunks

    def gemv_J(self, n: float, k: float, channels: float) -> float:
        """Energy of that product: rows, columns, MACs and the vector's way into the banks [J]."""
        rows, columns, chunks = self._work(n, k, channels)
        units = channels * self.banks
        loaded = channels * chunks * self.row_values * 2 * self.load_J_per_byte
        return units * (rows * self.activation_J + columns * self.column_J) + loaded + (n * k * self.mac_J)

    def _heads(self, heads: float, kv_heads: float, channels: float) -> tuple[float, float]:
        """Query heads that one channel goes through, and the share of a head's keys in a channel.

        KV heads are distributed whole over the channels; with more channels than KV heads, the keys of a head are split
        over several, its values are not.
        """
        per = kv_heads / channels
        return math.ceil(per) * heads / kv_heads, min(1.0, per)

    def attention_s(
        self, heads: float, kv_heads: float, tokens: float, head_dim: float, channels: float, whole: bool = True
    ) -> float:
        """Scores and weighted sum of one query over `tokens` cached tokens [s].

        Keys: a step takes one token in each bank and opens its row; a pass fills all registers.
        Values: a step takes the tokens that share a row. For every chunk of scores the global
        buffer is loaded, and each bank opens a row for each of its dimensions.

        Parameters
        ----------
        whole : bool
            Round passes, steps and chunks up, as commands do; without it, use their mean over contexts, for whole
            batches.
        """
        up = math.ceil if whole else float
        serial, share = self._heads(heads, kv_heads, channels)
        passes = up(tokens * share / (self.banks * self.registers))
        steps = passes * self.registers + up(tokens / (self.row_values / head_dim))
        chunks = up(tokens / self.row_values)
        step = self.row_cycle_s + head_dim / self.column_values * self.column_s + self.step_extra_s
        chunk = self.load_s + head_dim / self.banks * self.row_cycle_s
        return float(serial * (steps * step + chunks * chunk))

    def attention_J(self, heads: float, tokens: float, head_dim: float) -> float:
        """Energy of it: a row opened for every key, whole rows of values, columns and MACs [J]."""
        columns = 2 * tokens * head_dim / self.column_values
        rows = tokens + tokens * head_dim / self.row_values
        macs = 2 * tokens * head_dim
        return heads * (rows * self.activation_J + columns * self.column_J + macs * self.mac_J)


@dataclass(frozen=True, slots=True)
class GemvModel:
    """Cost model of such a device: every time grows with the number of vectors.

    A time is one vector's times their number, with attention at its mean over contexts. There is no reuse, so the units
    limit the rate ("compute").
    """

    base: Roofline
    units: BankGemv

    def _one(self, op: Op) -> tuple[float, float]:
        """Seconds and joules of an op per FLOP."""
        u, s = self.units, op.shape
        if op.product:
            n, k = s["n"], s["k"]
            return u.gemv_s(n, k, u.channels) / (2 * n * k), u.gemv_J(n, k, u.channels) / (2 * n * k)
        if op.kind in ("attention_decode", "attention_prefill"):
            heads, dim, many = s["heads_q"], s["head_dim"], 1 << 20
            flops = 4.0 * heads * dim * many
            took = u.attention_s(heads, s["heads_kv"], many, dim, u.channels, whole=False)
            took += many * heads * u.softmax_s
            return took / flops, u.attention_J(heads, many, dim) / flops
        if op.name in ("norm", "final_norm"):
            return u.vector_s / s["tensors"], self.base.J_per_flop[op.dtype]
        return 0.0, self.base.J_per_flop[op.dtype]

    def cost(self, op: Op) -> Cost:
        """Seconds, joules and bound of one op."""
        if op.kind not in PRICED:  # experts, states: a roofline of all banks at the rate of products
            return self._roofline().cost(op)
        per_s, per_J = self._one(op)
        took = op.flops * per_s
        return Cost.of(took, took, 0.0, 0.0, {"dram": 0.0, "compute": op.flops * per_J})

    def row(self, op: Op, probe: Probe) -> PriceRow:
        """Return the same cost for every batch."""
        if op.kind not in PRICED:
            return self._roofline().row(op, probe)
        per_s, per_J = self._one(op)
        rate = 1.0 / per_s if per_s else np.inf
        quiet = replace(
            self.base, stream_J_per_byte=0.0, act_J_per_byte=0.0, fixed_s=0.0,
            J_per_flop={**self.base.J_per_flop, op.dtype: per_J},
        )  # fmt: skip
        params = quiet.row(op, probe).params
        params.flops, params.bytes = rate, np.inf
        return PriceRow(params)

    def _roofline(self) -> Roofline:
        """All banks on long rows: one vector an expert, weights read for each token."""
        u = self.units
        row = u.row_values / u.column_values * u.column_s
        share = row / (row + u.row_cycle_s + u.row_extra_s)
        return replace(self.base, compute_efficiency=share, memory_efficiency=share, fixed_s=0.0)

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        """Basis of the times."""
        return [Evidence("vectors through banks", "", DESCRIPTION)] if ops else []

    def roof(self, dtype: str) -> Roof:
        """Nominal rates, and what whole rows attain of them."""
        return self._roofline().roof(dtype)


PRICED = ("gemm", "attention_decode", "attention_prefill", "elementwise")


@processor_kind("gddr6-pim", parameters=tuple(f.name for f in fields(BankGemv)))
def gddr6_pim(described: Described) -> GemvModel:
    """Units at the banks of GDDR6, a vector at a time, without any other processor (CENT)."""
    return GemvModel(described.base, BankGemv(**described.parameters))
