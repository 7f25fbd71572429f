"""A GPU whose matrix products are thread blocks of one tile each: occupancy as the only loss.

Products run in waves of one block a core, so FLOP/s and bandwidth shrink by blocks over the blocks that whole waves
would hold. The tile is the one with the least traffic to the L2 cache over occupancy squared. Vector operations cost a
fixed time and a time per byte; both are the model of AttAcc's authors (ASPLOS 2024, doi 10.1145/3620665.3640422).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from opbyte.extend import (
    DESCRIPTION,
    Cost,
    Described,
    Evidence,
    Op,
    PriceRow,
    Probe,
    Roof,
    Roofline,
    bound_code,
    by_count,
    processor_kind,
)

F8 = npt.NDArray[np.float64]

TILES = np.array([8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0])
"""Rows, and columns, of an output tile [quoted: AttAcc's simulator]."""

NORMS = ("norm", "final_norm")
ACTIVATION = "activation"


def occupancy(blocks: F8 | float, cores: int) -> F8:
    """Share of the cores that work, over whole waves of `blocks` thread blocks."""
    count = np.asarray(blocks, dtype=np.float64)
    return np.asarray(count / (np.ceil(count / cores) * cores))


def best_tile(m: F8 | float, n: float, cores: int) -> tuple[F8, F8]:
    """Occupancy and L2 traffic of products of `m` rows and `n` columns under their best tile.

    Returns
    -------
    share : float64 array, shape of `m`
    traffic : float64 array, shape of `m`
        Values read from the L2 cache for each step along the depth: (rows + columns) of every tile.
    """
    rows = np.asarray(m, dtype=np.float64)[..., None, None]
    tall, wide = TILES[:, None], TILES[None, :]
    blocks = np.ceil(rows / tall) * np.ceil(n / wide)
    share = occupancy(blocks, cores)
    traffic = blocks * (np.minimum(tall, rows) + np.minimum(wide, n))
    shape = (*traffic.shape[:-2], -1)
    best = (traffic / share**2).reshape(shape).argmin(axis=-1)[..., None]
    chosen_found = (np.take_along_axis(x.reshape(shape), best, axis=-1)[..., 0] for x in (share, traffic))
    chosen, moved = chosen_found
    return chosen, moved


def matmul_occupancy(m: F8 | float, n: float, cores: int) -> F8:
    """Occupancy of such products, shape of `m`."""
    return best_tile(m, n, cores)[0]


@dataclass(frozen=True, slots=True)
class TiledGpu:
    """Cost model of such a GPU.

    Attributes
    ----------
    base : Roofline
        Peaks, bandwidth and the share of them that full waves attain.
    norm_fixed_s, norm_s_per_byte, activation_fixed_s, activation_s_per_byte : float
        Of norms and activations: [s], and [s/B] over inputs and outputs.
    """

    base: Roofline
    cores: int
    norm_fixed_s: float
    norm_s_per_byte: float
    activation_fixed_s: float
    activation_s_per_byte: float

    @property
    def bandwidth(self) -> float:
        """Bytes per second that full waves attain."""
        return self.base.bandwidth * self.base.memory_efficiency

    def matmul_seconds(self, m: float, n: float, k: float, value_bytes: float, dtype: str) -> float:
        """A product of m x k and k x n values [s]."""
        share = float(matmul_occupancy(m, n, self.cores))
        moved = (m * k + k * n + m * n) * value_bytes
        peak = self.base.peak[dtype] * self.base.compute_efficiency
        return max(2.0 * m * n * k / peak, moved / self.bandwidth) / share

    def attention_seconds(self, heads: int, flops: float, moved: float, dtype: str) -> float:
        """Decode attention with one thread block a head and request, `heads` in all [s]."""
        share = float(occupancy(heads, self.cores))
        peak = self.base.peak[dtype] * self.base.compute_efficiency
        return max(flops / peak, moved / self.bandwidth) / share

    def norm_seconds(self, moved: float) -> float:
        """Return the time of a norm that moves `moved` bytes [s]."""
        return self.norm_fixed_s + self.norm_s_per_byte * moved

    def activation_seconds(self, moved: float) -> float:
        """Return the time of an activation that moves `moved` bytes [s]."""
        return self.activation_fixed_s + self.activation_s_per_byte * moved

    def cost(self, op: Op) -> Cost:
        """Seconds, joules and bound of one op."""
        if op.product and op.shape["m"]:
            seconds, parts = self._products(op, np.array([op.shape["m"]]))
            took, compute, memory = (float(x[0]) for x in (seconds, *parts))
            return Cost.of(took, compute, memory, self.base.fixed_s, self.base.joules(op))
        return self._vector(op).cost(op)

    def row(self, op: Op, probe: Probe) -> PriceRow:
        """Return the same cost for every batch: products by their count of rows."""
        row = self._vector(op).row(op, probe)
        if not op.product:
            return row

        def prices(op: Op, x: F8) -> tuple[F8, F8]:
            seconds, parts = self._products(op, x[:, 0])
            return seconds, bound_code(seconds, *parts, self.base.fixed_s)

        return replace(row, curve=by_count(op, probe, lambda o: np.array([o.shape["m"]]), prices))

    def _products(self, op: Op, m: F8) -> tuple[F8, tuple[F8, F8]]:
        """Return the seconds of a product with `m` rows, and its arithmetic and traffic seconds."""
        share, one = matmul_occupancy(m, op.shape["n"], self.cores), 1.0 / op.shape["m"]
        peak = self.base.peak[op.dtype] * self.base.compute_efficiency
        compute = op.flops * one * m / peak / share
        memory = (op.weight_bytes + op.act_bytes * one * m) / self.bandwidth / share
        return np.maximum(compute, memory) + self.base.fixed_s, (compute, memory)

    def _vector(self, op: Op) -> Roofline:
        """Return the roofline of an op that is not a product: norms and activations have separate rates."""
        if op.name in NORMS:
            fixed, rate = self.norm_fixed_s, self.norm_s_per_byte
        elif op.name.endswith(ACTIVATION):
            fixed, rate = self.activation_fixed_s, self.activation_s_per_byte
        else:
            return self.base
        efficiency = min(self.base.memory_efficiency, 1.0 / rate / self.base.bandwidth)
        return replace(self.base, fixed_s=fixed, memory_efficiency=efficiency)

    def evidence(self, ops: Sequence[Op]) -> list[Evidence]:
        """Basis of the times."""
        return [Evidence("tiles over cores", "", DESCRIPTION)] if ops else []

    def roof(self, dtype: str) -> Roof:
        """Nominal and attainable rates of full waves."""
        return self.base.roof(dtype)


@processor_kind(
    "tiled-xpu", parameters=("norm_fixed_s", "norm_s_per_byte", "activation_fixed_s", "activation_s_per_byte")
)
def tiled_xpu(described: Described) -> TiledGpu:
    """GPU with times by tiles over its cores and fixed times of vector operations (AttAcc)."""
    if described.cores is None:
        raise ValueError("needs cores")
    return TiledGpu(described.base, described.cores, **described.parameters)
