"""Time of the CPU kernels under a configuration, computed from the core's numbers.

As for a GPU's tiles: sums are in vector registers, operands in L1, repeatedly read data in L2 or L3, and each part of a
kernel takes a smooth maximum of its arithmetic and of its traffic. Times are in *slots*, the time of one vector FMA at
full rate; a core loads as many vectors a cycle as it multiplies. The loops are in `kernels/blocked.py`,
`kernels/blocked.py`, `kernels/flash.py` and `kernels/tiles.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

WHOLE = ("lanes", "registers")
"""Fields of a core that are integers; they come first."""


@dataclass(frozen=True, slots=True)
class Core:
    """Properties of one CPU core.

    Attributes
    ----------
    lanes, registers : int
        fp32 values of a vector register, and vector registers.
    l1_bytes, l2_bytes, l3_bytes : float
        Caches: two private ones and the shared one.
    fma_flops_per_s : float
        fp32, on registers.
    read_Bps, l2_Bps, l3_Bps : float
        Read from main memory and from the caches [B/s].
    """

    lanes: int
    registers: int
    l1_bytes: float
    l2_bytes: float
    l3_bytes: float
    fma_flops_per_s: float
    read_Bps: float
    l2_Bps: float
    l3_Bps: float

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Core:
        """Return a core from a table's row, or from any mapping of its numbers."""
        sizes: dict[str, Any] = {f.name: float(row[f.name]) for f in fields(cls) if f.name not in WHOLE}
        return cls(*(int(row[name]) for name in WHOLE), **sizes)

    @property
    def slot_s(self) -> float:
        """Return the seconds of one vector FMA, and of a vector load, at full rate."""
        return 2.0 * self.lanes / self.fma_flops_per_s

    def rate(self, working_set: float) -> float:
        """Return the bytes per second at which a working set of `working_set` bytes is read again."""
        if working_set <= self.l1_bytes:
            return 4.0 * self.lanes / self.slot_s
        if working_set <= self.l2_bytes:
            return self.l2_Bps
        return self.l3_Bps if working_set <= self.l3_bytes else self.read_Bps


Shape = Mapping[str, int]
Config = Mapping[str, int]
Parameters = Mapping[str, float]
FLOAT = 4
GROUP = 4
"""Number of query vectors that a dot tile of attention processes at once."""
STRIP = 16
"""Number of keys after which attention writes its sums back."""


@dataclass(frozen=True, slots=True)
class FormConstant:
    """A constant of a form: its value from the code and the data sheet, and the uncertainty of that value.

    Attributes
    ----------
    factor : float
        A fit pays for going away from `start` by this factor as much as for an error of `NOISE`.
    """

    start: float
    factor: float
    what: str


@dataclass(frozen=True, slots=True)
class CpuForm:
    """A CPU kernel whose configurations can be ranked.

    Attributes
    ----------
    terms : callable
        ``terms(parameters, core, shape, config)``: seconds by what they are spent on.
    """

    name: str
    parameters: dict[str, FormConstant]
    terms: Callable[[Parameters, Core, Shape, Config], dict[str, float]]

    @property
    def start(self) -> dict[str, float]:
        """Return the value of every parameter before a fit."""
        return {name: p.start for name, p in self.parameters.items()}

    def seconds(self, parameters: Parameters, core: Core, shape: Shape, config: Config) -> float:
        return sum(self.terms(parameters, core, shape, config).values())


CALL = FormConstant(2e-6, 1.5, "a call from Python [s]")
SHARP = FormConstant(3.0, 1.5, "exponent of the smooth maximum of arithmetic and traffic")
DRAWN = FormConstant(0.85, 1.2, "share of the read rate that a kernel attains")


def _gemm(parameters: Parameters, core: Core, shape: Shape, config: Config) -> dict[str, float]:
    """Return the time of a blocked product, see `kernels/blocked.py`: weights from memory first, then from caches."""
    m, n, k = shape["m"], shape["n"], shape["k"]
    rows, columns = config["register_m"], config["register_n"]
    block_m, block_n = min(config["block_m"] or m, m), min(config["block_n"] or n, n)
    slots, passes = 0.0, 0
    for top in range(0, m, block_m):
        for r, c, count in _row_tiles(min(block_m, m - top), rows, columns):
            slots += count * math.ceil(n / c) * _tile_slots(parameters, core, r, c, k)
            passes += count
    arithmetic, weights = slots * core.slot_s, float(FLOAT * n * k)
    again = (passes - 1) * weights / core.rate(FLOAT * k * (block_n + rows))
    # Rows of x pass again for every block of weights.
    blocks = math.ceil(n / block_n)
    again += (blocks - 1) * FLOAT * m * k / core.rate(FLOAT * k * (block_m + columns))
    first = arithmetic / max(passes, 1)
    return _parts(parameters, core, first, weights, arithmetic - first, again) | {"call": parameters["call"]}


def _row_tiles(m: int, rows: int, columns: int) -> Iterable[tuple[int, int, int]]:
    """Return the register tiles that cover `m` rows: (rows, columns, number of tiles one above another)."""
    rest = m % rows
    tiles = [(rows, columns, m // rows), (4, 4, rest // 4), (2, 4, rest % 4 // 2), (1, 4, rest % 2)]
    return [tile for tile in tiles if tile[2]]


def _tile_slots(parameters: Parameters, core: Core, rows: int, columns: int, k: int) -> float:
    """Return the slots of a register tile over the whole depth: the most of multiplies, loads, and waits for its sums."""
    steps = k / core.lanes
    if rows <= 2:  # column by column, eight sums in flight: x is loaded again for every column
        return steps * columns * (rows + 1) + columns * parameters["tile"]
    return steps * max(rows * columns, rows + columns, parameters["flight"]) + parameters["tile"]


def _parts(
    parameters: Parameters, core: Core, first: float, moved: float, rest: float, again: float
) -> dict[str, float]:
    """Return smooth maxima of arithmetic and memory traffic, then of arithmetic and cache traffic [s].

    The part of a maximum above its arithmetic is counted as traffic.
    """
    memory = moved / (parameters["drawn"] * core.read_Bps)
    cold, warm = _smooth(parameters["sharp"], first, memory), _smooth(parameters["sharp"], rest, again)
    return {"arithmetic": first + rest, "memory": cold - first, "cache": warm - rest}


def _smooth(sharp: float, a: float, b: float) -> float:
    top = max(a, b)
    if top <= 0.0:
        return 0.0
    return float(top * (1.0 + (min(a, b) / top) ** sharp) ** (1.0 / sharp))


def _attention(parameters: Parameters, core: Core, shape: Shape, config: Config) -> dict[str, float]:
    """Return the time of attention by units, see `kernels/flash.py`: a decode is cut by keys, a prompt by queries."""
    dim, heads, group = shape["head_dim"], shape["heads_kv"], shape["heads_q"] // shape["heads_kv"]
    new = shape.get("q_len", 1)
    total = shape["kv_len"] if "kv_len" in shape else new + shape["kv_prefix"]
    tile, block = config["tile"], config["block"] if new > 1 else 1
    slots = units = merged = swept = 0.0
    for first in range(0, new, block):
        count = min(block, new - first)
        end = total - new + first + count
        keys = min(end, shape["window"] + count - 1) if shape["window"] else end
        packed = math.ceil(count * group / GROUP)
        parts = math.ceil(keys / config["chunk"]) if new == 1 else 1
        step = math.ceil(math.ceil(keys / parts) / tile) * tile
        for start in range(0, keys, step):
            long = min(step, keys - start)
            slots += packed * _walk_slots(parameters, core, long, tile, dim)
            units += 1
        merged += math.ceil(keys / step) * packed * GROUP * dim
        swept += keys
    once = heads * shape["batch"]
    seen = min(total, shape["window"] + new - 1) if shape["window"] else total
    moved = 2.0 * FLOAT * dim * seen
    arithmetic = once * slots * core.slot_s
    again = once * (swept - seen) * 2.0 * FLOAT * dim / core.rate(moved)
    out = _parts(parameters, core, arithmetic, once * moved, 0.0, again)
    cut = once * (units * parameters["unit"] + merged / core.lanes * parameters["merge"]) * core.slot_s
    return out | {"units": cut, "call": parameters["call"]}


def _walk_slots(parameters: Parameters, core: Core, keys: int, tile: int, dim: int) -> float:
    """Return the slots of four query vectors over `keys` keys."""
    wide = dim / core.lanes
    tiles = math.ceil(keys / tile)
    fours = sum(math.ceil(min(tile, keys - t) / 4) for t in range(0, keys, tile))
    strips = sum(math.ceil(min(tile, keys - t) / STRIP) for t in range(0, keys, tile))
    # Of scores every multiply but each fifth load finds its operand in a register; the softmax runs
    # over whole tiles; sums of values are loaded and stored once a strip.
    scores = fours * (20.0 * wide + parameters["sums"])
    softmax = tiles * GROUP * tile / core.lanes * parameters["exp"]
    values = keys * (GROUP * wide + GROUP + 1) + strips * 2.0 * GROUP * wide
    occupancy = 2.0 * FLOAT * dim * tile / core.l1_bytes  # keys and values of a tile, over L1
    values *= float(max(1.0, occupancy) ** parameters["spill"])
    return scores + softmax + values + tiles * parameters["tile"]


FORMS = {
    form.name: form
    for form in (
        CpuForm(
            "gemm",
            {
                "flight": FormConstant(8.0, 1.1, "FMA in flight: 4 cycles, two a cycle"),
                "tile": FormConstant(30.0, 1.5, "slots to begin a register tile and add up its sums"),
                "drawn": DRAWN, "sharp": SHARP, "call": CALL,
            },
            _gemm,
        ),
        *(
            CpuForm(
                name,
                {
                    "sums": FormConstant(45.0, 1.3, "slots to add up 16 vectors: 15 sums, 30 shuffles"),
                    "exp": FormConstant(20.0, 1.3, "slots a vector of scores: mask, maximum, exp, store"),
                    "tile": FormConstant(150.0, 1.5, "slots a tile: its rows placed, its bounds"),
                    "unit": FormConstant(1000.0, 1.5, "slots a unit: queries copied, states"),
                    "merge": FormConstant(6.0, 1.5, "slots a vector of partial output"),
                    "spill": FormConstant(0.1, 1.5, "exponent of a tile's size over L1"),
                    "drawn": DRAWN, "sharp": SHARP, "call": CALL,
                },
                _attention,
            )
            for name in ("attention_decode", "attention_prefill")
        ),
    )
}  # fmt: skip
"""Kernel forms by name."""
