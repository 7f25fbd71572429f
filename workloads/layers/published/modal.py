"""State-space layers whose projections go by the modality of the token (Mixture-of-Mamba)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...access import Access
from ...batch import Moments
from ...errors import InputError
from ...ops import Loads, Op
from ..base import Routed, Run, Weights, elementwise, layer_kind
from ..linear_state import Mamba
from ..linears import OfOneGroup, WrappingKind


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
        """The four projections of each modality."""
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
