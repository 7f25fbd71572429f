"""Lowering of a model's ops to an engine's program, one rule per op kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...devices.fpga_engine import EngineSpec
from ...workloads.errors import CapacityError
from ...workloads.ops import Op
from ...workloads.registry import Registry
from .schedules import ATTENTION, EMBEDDING, PAIR, ROUTER, ExpertBlock, ExpertLoad, Item, Tile, UnitPass


@dataclass(frozen=True, slots=True)
class FpgaTarget:
    """A design with its utilisation and its lowering options.

    Attributes
    ----------
    utilisation : float
        Share of cycles in which the arrays do useful work.
    biases : bool
        Whether matrices have biases, which are loaded with the weights.
    attention_reorder : bool
        Whether queries share a pass over the keys (as in Edge-MoE); otherwise each query reads all keys.
    """

    engine: EngineSpec
    utilisation: float = 1.0
    biases: bool = False
    attention_reorder: bool = True

    def cycles(self, rows: float, n: int, k: int) -> float:
        """Return the cycles of the linear array that maps `rows` vectors of `k` values to `n` values."""
        a = self.engine.linear
        return rows * math.ceil(k / a.inputs) * math.ceil(n / a.outputs) / self.utilisation

    def stored(self, values: float, model_bytes: float) -> float:
        """Return the bytes of weights in the design's format; `model_bytes` if the design uses the model's format."""
        bits = self.engine.weight_bits
        return model_bytes if bits is None else values * bits / 8

    def traffic(self, reads: Sequence[float], writes: Sequence[float]) -> tuple[float, ...]:
        """Return streams of bytes distributed to the data ports, with separate read and write channels."""
        if self.engine.activations == "on-chip":
            return ()
        ports = self.engine.ports.data
        channels = [0.0] * (2 * ports)
        for first, streams in ((0, reads), (ports, writes)):
            for i, size in enumerate(streams):
                channels[first + i % ports] += size
        return tuple(size for size in channels if size)

    def act_bytes(self, default: float) -> float:
        """Return the bytes of an activation value."""
        bits = self.engine.activation_bits
        return default if bits is None else bits / 8


Lower = Callable[[Op, FpgaTarget], list[Item]]
LOWER: Registry[Lower] = Registry("op kind of the FPGA engine")
FUSED = ("positions", "activation", "combine", "rope", "shared_activation", "residual_activation")
"""Vector ops that run inside the matrix unit's streams, at no extra cost.

Source: HLS code of Edge-MoE, where GELU, biases and the score-weighted sum are options of the linear unit. Rotary embedding
is assumed to be fused too.
"""


def lower_ops(ops: Sequence[Op], target: FpgaTarget) -> list[Item]:
    """Return the items of all ops in order; kinds without a rule stream their bytes."""
    out: list[Item] = []
    for op in ops:
        if op.flops <= 0 and op.act_bytes <= 0:
            continue
        if op.kind in LOWER:
            out += LOWER[op.kind](op, target)
        else:
            out += _streamed(op, target)
    return out


@LOWER.register("gemm")
def _gemm(op: Op, target: FpgaTarget) -> list[Item]:
    """Lower a matrix, or several of one shape; cut it into tiles if a buffer takes only a part."""
    m, n, k = op.shape["m"], int(op.shape["n"]), int(op.shape["k"])
    batch = int(op.shape.get("batch", 1))
    if op.name == "router":
        return _gate(op, target)
    size = target.stored(n * k * batch, op.weight_bytes)
    size += target.stored(n, 2.0 * n) * target.biases
    act = target.act_bytes(2.0)
    pixels = op.layer == "embedding"  # pixels have 8 bits
    reads, written = [m * k * batch * (1.0 if pixels else act)], m * n * batch * act
    if op.name in ("out", "down"):
        reads.append(written)  # the residual stream is read and written back
    work = UnitPass(op.name, op.layer, "embedding" if pixels else "linear",
                batch * target.cycles(m, n, k), target.traffic(reads, [written]),
                m * n * k * batch)  # fmt: skip
    pieces = 3 if op.name == "qkv" and target.engine.load_unit == "matrix" else 1
    return cut(Tile(work, size, _region(op, target)), target, pieces)


def _region(op: Op, target: FpgaTarget) -> str:
    """Return the buffer of a matrix's weights: a separate one if the design has it."""
    buffers = target.engine.buffers
    if op.layer == "attention" and buffers.attention_bytes is not None:
        return ATTENTION
    if op.layer == "embedding" and buffers.embedding_bytes is not None:
        return EMBEDDING
    return PAIR


def region_bytes(region: str, engine: EngineSpec) -> float:
    """Return the maximum size of one load into a region [B]."""
    buffers = engine.buffers
    if region == ATTENTION:
        return buffers.attention_bytes or 0.0
    if region == EMBEDDING:
        return buffers.embedding_bytes or 0.0
    return buffers.weights_bytes


def cut(tile: Tile, target: FpgaTarget, whole: int = 1) -> list[Item]:
    """Split a tile into `whole` matrices, and each of them into pieces that fit a buffer.

    Raises
    ------
    CapacityError
        A matrix that the design must not cut is larger than its buffer.
    """
    room = region_bytes(tile.region, target.engine)
    piece = tile.weight_bytes / whole
    pieces = whole * math.ceil(piece / room * (1 - 1e-9))
    if target.engine.load_unit == "matrix" and pieces > whole:
        raise CapacityError(
            f"matrix {tile.work.name}", f"is larger than its buffer: needs {piece:,.0f} bytes, {room:,.0f} available"
        )
    w = tile.work
    part = replace(w, cycles=w.cycles / pieces, macs=w.macs / pieces, streams=_per_piece(w.streams, pieces))
    return [Tile(part, tile.weight_bytes / pieces, tile.region)] * pieces


def _per_piece(streams: tuple[float, ...], pieces: int) -> tuple[float, ...]:
    """Return the streams of one piece: each piece computes its own columns from all inputs (the first stream)."""
    return tuple(size if i == 0 else size / pieces for i, size in enumerate(streams))


def _gate(op: Op, target: FpgaTarget) -> list[Item]:
    """Lower the gate and its queues, one token after another; the task's router table is loaded every time."""
    m, n, k = op.shape["m"], int(op.shape["n"]), int(op.shape["k"])
    size = target.stored(n * k, op.weight_bytes)
    cycles = m * target.engine.gate_cycles_per_token
    work = UnitPass("gate", op.layer, "gate", cycles, target.traffic([m * k * target.act_bytes(2.0)], []), m * n * k)
    return [Tile(work, size, ROUTER)]


@LOWER.register("elementwise")
def _elementwise(op: Op, target: FpgaTarget) -> list[Item]:
    """Lower norms to their unit; other vector ops are fused into the streams of matrices."""
    if op.name in FUSED or op.name == "embedding":
        return []
    rows, cols = op.shape["rows"], op.shape["cols"]
    norms = max(1.0, op.shape["tensors"] / 4)
    cycles = rows * cols * norms * target.engine.norm_cycles_per_value
    size = rows * cols * norms * target.act_bytes(2.0)
    return [UnitPass(op.name, op.layer, "norm", cycles, target.traffic([size], [size]))]


@LOWER.register("attention_image")
def _attention_image(op: Op, target: FpgaTarget) -> list[Item]:
    """Lower image attention: scores, then weighted values; the running softmax overlaps with the scores."""
    tokens, images = op.shape["tokens"], op.shape["images"]
    n, width, heads = tokens / images, op.shape["heads"] * op.shape["head_dim"], op.shape["heads"]
    act, unit = target.act_bytes(2.0), target.engine.attention
    macs = op.flops / 4
    if unit is None:  # on the linear array: its outputs are queries, its inputs features
        array = target.engine.linear
        queries, softmax = array.outputs, 0.0
        cycles = macs / array.macs / target.utilisation
    else:
        queries = unit.queries
        row_cycles = math.ceil(width / unit.features) / target.utilisation
        cycles = images * math.ceil((n + queries - 1) / queries) * n * row_cycles
        softmax = images * (n + queries - 1) * n * unit.softmax_cycles
    # All keys are read once for each group of queries on chip; without reordering, once for each query.
    groups = math.ceil((n + queries - 1) / queries) if target.attention_reorder else n
    keys = images * groups * n * width * act
    rows, scores = tokens * width * act, images * n * n * heads * act
    return [
        UnitPass("qk", op.layer, "qk", max(cycles, softmax), target.traffic([keys, rows], [scores]), macs),
        UnitPass("pv", op.layer, "pv", cycles, target.traffic([keys, scores], [rows]), macs),
    ]


@LOWER.register("experts")
def _experts(op: Op, target: FpgaTarget) -> list[Item]:
    """Lower one expert block; its parts are the pieces of an expert that fit a buffer."""
    hidden, width = int(op.shape["hidden"]), int(op.shape["inter"])
    matrices, experts = int(op.shape["matrices"]), int(op.shape["experts"])
    loads = op.loads
    assert loads is not None
    per_weight = op.weight_bytes / loads.active / (matrices * hidden * width)
    act = target.act_bytes(2.0)
    first = (matrices - 1) * width
    shapes = ((first, hidden, [hidden], [width]), (hidden, width, [width, hidden], [hidden]))
    parts = [
        ExpertLoad(
            weight_bytes=target.stored(n * k, per_weight * n * k) + target.stored(n, 2.0 * n) * target.biases,
            cycles=target.cycles(1, n, k),
            macs=n * k,
            streams=target.traffic([v * act for v in reads], [v * act for v in writes]),
        )
        for n, k, reads, writes in shapes
    ]
    tokens = round(loads.routed / op.shape["top_k"])
    return [ExpertBlock("experts", op.layer, 0, experts, int(op.shape["top_k"]), tokens,
                        fit_expert(parts, target.engine), loads)]  # fmt: skip


def fit_expert(parts: Sequence[ExpertLoad], engine: EngineSpec) -> tuple[ExpertLoad, ...]:
    """Return the loads of one expert that fit the design's buffers.

    Raises
    ------
    CapacityError
        An expert, or one of its matrices, is larger than its buffer and must not be cut.
    """
    room = engine.buffers.weights_bytes
    if engine.load_unit == "expert":
        streams = tuple(sum(s) for s in zip(*(p.streams for p in parts), strict=False))
        parts = [ExpertLoad(sum(p.weight_bytes for p in parts), sum(p.cycles for p in parts),
                            sum(p.macs for p in parts), streams)]  # fmt: skip
    out: list[ExpertLoad] = []
    for part in parts:
        pieces = math.ceil(part.weight_bytes / room * (1 - 1e-9))
        if pieces > 1 and engine.load_unit != "tile":
            what = "an expert" if engine.load_unit == "expert" else "a matrix of an expert"
            raise CapacityError(
                f"buffers.weights of {room:,.0f} bytes",
                f"{what} is larger than its buffer: needs {part.weight_bytes:,.0f} bytes, {room:,.0f} available",
            )
        piece = ExpertLoad(part.weight_bytes / pieces, part.cycles / pieces, part.macs / pieces,
                           _per_piece(part.streams, pieces))  # fmt: skip
        out += [piece] * pieces
    return tuple(out)


def _streamed(op: Op, target: FpgaTarget) -> list[Item]:
    """Lower attention over a KV cache, or a state space: weights and cache are streamed to the arrays."""
    unit = target.engine.attention
    macs = op.flops / 2
    cycles = macs / (2 * unit.macs if unit else target.engine.macs) / target.utilisation
    size = op.kv_read_bytes + op.kv_write_bytes + op.act_bytes + op.weight_bytes
    # Caches are in external memory, independent of where a design keeps activations.
    ports = target.engine.ports.data
    return [UnitPass(op.name, op.layer, "attention", cycles, (size / ports,) * ports, macs)]
