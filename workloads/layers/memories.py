"""Several linear states of which a token writes and reads some (MoM, arXiv 2502.13685)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..access import Access
from ..batch import Moments
from ..errors import InputError
from ..ops import Loads, Op
from .base import Fixed, Run, State, Weights, elementwise, gemm, layer_kind
from .linear_state import GatedDeltaNet


@layer_kind("memories")
@dataclass(frozen=True, slots=True)
class Memories:
    """Gated DeltaNet with several states: a router picks some for each token, one may serve all.

    Keys and values are projected once, whatever states they go to. A decode touches the states of
    its token; a prompt's chunk touches all of them, as some token of it does unless it is very
    short. So costs are affine in the moments and no draw of loads matters: every token has equally
    many states.

    Attributes
    ----------
    net : GatedDeltaNet
        Projections, heads and one state.
    states, top_k : int
        Routed states, and those of a token.
    shared : bool
        Whether one more state takes every token.
    """

    kind: ClassVar[str]
    routed: ClassVar[None] = None
    net: GatedDeltaNet
    states: int
    top_k: int
    shared: bool = True

    def __post_init__(self) -> None:
        if self.states < 1:
            raise InputError("states", f"must be at least 1, not {self.states}")
        if not 1 <= self.top_k <= self.states:
            reason = f"must be from 1 to the {self.states} states, not {self.top_k}"
            raise InputError("top_k", reason)

    @property
    def hidden(self) -> int:
        return self.net.hidden

    @property
    def _used(self) -> int:
        """States that a token writes and reads."""
        return self.top_k + self.shared

    @property
    def _router(self) -> int:
        """Columns of the router; a single state needs none."""
        return self.states if self.states > 1 else 0

    def weights(self) -> tuple[Weights, ...]:
        router = self._router * self.hidden
        own = self.net.weights()
        return (*own, Weights("other", router, router)) if router else own

    def _held(self, states: int) -> int:
        """Values of so many states, and of the convolution's last inputs."""
        return self.net.kept_values + (states - 1) * self.net.matrix

    def state(self) -> State:
        return State(fixed=(Fixed(self._held(self.states + self.shared)),))

    def shard(self, tp: int) -> Memories:
        return replace(self, net=self.net.shard(tp))

    def ops(self, m: Moments, run: Run, loads: Loads | None) -> list[Op]:
        net, ops = self.net, self.net.ops(m, run, None)
        if self._router:
            router = gemm("router", "state", "other", m.tokens, self._router, self.hidden, run)
            ops.insert(0, router)
        if self._used > 1:
            mix = elementwise("mix", "state", m.tokens, net.value, 1.0 + self._used, run)
            ops.insert(-1, mix)  # before the output projection
        every = self._held(self.states + self.shared)
        touched = {"prefill": every, "decode": self._held(self._used)}
        return [self._scanned(op, run, touched) for op in ops]

    def _scanned(self, op: Op, run: Run, touched: dict[str, int]) -> Op:
        """The update of one state made that of all that are touched; other ops as they are."""
        if op.kind != "linear_state":
            return op
        tokens, values = op.shape["tokens"], touched[op.phase]
        size = run.numerics.act_bytes * values
        moved = size * op.shape["batch"]
        more = self._used - 1
        return replace(
            op,
            shape={**op.shape, "state": values},
            flops=op.flops + more * self.net.matrix_flops * tokens,
            act_bytes=op.act_bytes * self._used,
            kv_read_bytes=moved,
            kv_write_bytes=size * tokens if op.phase == "decode" else moved,
            access=Access("update", size),
        )
