"""AttAcc (ASPLOS 2024, doi 10.1145/3620665.3640422): attention in HBM next to eight GPUs.

The given values come from the authors' simulator; no constant is fitted to them, but the placement of heads was chosen
after seeing them (see `assumptions` in `values/attacc.yaml`). The DRAM command model gives the times of the units,
`TiledGpu` the times of the GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from opbyte.extend import InputError, Table, load_device, nearest
from opbyte.extend.devices import DramSpec, PimStream, build_device, load_memory, run_stream, stream_of

from .kinds.tiled import TiledGpu, best_tile, occupancy
from .published import Prediction, paper, published

LEVELS = {"bank": "pim_mac_ab", "bank-group": "pim_mac_sb_rot", "buffer": "pim_mac_pb_bgint"}
"""Where the units sit -> the command stream that feeds them: one command reads all banks of a
channel, one bank of every bank group, or one bank of each pseudo channel."""


@dataclass(frozen=True, slots=True)
class HeadAttention:
    """Attention units at one level of the memory hierarchy, in the stacks of one device.

    Attributes
    ----------
    memory : DramSpec
        DRAM of a stack, with its in-bank commands.
    level : str
        A key of `LEVELS`.

    Raises
    ------
    InputError
        An unknown level, or a memory without the commands that it needs.
    """

    memory: DramSpec
    level: str
    stacks: int

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise InputError(f"level {self.level!r}", f"is unknown{nearest(self.level, LEVELS)}")
        stream_of(self.memory, LEVELS[self.level], 1, True)

    def row_columns(self, head_dim: int, value_bytes: float) -> int:
        """Return the columns of one key or value row, which is split evenly over bank groups in whole columns."""
        org = self.memory.organisation
        part = head_dim * value_bytes / org.bank_groups
        return org.bank_groups * math.ceil(part / org.atom_bytes)

    def rounds(self, heads: int) -> int:
        """Return the rounds of `heads` heads of the device, distributed over stacks, then over channels."""
        return math.ceil(math.ceil(heads / self.stacks) / self.memory.organisation.channels)

    def stream(self, tokens: float, head_dim: int, value_bytes: float) -> PimStream:
        """Return the command stream that reads the keys (or the values) of one head."""
        columns = math.ceil(tokens * self.row_columns(head_dim, value_bytes))
        plain = stream_of(self.memory, LEVELS[self.level], 1, True)
        commands = max(1, math.ceil(columns / plain.banks))
        rows = math.ceil(commands / plain.columns)
        return replace(plain, commands=commands, columns=math.ceil(commands / rows))

    def seconds(self, heads: int, tokens: float, head_dim: int, value_bytes: float) -> float:
        """Return the time of the attention of `heads` heads over `tokens` cached tokens each [s].

        Keys are read, then values. The softmax of one head overlaps with the products of another, as AttAcc pipelines
        them; so do loads of queries.
        """
        rounds = self.rounds(heads)
        if not rounds or tokens <= 0:
            return 0.0
        one = self.stream(tokens, head_dim, value_bytes)
        return _clocks(self.memory, one, 2 * rounds) * self.memory.tCK_s

    def bytes_per_s(self) -> float:
        """Return the rate at which the device's units read long rows, with refresh [B/s]."""
        long = replace(stream_of(self.memory, LEVELS[self.level], 1, True), commands=LONG)
        org, clocks = self.memory.organisation, _clocks(self.memory, long, 1)
        per_channel = LONG * long.banks * org.atom_bytes / (clocks * self.memory.tCK_s)
        return per_channel * org.channels * self.stacks


LONG = 1 << 16
"""Length of the command stream with which a unit's read rate is measured [commands]."""


@lru_cache(maxsize=4096)
def _clocks(memory: DramSpec, one: PimStream, times: int) -> int:
    """Return the clock cycles of a stream that is repeated `times` times."""
    return run_stream(memory, replace(one, commands=one.commands * times))


DEVICES = 8
GPU = "attacc-gpu"
REDUCE_S_PER_BYTE = 9e-12
"""Additional time per byte in a step of an all-reduce, over NVLink's 600 GB/s (AttAcc's simulator) [s/B]."""
DTYPES = {1: "int8", 2: "fp16"}


@dataclass(frozen=True, slots=True)
class Model:
    """A decoder-only model: layers, width, heads, inner width over width, whether it is gated."""

    layers: int
    hidden: int
    heads: int
    widening: float = 4.0
    gated: bool = False

    @property
    def inner(self) -> int:
        """Width of the feed-forward layer."""
        return int(self.hidden * self.widening)

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


MODELS: Mapping[str, Model] = {
    "GPT-175B": Model(96, 12288, 96),
    "LLAMA-65B": Model(80, 8192, 64, 8 / 3, gated=True),
    "OPT-66B": Model(64, 9216, 72),
    "MT-530B": Model(105, 20480, 128),
}
"""Table of models of AttAcc's simulator."""

SYSTEMS: Mapping[str, tuple[str, str] | None] = {
    "gpu": None,
    "bank": ("hbm3pim-5.2gbps", "bank"),
    "bank-nolimit": ("hbm3pim-5.2gbps_npc", "bank"),
    "bg": ("hbm3pim-5.2gbps", "bank-group"),
    "buffer": ("hbm3pim-5.2gbps", "buffer"),
}
"""DRAM of the stacks and where their units sit; None: attention on the GPUs."""


@dataclass(frozen=True, slots=True)
class Case:
    """A workload: model, bytes a value, input and output length, batch."""

    model: str
    value_bytes: int
    lin: int
    lout: int
    batch: int

    @property
    def id(self) -> str:
        """Start of the ids of its rows."""
        return f"attacc.{self.model}.w{self.value_bytes}.{self.lin}-{self.lout}.b{self.batch}"

    @property
    def context(self) -> float:
        """Cached tokens of a sequence, as the mean over the decode steps of a request."""
        return self.lin + self.lout / 2


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds of a decode step by part; `qkv_proj` and `ffn` are parts of `fc`."""

    attention: float
    softmax: float
    fc: float
    all_reduce: float
    vector: float
    qkv_proj: float
    ffn: float

    @property
    def seconds(self) -> float:
        """Time of the whole step, whose parts run one after another [s]."""
        return self.attention + self.softmax + self.fc + self.all_reduce + self.vector


@lru_cache(maxsize=1)
def gpu() -> TiledGpu:
    """Return the cost model of the GPU."""
    model = build_device(load_device(GPU)[0], calibrated=True).processors["xpu"].model
    assert isinstance(model, TiledGpu)
    return model


def units(system: str) -> HeadAttention | None:
    """Return the attention units of one device of a system; None if attention runs on the GPUs."""
    description = SYSTEMS[system]
    if description is None:
        return None
    stacks = load_device(GPU)[0].memory.stacks
    return HeadAttention(load_memory(description[0]), description[1], stacks)


def decode_step(case: Case, system: str) -> Step:
    """Return the decode step of 8 tensor-parallel devices, averaged over the steps of a request."""
    model, w, b = MODELS[case.model], case.value_bytes, case.batch
    g, near, dtype = gpu(), units(system), DTYPES[case.value_bytes]
    heads, inner = model.heads // DEVICES, model.inner // DEVICES
    d = model.hidden

    def product(n: int, k: int) -> float:
        return g.matmul_seconds(b, n, k, w, dtype)

    projections = product(3 * d // DEVICES, d) + product(d, d // DEVICES)
    ffn = product(inner, d) * (2 if model.gated else 1) + product(d, inner)
    scores = heads * b * case.context
    flops, kv = 4.0 * scores * model.head_dim, 2 * scores * model.head_dim * w
    extra = 2 * (scores + heads * b * model.head_dim) * w  # queries, scores, results
    if near is None:
        attention = g.attention_seconds(heads * b, flops, kv + extra, dtype)
        softmax = 2 * scores * w / g.bandwidth / float(occupancy(heads * b, g.cores))
        moved = 0.0
    else:
        attention = near.seconds(heads * b, case.context, model.head_dim, w)
        softmax, moved = 0.0, 3 * heads * b * model.head_dim * w
    norms = 2 * g.norm_seconds(3 * b * d * w)
    activation = g.activation_seconds((3 if model.gated else 2) * b * inner * w)
    n = model.layers
    return Step(
        n * attention, n * softmax, n * (projections + ffn), n * (2 * all_reduce(b * d * w) + sent(moved)),
        n * (norms + activation), n * projections, n * ffn,
    )  # fmt: skip


def all_reduce(moved: float) -> float:
    """Return the time of an all-reduce of `moved` bytes over the devices, in the authors' form [s]."""
    link, share = load_device(GPU)[0].link, moved / DEVICES
    step = max(link.latency_s + REDUCE_S_PER_BYTE * share, share / link.bandwidth_bytes_per_s)
    return (DEVICES - 1) * step


def sent(moved: float) -> float:
    """Return the time of sending new keys, values and queries to the stacks [s]."""
    return moved / load_device(GPU)[0].link.bandwidth_bytes_per_s


def overlapped(case: Case, system: str) -> float:
    """Return the time of a step whose FFN is shared with the units, and whose heads overlap with products [s].

    The units take a share of the FFN's weights and read them once a request; the shorter of
    attention and its products hides behind the other but for the first head.
    """
    step, model, near = decode_step(case, system), MODELS[case.model], units(system)
    assert near is not None
    matrices = 3 if model.gated else 2
    weights = matrices * model.hidden * model.inner / DEVICES * case.value_bytes
    alone = model.layers * case.batch * weights / near.bytes_per_s()
    ffn = step.ffn * alone / (step.ffn + alone)
    heads = model.heads // DEVICES
    hidden = min(step.attention, step.qkv_proj) * (1 - 1 / heads)
    return step.seconds - step.ffn + ffn - hidden


L2_J_PER_BYTE, L1_J_PER_BYTE, REGISTER_J_PER_BYTE = 2.4e-12, 1.28e-12, 6.75e-14
NEAR_J_PER_BYTE = {"bank": 4.4e-12, "bank-group": 1.248e-11, "buffer": 2.632e-11}
"""Energies of AttAcc's simulator: caches 0.3 and 0.16 pJ a bit, registers; from the cells, activation
included, to units at the banks 0.55 pJ a bit, bank groups 1.56, and on the buffer die 3.29."""
OPERANDS = 3
"""Register accesses of a multiply-accumulate: two factors and a sum (an assumption)."""


def step_joules(case: Case, system: str) -> float:
    """Return the dynamic energy of a decode step over all devices [J].

    Memory, caches, registers and multiply-accumulates; what crosses NVLink is left out.
    """
    model, w, b, near = MODELS[case.model], case.value_bytes, case.batch, units(system)
    base, d, inner = gpu().base, model.hidden, model.inner // DEVICES
    shapes = [(3 * d // DEVICES, d), (d, d // DEVICES), (d, inner)]
    shapes += [(inner, d)] * (2 if model.gated else 1)
    macs = float(sum(b * n * k for n, k in shapes))
    moved = float(sum((b * k + k * n + b * n) * w for n, k in shapes))
    cached = sum(float(best_tile(b, n, gpu().cores)[1]) * k * w for n, k in shapes)
    vectors = 2 * 3 * b * d * w + (3 if model.gated else 2) * b * inner * w
    moved, cached = moved + vectors, cached + vectors
    scores = model.heads // DEVICES * b * case.context
    kv, attention = 2 * scores * model.head_dim * w, 2 * scores * model.head_dim
    path = base.stream_J_per_byte
    if near is None:
        moved, cached, near_J = moved + kv + 4 * scores * w, cached + kv + 4 * scores * w, 0.0
    else:
        columns = near.row_columns(model.head_dim, w) * near.memory.organisation.atom_bytes
        near_J = 2 * scores * columns * NEAR_J_PER_BYTE[near.level]
    mac_J = 2 * base.J_per_flop[DTYPES[w]]
    registers = OPERANDS * w * REGISTER_J_PER_BYTE
    layer = moved * path + cached * (L2_J_PER_BYTE + L1_J_PER_BYTE) + near_J
    layer += macs * (mac_J + registers) + attention * mac_J
    return DEVICES * model.layers * layer


ALL = tuple(SYSTEMS)
ENDS = ("gpu", "bank")
CASES: dict[Case, tuple[str, ...]] = {
    Case("GPT-175B", 2, 2048, 2048, 54): ALL,
    Case("GPT-175B", 2, 2048, 128, 1): ("gpu", "bank", "bg", "buffer"),
    Case("GPT-175B", 2, 128, 128, 42): ENDS,
    Case("LLAMA-65B", 2, 2048, 2048, 117): ALL,
    Case("MT-530B", 1, 2048, 2048, 49): ENDS,
    Case("GPT-175B", 2, 2048, 2048, 21): ENDS,
    Case("GPT-175B", 2, 2048, 2048, 78): ALL,
    Case("GPT-175B", 2, 128, 2048, 101): ("gpu", "bank", "bank-nolimit"),
    Case("GPT-175B", 2, 2048, 128, 54): ("gpu", "bank", "bg", "buffer"),
    Case("GPT-175B", 2, 512, 512, 186): ENDS,
    Case("GPT-175B", 2, 128, 128, 288): ENDS,
    Case("GPT-175B", 1, 2048, 2048, 125): ENDS,
    Case("LLAMA-65B", 2, 2048, 2048, 81): ("gpu", "bank", "bg", "buffer"),
    Case("LLAMA-65B", 2, 128, 2048, 142): ENDS,
    Case("OPT-66B", 2, 2048, 2048, 104): ("gpu", "bank", "bg", "buffer"),
    Case("OPT-66B", 2, 128, 2048, 88): ENDS,
    Case("MT-530B", 1, 128, 2048, 91): ENDS,
}
"""Workloads, given ones first, with the systems whose rows are defined."""


def predictions() -> Iterator[Prediction]:
    """Return all rows, only from the devices' descriptions."""
    for case, systems in CASES.items():
        steps = {system: decode_step(case, system) for system in systems}
        for system, step in steps.items():
            yield from _rows(case, system, step)
        yield Prediction(f"{case.id}.speedup", steps["gpu"].seconds / steps["bank"].seconds)
        yield Prediction(f"{case.id}.bank+opt.step_ms", overlapped(case, "bank") * 1e3)


def _rows(case: Case, system: str, step: Step) -> Iterator[Prediction]:
    at = f"{case.id}.{system}"
    yield Prediction(f"{at}.step_ms", step.seconds * 1e3)
    yield Prediction(f"{at}.attention_ms", step.attention * 1e3)


def parts() -> Table:
    """Return the parts of the step, next to the authors' if they are given."""
    given = published("attacc")["parts"]
    rows = []
    for case, systems in CASES.items():
        for system in systems:
            step, theirs = decode_step(case, system), given.get(f"{case.id}.{system}", {})
            rows.append({
                "case": f"{case.id.removeprefix('attacc.')}.{system}",
                "fc_ms": step.fc * 1e3, "given_fc_ms": theirs.get("fc_ms"),
                "all_reduce_ms": step.all_reduce * 1e3,
                "given_all_reduce_ms": theirs.get("all_reduce_ms"),
                "vector_ms": step.vector * 1e3, "given_vector_ms": theirs.get("vector_ms"),
                "softmax_ms": step.softmax * 1e3,
                "energy_J": step_joules(case, system),
                "given_energy_J": theirs["energy_mJ"] / 1e3 if theirs else None,
            })  # fmt: skip
    return Table("parts", "Parts of a step, ours and the authors'", rows)


def _drawn() -> Table:
    """Return the parts of the first case's steps for the plot."""
    case, given = next(iter(CASES)), published("attacc")["rows"]
    rows = []
    for system in CASES[case]:
        step = decode_step(case, system)
        rows.append({
            "case": system, "attention": step.attention * 1e3, "products": step.fc * 1e3,
            "all-reduce": step.all_reduce * 1e3, "vector operations": step.vector * 1e3,
            "softmax on the GPU": step.softmax * 1e3,
            "published": given.get(f"{case.id}.{system}.step_ms", float("nan")),
        })  # fmt: skip
    return Table("steps", "Decode step of GPT-175B, 54 requests of 2,048 + 2,048 tokens (ms)", rows)


paper(
    "attacc", "Predict AttAcc: attention in HBM stacks next to 8 GPUs, per bank, bank group or buffer die.", predictions,
    tables=(parts,), drawn={"steps": _drawn}, runs=len(CASES),
)  # fmt: skip
