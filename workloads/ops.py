"""One operation of one step: what it computes and moves, independent of any device.

Access pattern of an op in main memory: contiguous or gathered data.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .errors import InputError

ACCESSES = ("sequence", "pages", "slices", "gather", "scatter", "update")
"""Access patterns: weights and activations in sequence; pages of a paged KV cache; experts in turn; items read from, or
written to, random places; items read and written back."""


@dataclass(frozen=True, slots=True)
class Access:
    """The access pattern of an op, which does not depend on the batch.

    How large a page is and where it lies is the matter of a memory's layout, not of the op.

    Attributes
    ----------
    kind : str
        One of `ACCESSES`.
    item_bytes : float
        Size of one contiguous piece [B]: an expert's weights, a gathered row, the state of a sequence; for pages, keys
        and values of one token. For one device.
    items : int
        For slices: adjacent experts. For pages: tensors of a token, two for keys and values.
    """

    kind: str = "sequence"
    item_bytes: float = 0.0
    items: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ACCESSES:
            raise ValueError(f"access {self.kind!r} is none of {', '.join(ACCESSES)}")
        if self.kind != "sequence" and not self.item_bytes > 0.0:
            raise ValueError(f"access {self.kind!r} needs the bytes of an item")


IN_SEQUENCE = Access()
LIBRARY_SUMS = "library_all_reduce"
"""Mark of an all-reduce by the communication library, used although the engine has a kernel for this size."""


@dataclass(frozen=True, slots=True)
class OpKind:
    """Properties of all ops of one kind, used by placement, training, tables and pages.

    Attributes
    ----------
    meaning : str
        A sentence for tables of kinds.
    table : str
        Family of measured tables for its rows.
    matrix : bool
        Whether its FLOPs are the model's; vector ops are not included in any utilisation.
    backward : str
        What of its operands a backward pass needs: "matmul", "vector", "experts", "state" (all that
        it moves) or "attention" (queries, keys, values, output).
    scores : bool
        Whether it has scores of all pairs, which an attention of one pass never writes.
    cached : bool
        Whether its decodes read what one sequence keeps, and little else: low Op/B at every batch.
    """

    meaning: str
    table: str
    matrix: bool = True
    backward: str = "attention"
    scores: bool = False
    cached: bool = False


OP_KINDS: dict[str, OpKind] = {}
"""Kinds of op that a processor runs, by name. `Op.kind` is one of them, except for exchanges between devices. An op's
name (``qkv``, ``gate_up``) distinguishes ops of one kind."""


EXCHANGE = OpKind("Exchange between devices.", "collectives", matrix=False)
"""Properties of all exchanges between devices; the op's kind names the exchange."""


def about(kind: str) -> OpKind:
    """Return the properties of a kind of op; kinds that no processor runs are exchanges."""
    return OP_KINDS.get(kind, EXCHANGE)


def op_kind(name: str, kind: OpKind) -> None:
    """Register a kind of op under its name.

    Raises
    ------
    InputError
        The name is taken.
    """
    if name in OP_KINDS:
        raise InputError(f"kind of op {name!r}", "is registered twice")
    OP_KINDS[name] = kind


with Path(__file__).with_name("ops.csv").open(encoding="utf-8", newline="") as _file:
    for _name, _meaning, _table, _matrix, _backward, _scores, _cached in list(csv.reader(_file))[1:]:
        op_kind(_name, OpKind(_meaning, _table, bool(_matrix), _backward, bool(_scores), bool(_cached)))


@dataclass(frozen=True, slots=True)
class Loads:
    """Tokens per expert of a layer, as classes of equally loaded experts.

    A sample has one expert per class; an expectation has few classes with fractional counts, so that "40.8 active
    experts of 1.57 tokens" is exact.

    Attributes
    ----------
    tokens : float64 array, shape (n,)
        Tokens of one expert of each class.
    experts : float64 array, shape (n,)
        Experts in each class.
    routed, active : float
        Token-expert pairs, and experts with at least one token.
    """

    tokens: npt.NDArray[np.float64]
    experts: npt.NDArray[np.float64]
    routed: float = field(init=False, repr=False, compare=False)
    active: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "routed", float((self.tokens * self.experts).sum()))
        object.__setattr__(self, "active", float(self.experts[self.tokens > 0].sum()))

    @classmethod
    def drawn(cls, per_expert: npt.NDArray[np.int64]) -> Loads:
        """Return sampled loads: one count for each expert."""
        return cls(per_expert.astype(np.float64), np.ones(len(per_expert)))

    @classmethod
    def expected(cls, tokens: float, top_k: int, experts: int, local: float) -> Loads:
        """Return the expected loads of a uniform router on a device that stores `local` of `experts` experts.

        An expert is active with probability ``1 - (1 - k/E)**tokens``; the routed tokens are
        spread evenly over the active ones.
        """
        if tokens <= 0:
            return cls(np.zeros(1), np.zeros(1))
        active = 1.0 - (1.0 - top_k / experts) ** tokens
        return cls(np.array([tokens * top_k / experts / active]), np.array([local * active]))


@dataclass(frozen=True, slots=True)
class Op:
    """One operation: its shape, FLOPs and bytes by kind.

    Attributes
    ----------
    name, layer, kind : str
        What it is ("qkv"), which part of the model it belongs to ("attention") and which cost
        model applies ("gemm", "attention_decode", "experts", "all_reduce", ...).
    phase : str
        "prefill", "decode" or "both".
    shape : mapping of str to float
        Dimensions the cost model may need (m, n, k; heads, head_dim, kv; ...).
    dtype : str
        Arithmetic format.
    count : int
        Number of identical ops (layers); all other fields are for one.
    flops : float
        Matmul FLOP (2 per multiply-accumulate), or elementwise FLOP for vector ops.
    weight_bytes, act_bytes, kv_read_bytes, kv_write_bytes : float
        Main-memory traffic by kind [B].
    loads : Loads or None
        Tokens per expert for "experts" ops.
    access : Access
        Access pattern of most of its bytes in main memory.
    whole : bool
        Whether the kernel before a product is not an all-reduce.
    moved : float
        Share of `act_bytes` that its kernels move, which takes energy; the rest is time at the memory's rate in which they wait.
    """

    name: str
    layer: str
    kind: str
    phase: str
    shape: Mapping[str, float]
    dtype: str
    flops: float
    weight_bytes: float = 0.0
    act_bytes: float = 0.0
    kv_read_bytes: float = 0.0
    kv_write_bytes: float = 0.0
    count: int = 1
    loads: Loads | None = None
    access: Access = IN_SEQUENCE
    whole: bool = False
    moved: float = 1.0

    @property
    def product(self) -> bool:
        """Whether the op is a product with one weight matrix."""
        return about(self.kind).backward == "matmul"

    @property
    def routed(self) -> bool:
        """Whether the op computes routed experts."""
        return about(self.kind).backward == "experts"

    @property
    def exchange(self) -> bool:
        """Whether the op is an exchange between devices."""
        return self.layer == "communication"

    @property
    def brings_back(self) -> bool:
        """Whether the op is the exchange that returns experts' results to the tokens' devices."""
        return self.exchange and self.name.startswith("collect")

    @property
    def reads_attention(self) -> bool:
        """Whether the op is the projection after attention, whose input the attention kernel writes."""
        return self.product and self.name == "out"

    @property
    def reads_activation(self) -> bool:
        """Whether the op is the projection after an activation, whose kernel writes its input.

        Projections down to a latent are not.
        """
        return self.product and self.name in ("down", "shared_down", "residual_down", "vision_down")

    @property
    def stream_bytes(self) -> float:
        """Weight and KV traffic, which a processor in memory reads over its internal path [B]."""
        return self.weight_bytes + self.kv_read_bytes + self.kv_write_bytes

    @property
    def bytes(self) -> float:
        """All main-memory traffic [B]."""
        return self.stream_bytes + self.act_bytes

    @property
    def op_per_byte(self) -> float | None:
        """FLOP per byte of main memory moved; None where nothing moves."""
        return self.flops / self.bytes if self.bytes else None
