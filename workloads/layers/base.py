"""Interface of layer kinds, and the building blocks that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeGuard, TypeVar

from ..batch import Moments
from ..errors import InputError
from ..numerics import BITS, Numerics
from ..ops import IN_SEQUENCE, Access, Loads, Op
from ..registry import Registry
from ..sampling import NONE


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of one group of a layer.

    Attributes
    ----------
    group : str
        One of `numerics.WEIGHT_GROUPS`; decides the storage format.
    total : int
        All weights.
    active : int
        Weights that one token's path uses.
    """

    group: str
    total: int
    active: int


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One cache of a layer, with an entry for each token or pool of tokens.

    Attributes
    ----------
    values : int
        Values of an entry, in the format of the KV cache.
    exact : int
        Additional values in the format of activations.
    window : int
        Maximum tokens kept; 0 = all.
    pool : int
        Tokens that share one entry.
    scale_bytes : int
        Bytes of scales per entry if its values are narrower than 16 bits.
    format : str
        Number format of `values` for any option of a run; empty: as the KV cache.
    """

    values: int
    window: int = 0
    exact: int = 0
    pool: int = 1
    scale_bytes: int = 0
    format: str = ""

    def entry_bytes(self, numerics: Numerics) -> float:
        """Return the size of an entry [B]."""
        bits = BITS[self.format or numerics.kv]
        scales = self.scale_bytes if bits < 16 else 0
        return self.values * bits / 8 + self.exact * numerics.act_bytes + scales

    def token_bytes(self, numerics: Numerics) -> float:
        """Return the bytes that a token adds to the cache [B]."""
        return self.entry_bytes(numerics) / self.pool


@dataclass(frozen=True, slots=True)
class Reads:
    """Entries of a cache that a query reads: all, the latest, or the best by score.

    Attributes
    ----------
    most : int
        Entries read at most; 0 = all.
    pool : int
        Tokens of an entry.
    chosen : bool
        Whether they are the best of what was scored, not the latest.
    dense : int
        Prompts that see at most this many tokens may be computed without choosing; 0 = none.
    tail : int
        Additional tokens read on average: of a pool that is not full yet.
    """

    most: int = 0
    pool: int = 1
    chosen: bool = False
    dense: int = 0
    tail: int = 0

    @property
    def span(self) -> int:
        """Number of tokens up to which a query reads all entries; 0 = unlimited."""
        return self.most * self.pool + self.tail


@dataclass(frozen=True, slots=True)
class Fixed:
    """State of constant size per sequence: number of values, and their format (empty: as activations)."""

    values: int
    format: str = ""

    def bytes(self, numerics: Numerics) -> float:
        """Return the size of one sequence's state [B]."""
        return self.values * (BITS[self.format] / 8 if self.format else numerics.act_bytes)


@dataclass(frozen=True, slots=True)
class State:
    """Cached data of a layer per sequence, and the part that a query reads.

    Attributes
    ----------
    keeps : tuple of LayerCache
        Caches that grow with a sequence; several where heads keep differently many tokens.
    reads : tuple of Reads
        What a query reads of them; without any, all that is kept.
    fixed : tuple of Fixed
        State of constant size (linear attention, state space).
    """

    keeps: tuple[LayerCache, ...] = ()
    reads: tuple[Reads, ...] = ()
    fixed: tuple[Fixed, ...] = ()

    @property
    def window(self) -> int:
        """Longest window of all caches [tokens]; 0 = unlimited, or no cache."""
        windows = [cache.window for cache in self.keeps]
        return max(windows) if windows and all(windows) else 0

    @property
    def spans(self) -> set[int]:
        """Numbers of tokens for which the layer's ops may need sums over a batch; 0 = all tokens."""
        short = {-read.dense for read in self.reads}
        return short.union(k.window for k in self.keeps).union(r.span for r in self.reads)


SCORE_PASSES = {"flash": 0.0, "fused-softmax": 2.0, "unfused": 4.0}
"""Number of times that a prompt's whole score matrix passes through memory, by attention algorithm.

``flash`` keeps the scores on chip. ``fused-softmax`` writes them once and reads them once, as the Duplex authors'
simulator does (LLMSimulator, attention_sum_impl.cpp: its softmax takes no memory time). ``unfused`` has a kernel of
its own for softmax, which reads them and writes the probabilities.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """Settings of a run that its ops depend on.

    Attributes
    ----------
    attention : str
        Algorithm, a key of `SCORE_PASSES`.
    sampling : str
        How logits become tokens, see `sampling`.
    joint : bool
        Whether one call serves the attention of prompts and decodes of a step.
    short_dense : bool
        Whether prompts below `Reads.dense` are computed without choosing keys.
    wide : bool
        Whether an all-to-all brings experts their rows, and no others.
    whole : bool
        Whether no all-reduce stands behind products, in whose kernel an engine may fuse the norm that follows.
    alone : tuple of str
        Small ops that the engine starts a kernel for; the measured kernels of others do not include them.
    """

    numerics: Numerics
    attention: str = "flash"
    sampling: str = NONE
    joint: bool = False
    short_dense: bool = False
    wide: bool = False
    whole: bool = False
    alone: tuple[str, ...] = ()

    @property
    def score_passes(self) -> float:
        """Number of times that a prompt's score matrix passes through memory; 0 = it stays on the chip."""
        return SCORE_PASSES[self.attention]


@dataclass(frozen=True, slots=True)
class Routed:
    """Routing of a layer part: each token goes to some of its experts.

    Attributes
    ----------
    experts : int
        Experts of the whole layer, on however many devices.
    top_k : int
        Experts of a token.
    spreads : bool
        Whether experts may be distributed to groups of devices, which then exchange tokens (expert parallel). If not,
        every rank runs all of them, split as in `shard`.
    by_request : bool
        Whether all tokens of a request have the same one, in every layer (adapters of tenants).
    groups : int
        Groups of equally many experts in a row, that EPLB keeps on one node each.
    chosen : int
        Groups that all experts of a token are of.
    """

    experts: int
    top_k: int
    spreads: bool = True
    by_request: bool = False
    groups: int = 1
    chosen: int = 1


class LayerKind(Protocol):
    """A frozen description of one layer part that can compute its weights, caches and ops.

    A kind is a frozen, slotted dataclass of integers with the members below, decorated with
    :func:`layer_kind`, anywhere. One with experts has the members of `RoutedKind` too.
    """

    kind: ClassVar[str]

    @property
    def routed(self) -> Routed | None:
        """The routed experts of this layer part; None, the default of `layer_kind`, if it has none."""

    @property
    def hidden(self) -> int: ...

    def weights(self) -> tuple[Weights, ...]:
        """Return the weights by group, including norms inside the layer."""

    def state(self) -> State:
        """Return the data that the layer keeps per sequence."""

    def shard(self, tp: int) -> LayerKind:
        """Return the part that one of `tp` tensor-parallel devices runs.

        Raises
        ------
        InputError
            When the layer cannot be split that way.
        """

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        """Return the ops of one step; their FLOPs and bytes are affine in the moments."""


class RoutedKind(LayerKind, Protocol):
    """A layer part with experts."""

    @property
    def routed(self) -> Routed: ...

    def shard_experts(self, ep: int, tp: int, copies: int = 0) -> RoutedKind:
        """Return the part of one device if experts are distributed to `ep` groups of `tp` devices each.

        `copies` are additional experts; the argument is given only if there are some. Not called for experts that do
        not spread.

        Raises
        ------
        InputError
            If the experts cannot be distributed or split that way.
        """

    def expert_op(self, loads: Loads, run: Run) -> Op:
        """Return the experts of one device at the given loads as one op of kind "experts".

        `Loads.routed` and `Loads.active` give its FLOPs and bytes; its shape has "hidden", "inter",
        "matrices", "experts" and "top_k".
        """


def sent_width(part: RoutedKind) -> int:
    """Return the number of values of a token that are sent to a part's experts and back.

    The default is the model's width; a part may define `sent`.
    """
    return int(getattr(part, "sent", part.hidden))


def is_routed(part: LayerKind | None) -> TypeGuard[RoutedKind]:
    """Return whether a layer part has experts."""
    return part is not None and part.routed is not None


def _complete(kind: type[LayerKind]) -> None:
    """Refuse a class that cannot be a layer part."""
    if not getattr(getattr(kind, "__dataclass_params__", None), "frozen", False):
        raise InputError("it", "must be a frozen dataclass: @dataclass(frozen=True, slots=True)")
    members = {*getattr(kind, "__dataclass_fields__", ()), *dir(kind)}
    routed: object = getattr(kind, "routed", None)
    wanted = ["hidden", "weights", "state", "shard", "ops"]
    wanted += ["shard_experts", "expert_op"] if routed is not None else []
    lacking = [name for name in wanted if name not in members]
    if lacking:
        raise InputError("it", f"lacks {', '.join(lacking)}")


K = TypeVar("K", bound=type[Any])
LAYER_KINDS: Registry[type[LayerKind]] = Registry("layer kind", described=True, check=_complete, home=__package__)


def layer_kind(name: str) -> Callable[[K], K]:
    """Register a layer kind under its name.

    Raises
    ------
    InputError
        If the class is not a frozen dataclass, lacks a docstring or a member of `LayerKind`.
    """

    def add(cls: K) -> K:
        if not hasattr(cls, "routed"):
            cls.routed = None
        LAYER_KINDS.register(name)(cls)
        cls.kind = name
        return cls

    return add


def split(count: int, tp: int, what: str) -> int:
    """Divide `count` heads or columns over `tp` devices; refuse a remainder."""
    if count % tp:
        raise InputError(f"tp={tp}", f"does not divide the {count} {what}")
    return count // tp


def gemm(
    name: str, layer: str, group: str, m: float, n: int, k: int, run: Run, *, batch: int = 1, phase: str = "both"
) -> Op:
    """Return the op of the product C[m, n] = A[m, k] B[k, n], `batch` times with different weights."""
    if min(n, k, batch) < 1:
        raise ValueError(
            f"{name}: a product of {n} columns, depth {k}, batch {batch} computes nothing: leave the op out"
        )
    num = run.numerics
    return Op(
        name=name,
        layer=layer,
        kind="gemm",
        phase=phase,
        shape={"m": m, "n": n, "k": k, "batch": batch},
        dtype=num.compute(group),
        flops=2.0 * m * n * k * batch,
        weight_bytes=num.weight_bytes(group) * n * k * batch if m else 0.0,
        act_bytes=num.act_bytes * m * (n + k) * batch,
        whole=run.whole,
    )


def alone(name: str, layer: str, rows: float, cols: int, tensors: float, run: Run) -> list[Op]:
    """Return a small op for engines that run it as a separate kernel; others include it in another kernel."""
    return [elementwise(name, layer, rows, cols, tensors, run)] * run.alone.count(name) if cols else []


def elementwise(
    name: str,
    layer: str,
    rows: float,
    cols: int,
    tensors: float,
    run: Run,
    phase: str = "both",
    access: str = "sequence",
) -> Op:
    """Return a memory-bound vector op that moves `tensors` values per element, with one FLOP each.

    `access` says whether its rows are contiguous or gathered (`workloads.ops.Access`).
    """
    row = run.numerics.act_bytes * cols
    return Op(
        name=name,
        layer=layer,
        kind="elementwise",
        phase=phase,
        shape={"rows": rows, "cols": cols, "tensors": tensors},
        dtype=run.numerics.default,
        flops=tensors * rows * cols,
        act_bytes=run.numerics.act_bytes * tensors * rows * cols,
        access=IN_SEQUENCE if access == "sequence" else Access(access, row),
    )
