"""RMoE: a router with a memory, which passes from each layer to the next (arXiv 2408.06793).

``r = W x`` (one W a layer), ``s = GRU(r, s of the layer before)`` (one cell for all layers), and the gate
is ``G s``. A layer's experts cannot be known before the layer before has routed; tokens stay independent.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...ops import Op
from ..base import Run, elementwise, gemm, layer_kind
from ..moe import MixtureOfExperts

GATES = 3
"""Of a GRU: reset, update and candidate, each with a matrix for the input and one for the state."""


@layer_kind("rmoe")
@dataclass(frozen=True, slots=True)
class RecurrentExperts(MixtureOfExperts):
    """Experts behind a recurrent router.

    Attributes
    ----------
    router_width : int
        Values of the router's state; 0 = an ordinary router.
    owns_cell : bool
        Whether the cell's weights count with this layer: with one of a model's layers they do.
    """

    router_width: int = 0
    owns_cell: bool = False

    @property
    def router_weights(self) -> int:
        if not self.router_width:
            return self.experts * (self.hidden + self.router_bias)
        p = self.router_width
        bias = self.experts * self.router_bias
        return p * (self.hidden + self.experts) + bias + 2 * GATES * p * p * self.owns_cell

    def router_ops(self, tokens: float, run: Run) -> list[Op]:
        if not self.router_width:
            return MixtureOfExperts.router_ops(self, tokens, run)
        p = self.router_width
        sizes = {"router_in": (p, self.hidden), "router_cell_in": (GATES * p, p),
                 "router_cell_state": (GATES * p, p), "router_out": (self.experts, p)}  # fmt: skip
        ops = [gemm(name, "moe", "other", tokens, *size, run) for name, size in sizes.items()]
        gates = elementwise("router_gates", "moe", tokens, p, 2 * GATES + 2, run)
        return [*ops[:3], gates, ops[3]]
