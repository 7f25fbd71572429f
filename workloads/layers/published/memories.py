"""Several linear states of which a token writes and reads some (MoM, arXiv 2502.13685)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...batch import Moments
from ...errors import InputError
from ...ops import Loads, Op
from ..base import Run, State, Weights, elementwise, gemm, layer_kind
from ..linear_state import GatedDeltaNet
from ..linears import PlainKind


@layer_kind("memories")
@dataclass(frozen=True, slots=True)
class Memories(PlainKind):
    """Gated DeltaNet with several states: a router picks some for each token, one may serve all.

    Keys and values are projected once for all states. A decode uses the states of its token; a prompt's chunk uses all
    of them, unless it is very short. So costs are affine in the moments and independent of sampled loads: every token
    has the same number of states.

    Attributes
    ----------
    net : GatedDeltaNet
        Projections, heads and one state.
    states, top_k : int
        Routed states, and the number per token.
    shared : bool
        Whether one more state takes every token.
    """

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
        net = self.net.weights()
        return (*net, Weights("other", router, router)) if router else net

    def state(self) -> State:
        return self.net.states(self.states + self.shared)

    def shard(self, tp: int) -> Memories:
        return replace(self, net=self.net.shard(tp))

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        """Return the ops: a chunk uses all states, a decode its token's."""
        net = self.net
        ops = net.ops_with(moments, run, self._used, self.states + self.shared)
        if self._router:
            router = gemm("router", "state", "other", moments.tokens, self._router, self.hidden, run)
            ops.insert(0, router)
        if self._used > 1:
            mix = elementwise("mix", "state", moments.tokens, net.value, 1.0 + self._used, run)
            ops.insert(-1, mix)  # before the output projection
        return ops
