"""What every layer kind says about itself, and the building blocks they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from ..batch import Moments
from ..numerics import Numerics
from ..ops import Loads, Op
from ..registry import Registry


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
class State:
    """What a layer keeps per sequence.

    Attributes
    ----------
    values_per_token : int
        K and V (or latent) values added by each token.
    window : int
        Tokens kept at most; 0 = all.
    constant_values : int
        Values of constant-size state (linear attention, state space).
    """

    values_per_token: int = 0
    window: int = 0
    constant_values: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """How the ops are run: number formats and the attention algorithm."""

    numerics: Numerics
    attention: str = "flash"


class LayerKind(Protocol):
    """A frozen description of one layer part that can count itself.

    A new kind is one module in this folder: a frozen, slotted dataclass of integers with the
    members below, decorated with :func:`layer_kind`.
    """

    kind: ClassVar[str]

    @property
    def hidden(self) -> int: ...

    def weights(self) -> tuple[Weights, ...]:
        """Weights by group, norms inside the layer included."""

    def state(self) -> State:
        """Per-sequence state."""

    def shard(self, tp: int) -> LayerKind:
        """The part one of `tp` tensor-parallel devices runs.

        Raises
        ------
        InputError
            When the layer cannot be split that way.
        """

    def ops(self, m: Moments, run: Run, loads: Loads | None) -> list[Op]:
        """Ops of one step; each FLOP and byte count affine in the moments."""


K = TypeVar("K", bound=type[Any])
LAYER_KINDS: Registry[type[LayerKind]] = Registry("layer kind")


def layer_kind(name: str) -> Callable[[K], K]:
    """Register a layer kind under its name."""

    def add(cls: K) -> K:
        LAYER_KINDS.register(name)(cls)
        cls.kind = name
        return cls

    return add


def split(count: int, tp: int, what: str) -> int:
    """Divide `count` heads or columns over `tp` devices, or say why not."""
    from ..errors import InputError

    if count % tp:
        raise InputError(f"tp={tp}", f"does not divide the {count} {what}")
    return count // tp


def gemm(
    name: str, layer: str, group: str, m: float, n: int, k: int, run: Run, *, batch: int = 1,
    phase: str = "both",
) -> Op:  # fmt: skip
    """C[m, n] = A[m, k] B[k, n], `batch` times with different weights."""
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
    )


def elementwise(
    name: str, layer: str, rows: float, cols: int, tensors: float, run: Run, phase: str = "both"
) -> Op:
    """A memory-bound vector op that moves `tensors` values per element, one FLOP each."""
    return Op(
        name=name,
        layer=layer,
        kind="elementwise",
        phase=phase,
        shape={"rows": rows, "cols": cols, "tensors": tensors},
        dtype=run.numerics.default,
        flops=tensors * rows * cols,
        act_bytes=run.numerics.act_bytes * tensors * rows * cols,
    )
