"""Several linear states of which a token writes and reads some (MoM, arXiv 2502.13685).

State-space layers with projections for each modality of tokens (Mixture-of-Mamba).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ...batch import Moments
from ...errors import InputError
from ...ops import Access, Loads, Op
from ..base import Routed, Run, State, Weights, elementwise, gemm, layer_kind
from ..linear_state import GatedDeltaNet, Mamba
from ..linears import OfOneGroup, PlainKind, WrappingKind


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
            reason = f"must be from 1 to states ({self.states}), not {self.top_k}"
            raise InputError("top_k", reason)

    @property
    def hidden(self) -> int:
        return self.net.hidden

    @property
    def _used(self) -> int:
        """Number of states that a token writes and reads."""
        return self.top_k + self.shared

    @property
    def _router(self) -> int:
        """Columns of the router; 0 for a single state, which needs no router."""
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
        """Return the ops: a prompt's chunk uses all states, a decode only its token's states."""
        net = self.net
        ops = net.ops_with(moments, run, self._used, self.states + self.shared)
        if self._router:
            router = gemm("router", "state", "other", moments.tokens, self._router, self.hidden, run)
            ops.insert(0, router)
        if self._used > 1:
            mix = elementwise("mix", "state", moments.tokens, net.value, 1.0 + self._used, run)
            ops.insert(-1, mix)  # before the output projection
        return ops


@layer_kind("mamba_by_modality")
@dataclass(frozen=True, slots=True)
class ModalMamba(WrappingKind, OfOneGroup):
    """A Mamba layer with its own in, x, dt and out projection for each modality (arXiv 2501.16295).

    Convolution and scan are shared; around every projection tokens are grouped by modality and reordered. A token's
    modality is not a router's choice: `--routing modality:SHARES` sets the shares. A batch reads the projections of its
    modalities.
    """

    one_group: ClassVar[str] = "projections by modality need ep=1 (tensor parallel)"
    base: Mamba
    modalities: int

    def __post_init__(self) -> None:
        if self.modalities < 1:
            raise InputError("modalities", f"must be at least 1, not {self.modalities}")

    @property
    def routed(self) -> Routed | None:
        return None if self.modalities == 1 else Routed(self.modalities, 1, spreads=False)

    def weights(self) -> tuple[Weights, ...]:
        big, small = self.base.weights()
        if self.routed is None:
            return big, small
        return Weights("experts", big.total * self.modalities, big.total), small

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        plain = self.base.ops(moments, run, None)
        if self.routed is None:
            return plain
        if loads is None:
            raise ValueError("projections by modality need loads")
        ops = [self.expert_op(loads, run)]
        for op in plain:
            if op.product:
                columns = int(op.shape["n"] + op.shape["k"])
                name = f"{op.name}_permute"
                op = elementwise(name, "state", moments.tokens, columns, 2, run, access="gather")
            ops.append(op)
        return ops

    def expert_op(self, loads: Loads, run: Run) -> Op:
        """Return the op of the four projections of each modality."""
        num, base, routed = run.numerics, self.base, loads.routed
        one = base.weights()[0].total
        selected = base.dt_rank + 2 * base.d_state
        moved = 2 * self.hidden + 5 * base.inner + selected + base.dt_rank
        return Op(
            name="modal_projections",
            layer="state",
            kind="experts",
            phase="both",
            shape={
                "hidden": self.hidden, "inter": base.inner,
                "matrices": one / (self.hidden * base.inner),
                "experts": self.modalities, "top_k": 1, "routed": routed,
            },
            dtype=num.compute("experts"),
            flops=2.0 * routed * one,
            weight_bytes=num.weight_bytes("experts") * one * loads.active,
            act_bytes=num.act_bytes * routed * float(moved),
            loads=loads,
            access=Access("slices", num.weight_bytes("experts") * one, self.modalities),
        )  # fmt: skip
