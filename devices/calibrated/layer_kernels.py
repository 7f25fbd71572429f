"""Families of the kernels of sparse attention and recurrent layers, all of one formula (`streamed`).

A family reads its measured rows here: what a pair, a key, a token and a sequence of them cost is said
as the layers say it (`workloads.layers`), so that rows and ops are the same quantities.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...workloads.jit import compiled_part
from ...workloads.kernel_tables import KernelTable, joined
from ...workloads.layers.indexer import score_rates, select_rates
from ...workloads.layers.recurrent import conv_rates, delta_rates
from ...workloads.layers.streamed import GATHERS, Rates, encoder_rates, hyper_rates, sparse_rates
from ...workloads.ops import Op
from ...workloads.records import Records
from .family import F8, I8, Family, Parameter, parameters_of
from .hardware import C_16, C_32, C_FP8, CODES
from .terms import COLD, Parts, Work, resident, rows_of, soft_max

QUANTITIES = (
    "batch", "tokens", "pairs", "kv", "flops", "pair_bytes", "key_bytes", "token_bytes",
    "seq_bytes", "token_units", "key_units", "seq_units", "rows", "walks_keys", "least_pairs",
    "copies", "format",
)  # fmt: skip
"""Quantities of a call: its sums, rates (`workloads.layers.streamed`), copies of its operands, and format."""

PARAMETERS = parameters_of("streamed")

OVERLAP = 3.0
"""Exponent of the soft maxima of arithmetic, memory and the traffic of cores."""
STEPS = 256.0
WIDE = 60.0
"""Rows of a warp group's tile, which pairs of cores double on data-centre Blackwell: FlashMLA takes 64 heads there and
128 here (deepseek-ai/FlashMLA, README)."""
BLACKWELL, WORKSTATION = 10.0, 12.0
"""Compute capabilities of data-centre Blackwell, and of the next kind of cores."""
CACHE_RATE = 2.5
"""Bandwidth of the last-level cache over the memory's, as in `mla`."""


@compiled_part
def moved(inputs: Records) -> float:
    """Return the bytes that a call moves."""
    return float(
        inputs.pairs * inputs.pair_bytes
        + inputs.kv * inputs.key_bytes
        + inputs.tokens * inputs.token_bytes
        + inputs.batch * inputs.seq_bytes
    )


@compiled_part
def parts(parameters: Records, hardware: Records, inputs: Records) -> Parts:
    """Return the seconds of one call, and its arithmetic, memory and fixed seconds."""
    if inputs.batch <= 0.0 or inputs.tokens <= 0.0:
        return 0.0, 0.0, 0.0, 0.0
    cores = hardware.cores
    pieces = inputs.tokens * inputs.token_units + inputs.kv * inputs.key_units + inputs.batch * inputs.seq_units
    pieces = max(pieces, 1.0)
    busy = pieces / (1.0 + (pieces / cores) ** 4) ** 0.25
    tile = parameters.tile_rows
    if tile >= WIDE and BLACKWELL <= hardware.capability < WORKSTATION:
        tile *= 2.0
    padded = max(inputs.rows, tile) / inputs.rows
    rate = parameters.peak * hardware.peak[int(inputs.format)]
    pairs = max(inputs.pairs, inputs.tokens * inputs.least_pairs)
    math_s = pairs * inputs.flops * padded / rate * (cores / busy)
    math_s += parameters.unit_s * (1.0 + (pieces / cores) ** 4) ** 0.25
    size = moved(inputs)
    stays = resident(size * inputs.copies, parameters.cache * hardware.cache)
    cost = 1.0 - stays + stays / CACHE_RATE
    memory_s = soft_max(
        size * cost / (parameters.memory * hardware.bandwidth),
        size / (parameters.core_bytes * hardware.clock * busy),
        OVERLAP,
    )
    work_s, fixed = soft_max(math_s, memory_s, OVERLAP), parameters.launch_s
    walk_s = parameters.step_s / (inputs.batch * STEPS)
    if inputs.walks_keys > 0.0 or inputs.token_units * inputs.seq_units == 0.0:
        fixed += walk_s * (inputs.kv if inputs.walks_keys > 0.0 else inputs.tokens)
        return fixed + work_s, math_s, memory_s, fixed
    # What is cut along tokens, too: a core walks along the sequences that it holds, one after another, beside that.
    sequences = inputs.batch * inputs.seq_units / cores
    walk_s *= inputs.tokens * (1.0 + sequences**4) ** 0.25
    return fixed + soft_max(work_s, walk_s, OVERLAP), max(math_s, walk_s), memory_s, fixed


@compiled_part
def work(inputs: Records) -> Work:
    """Return the FLOP of the pairs, and the bytes if every operand moves once."""
    return inputs.pairs * inputs.flops, moved(inputs), 0.0, int(inputs.format)


@compiled_part
def at_sums(inputs: Records, batch: float, tokens: float, pairs: float, keys: float) -> bool:
    """Set a call's sums; return False without work."""
    inputs.batch, inputs.tokens, inputs.pairs, inputs.kv = batch, tokens, pairs, keys
    return batch > 0.0 and tokens > 0.0


rows = rows_of("streamed", parts, work)


def from_op(op: Op) -> F8 | None:
    """Return the quantities of an op of a serving step."""
    if op.dtype not in CODES:
        return None
    rates = [op.shape[name] for name in QUANTITIES[: QUANTITIES.index("copies")]]
    return np.array([*rates, COLD, float(CODES[op.dtype])])


def _x(table: KernelTable, format_: Any, rates: Rates, batch: Any, tokens: Any, pairs: Any, kv: Any) -> F8:
    """Return the quantities of rows; graph replays re-read one set of operands."""
    sums = {"batch": batch, "tokens": tokens, "pairs": pairs, "kv": kv}
    values = {**sums, **asdict(rates), "copies": 1.0, "format": format_}
    columns = [np.broadcast_to(values[name], len(table)) for name in QUANTITIES]
    return np.column_stack(columns).astype(np.float64)


def _scores(table: KernelTable) -> F8:
    """Return the quantities of an indexer's scores with keys of 128 values on a Hopper device of 132 SMs.

    A pool is `compress_ratio` positions.
    """
    pool, batch, q, before = (table[c] for c in ("compress_ratio", "batch", "q_len", "kv_prefix"))
    paged = table.family == "index_decode"
    heads = np.where(table["kernel"] == "glm5_mqa_logits", 32.0, 64.0)
    rates = score_rates(heads, 128.0, 132.0, paged)
    pairs = batch * q * (before + (q + 1.0) / 2.0) / pool
    return _x(table, C_FP8, rates, batch, batch * q, pairs, batch * (before + q) / pool)


def _select(table: KernelTable) -> F8:
    pool, batch, q, before = (table[c] for c in ("compress_ratio", "batch", "q_len", "kv_prefix"))
    best = np.where(pool > 1.0, np.where(table["heads"] == 128.0, 1024.0, 512.0), WIDEST)
    pairs = batch * q * (before + (q + 1.0) / 2.0) / pool
    rates = select_rates(best, 1.0 * (q == 1.0))
    return _x(table, C_16, rates, batch, batch * q, pairs, batch * (before + q) / pool)


WIDEST = 2048.0
"""Number of chosen entries from which another kernel is used (`glm5_topk` instead of `dsv4_csa_topk`)."""


def _chooses(inputs: Records) -> I8:
    """Return the kernel that chooses; for fewer entries decodes have a separate one."""
    out: I8 = np.where(inputs["token_bytes"] >= 4.0 * WIDEST, 0, 1 + (inputs["seq_units"] > 0.0))
    return out


def _aligned(inputs: Records) -> I8:
    """Return 0 for multiples of sixteen heads, for which vector loads are compiled, and 1 for others."""
    out: I8 = (inputs["rows"] % 16.0 > 0.0).astype(np.int64)
    return out


def _sparse(table: KernelTable) -> F8:
    batch, q, before = table["batch"], table["q_len"], table["kv_prefix"]
    dsa, decode = table["kernel"] == "glm5_dsa_attn", table.family == "sparse_decode"
    tokens, total = batch * q, before + q
    chosen = batch * (_below(total, 2048.0) - _below(before, 2048.0))
    pooled = tokens * (128.0 + (before + (q + 1.0) / 2.0) / 128.0)
    pairs = np.where(dsa, chosen, np.minimum(pooled, tokens * total))
    every = np.where(dsa, batch * total, batch * (total / 128.0 + 128.0))
    rates = sparse_rates(
        table["heads"], np.where(dsa, 1088.0, 1024.0), np.where(dsa, 1152.0, 584.0), decode,
        np.where(dsa, 2048.0, 192.0), np.where(dsa, 0.0, GATHERS),
    )  # fmt: skip
    return _x(table, C_16, rates, batch, tokens, pairs, pairs if decode else every)


def _below(tokens: F8, most: float) -> F8:
    """Return the causal pairs of prompts with the given tokens, of at most `most` keys each."""
    inside = np.minimum(tokens, most)
    out: F8 = inside * (inside + 1.0) / 2.0 + (tokens - inside) * most
    return out


def _tokens(table: KernelTable, rates: Rates) -> F8:
    """Return the quantities of recurrent kernels, in which a token is its only pair."""
    format_ = np.where(table["dtype"] == "fp32", C_32, C_16)
    return _x(table, format_, rates, table["batch"], *(table["tokens"],) * 3)


def _encoder(table: KernelTable) -> F8:
    """Return the quantities of an image tower's attention, in which every patch of a picture sees all others."""
    batch, q = table["batch"], table["q_len"]
    rates = encoder_rates(table["heads"], table["head_dim"])
    return _x(table, C_16, rates, batch, batch * q, batch * q * q, batch * q)


def _conv(table: KernelTable) -> F8:
    return _tokens(table, conv_rates(table["channels"], table["conv"]))


def _delta(table: KernelTable) -> F8:
    heads, key, value = table["heads_v"], table["dim_k"], table["dim_v"]
    decode = table.family.endswith("decode")
    width = np.where(table["dtype"] == "fp32", 4.0, 2.0)  # the lab's own kernels
    return _tokens(table, delta_rates(heads, key, value, 4.0 * heads * key * value, decode, width))


def _hyper(table: KernelTable) -> F8:
    rates = hyper_rates(table["hidden"], table["streams"], table.family == "hyper_pre")
    tokens = table["sites"] * table["tokens"]
    return _x(table, C_16, rates, 1.0, tokens, tokens, tokens)


def _no_table(table: KernelTable) -> F8:
    """Return the rows of kernels that no table times separately: they are derived from modules (`analysis.validate.layer_sets`)."""
    raise ValueError(f"{table.family} has no table")


@dataclass(frozen=True, slots=True)
class _Family:
    """Settings of a family of layer kernels: title, table reader, kinds of op, and kernels by name prefix."""

    title: str
    read: Callable[[KernelTable], F8]
    kinds: tuple[str, ...]
    kernels: tuple[str, ...]
    phases: tuple[str, ...] = ()


def _rows(name: str) -> list[dict[str, str]]:
    with (Path(__file__).parent / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


_READERS = {f.__name__: f for f in (_scores, _select, _no_table, _sparse, _conv, _delta, _encoder, _hyper)}
_FAMILIES: dict[str, _Family] = {
    row["name"]: _Family(
        row["title"], _READERS[f"_{row['reader']}"], *(tuple(row[n].split()) for n in ("kinds", "kernels", "phases"))
    )
    for row in _rows("layer_families.csv")
}
"""Settings of the families by name. Mamba-2's scan has no measured rows: it uses the parameters of the delta rule,
whose recurrence moves the same states, with separate FLOP and bytes."""


def _parameters(name: str) -> tuple[Parameter, ...]:
    """Return the identifiable bounds (layer_bounds.csv); default: the common ones."""
    by_parameter = {row["parameter"]: row for row in _rows("layer_bounds.csv") if name in row["families"].split()}
    told: dict[str, dict[str, Any]] = {
        key: {n: float(row[n]) for n in ("default", "low", "high", "spread") if row[n]}
        for key, row in by_parameter.items()
    }
    return tuple(replace(p, **told.get(p.name, {})) for p in PARAMETERS)


_BRANCHES: Mapping[str, Any] = {
    "index_select": {"branches": ("wide", "narrow", "narrow+decode"), "branch": _chooses},
    "encoder_attention": {"branches": ("heads", "heads+odd"), "branch": _aligned},
}

LAYER_FAMILIES: Mapping[str, Family] = {
    name: Family(name, own.title, own.kinds, _parameters(name), QUANTITIES, rows, own.read, from_op,
                 silicon=("memory", "cache"), **_BRANCHES.get(name, {}))
    for name, own in _FAMILIES.items()
}  # fmt: skip
"""Families of layer kernels by name. They share one formula; their parameters are in `specs/layer_kernels`."""

LAYER_TABLES = ("indexer", "gdn", "kda", "mamba2", "mhc", "encoder_attention")
"""Stems of tables whose rows belong to these families, by kernel."""


DRAFTS = 4.0
"""Maximum new tokens of a decode in rows of paged scores that count as decodes, with or without drafts."""


def split_layers(tables: dict[str, KernelTable]) -> None:
    """Move rows of `LAYER_TABLES` to tables of the families that they time."""
    for stem in LAYER_TABLES:
        table = tables.pop(stem, None)
        if table is None:
            continue
        for name, families in _FAMILIES.items():
            matches = np.array([_times(families, table, i) for i in range(len(table))], dtype=np.bool_)
            if matches.any():
                table_held = tables.get(name)
                rows = _common(table.take(matches), name, 3.0 if stem == "kda" else 1.0)
                tables[name] = rows if table_held is None else joined([table_held, rows])


ONE_WIDTH = ("aiconfigurator/trtllm", "aiconfigurator/sglang-0.5.10")
"""Sources whose convolutions of delta nets were timed at one width for all rows: the times do not change with the
channels, although the most channels would need four times the memory bandwidth."""


def _times(family: _Family, table: KernelTable, i: int) -> bool:
    source = str(table["source"][i])
    if not str(table["kernel"][i]).startswith(family.kernels) or table["timing"][i] == "event":
        return False
    if family.read is _conv and "heads_k" in table.columns and source.startswith(ONE_WIDTH):
        return False
    if family.read is _encoder and "sglang" in source and str(table["device"][i]).startswith("B300"):
        return False  # Triton, four to five times as long; B200 and GB200 have FlashAttention there
    if "scores" in table.columns and str(table["scores"][i]).endswith("flat"):
        return False  # all scores equal: no model's are
    if "index_decode" in family.kinds and table["q_len"][i] > DRAFTS:
        return False
    if family.read is _sparse:  # one kernel, decodes and prompts
        q = table["q_len"][i]
        return bool((q == 1.0) == ("sparse_decode" in family.kinds))
    return not family.phases or table["phase"][i] in family.phases


def _common(table: KernelTable, name: str, calls: float) -> KernelTable:
    """Return a table with the columns that the family reads, so that tables of several kinds of layers can be joined.

    `calls` is the number of calls in a row of convolutions: KDA has separate ones for queries, keys and values.
    """
    c = dict(table.columns)
    if name.startswith("conv"):
        wide = (
            2.0 * c["heads_k"] * c["dim_k"] + c["heads_v"] * c["dim_v"] if "heads_k" in c
            else c["heads"] * c["head_dim"] + 2.0 * c["groups"] * c["state"]
        )  # fmt: skip
        c |= {"measured_s": c["measured_s"] / calls}
        names = ("source", "device", "kernel", "dtype", "batch", "tokens", "conv", "timing",
                 "measured_s", "phase", "q_len")  # fmt: skip
        c = {**{key: c[key] for key in names}, "channels": wide / calls}
    return replace(table, family=name, columns=c)
