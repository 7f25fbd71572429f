"""Mixture of experts: a router sends each token to `top_k` of `experts` feed-forward blocks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..batch import Moments
from ..errors import InputError
from ..ops import Access, Loads, Op
from .base import Routed, Run, Weights, alone, elementwise, gemm, layer_kind, split
from .ffn import feed_forward
from .linears import NamedKind


@layer_kind("moe")
@dataclass(frozen=True, slots=True)
class MixtureOfExperts(NamedKind):
    """Routed experts, optional shared experts and an optional dense residual block.

    Attributes
    ----------
    width : int
        Inner width of one expert.
    shared_width : int
        Inner width of all shared experts together; 0 = none.
    shared_gate : bool
        A sigmoid gate of one column on the shared experts (Qwen).
    router_bias : bool
        One correction bias per expert (DeepSeek-V3), or a router bias (gpt-oss).
    expert_groups : int
        Groups that the router chooses from first (``n_group`` of DeepSeek-V3): they bear on where experts are placed and
        how many devices a token goes to. Which experts of them are chosen is as if there were none.
    groups_chosen : int
        Groups that it chooses (``topk_group``); 0 = all.
    shared_matrices : int
        Number of matrices of the shared experts.
    latent : int
        Width that routed experts work on and that is sent to them, where it is not the model's: one projection before
        them and one behind (Nemotron-3, Kimi-K3); 0 = the model's.
    latent_norm : bool
        A norm of that width.
    empty_experts : int
        Experts that do nothing, which the router knows too (LongCat); `top_k` counts the others.
    experts_held : int
        After sharding: experts on one device; the router still sees all. 0 = all.
    """

    hidden: int
    experts: int
    top_k: int
    width: int
    matrices: int = 3
    shared_width: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    expert_bias: bool = False
    residual_width: int = 0
    experts_held: int = 0
    expert_groups: int = 1
    groups_chosen: int = 0
    shared_matrices: int = 3
    latent: int = 0
    latent_norm: bool = False
    empty_experts: int = 0

    def __post_init__(self) -> None:
        if self.expert_groups < 1 or self.experts % self.expert_groups:
            reason = f"must divide the {self.experts} experts, not {self.expert_groups}"
            raise InputError("expert_groups", reason)
        few = -(-self.top_k * self.expert_groups // self.experts)
        if self.groups_chosen and not few <= self.groups_chosen <= self.expert_groups:
            raise InputError("groups_chosen", f"must be in [{few}, {self.expert_groups}], not {self.groups_chosen}")

    @property
    def routed(self) -> Routed:
        return Routed(
            self.experts, self.top_k, groups=self.expert_groups, chosen=self.groups_chosen or self.expert_groups
        )

    @property
    def held(self) -> int:
        """Number of experts on one device."""
        return self.experts_held or self.experts

    @property
    def router_weights(self) -> int:
        """Number of weights of the router."""
        return (self.experts + self.empty_experts) * (self.hidden + self.router_bias)

    @property
    def sent(self) -> int:
        """Width of a token in the routed experts."""
        return self.latent or self.hidden

    def weights(self) -> tuple[Weights, ...]:
        one = self.matrices * self.sent * self.width
        bias = ((self.matrices - 1) * self.width + self.sent) * self.expert_bias
        dense = self.shared_matrices * self.hidden * self.shared_width + 2 * self.hidden * self.latent
        dense += self.matrices * self.hidden * self.residual_width
        other = self.router_weights + self.hidden * self.shared_gate + self.latent * self.latent_norm
        return (
            Weights("experts", one * self.held, one * self.top_k),
            Weights("ffn", dense, dense),
            Weights("other", other + bias * self.held, other + bias * self.top_k),
        )

    @property
    def working_values(self) -> int:
        """Number of values that a prompt's token needs at once: in its experts, or in a dense block."""
        dense = max(self.shared_matrices * self.shared_width, self.matrices * self.residual_width)
        return max(self.top_k * self.matrices * self.width, dense)

    def shard(self, tp: int) -> MixtureOfExperts:
        """Split the dense parts; experts are split by :meth:`shard_experts`."""
        return replace(
            self,
            shared_width=split(self.shared_width, tp, "shared-expert columns"),
            residual_width=split(self.residual_width, tp, "residual columns"),
        )

    def shard_experts(self, ep: int, tp: int, copies: int = 0) -> MixtureOfExperts:
        """Return the part of one device if experts are distributed to `ep` groups of `tp` devices each.

        Where groups have not equally many experts, copies fill those that have fewer.
        """
        if self.experts % ep and not copies:
            raise InputError(f"ep={ep}", f"does not divide the {self.experts} experts; try --redundant-experts")
        width = split(self.width, tp, f"columns of an expert, with ep={ep}")
        return replace(self, experts_held=self.experts // ep + copies, width=width)

    def ops(self, moments: Moments, run: Run, loads: Loads | None) -> list[Op]:
        if loads is None:
            raise ValueError("a MoE layer needs loads")
        wide = self.latent
        down = [gemm("latent_down", "moe", "ffn", moments.tokens, wide, self.hidden, run)] if wide else []
        up = [gemm("latent_up", "moe", "ffn", moments.tokens, self.hidden, wide, run)] if wide else []
        ops = [
            *self.router_ops(moments.tokens, run),
            *down,
            self.expert_op(loads, run),
            elementwise("combine", "moe", moments.tokens, self.sent, 1.0 + self.top_k, run, access="gather"),
            *up,
        ]
        for name, width, matrices in (
            ("shared_", self.shared_width, self.shared_matrices), ("residual_", self.residual_width, self.matrices),
        ):  # fmt: skip
            if width:
                ops += feed_forward(moments.tokens, self.hidden, width, matrices, run, "moe", name)
        return ops

    def router_ops(self, tokens: float, run: Run) -> list[Op]:
        """Return the ops that choose a token's experts."""
        outputs = self.experts + self.empty_experts
        return [
            gemm("router", "moe", "other", tokens, outputs, self.hidden, run),
            *alone("topk", "moe", tokens, outputs, 1, run),
        ]

    def expert_op(self, loads: Loads, run: Run) -> Op:
        """Return the op of all experts on this device at the given loads: gate, up and down projections."""
        num, routed = run.numerics, loads.routed
        one = self.matrices * self.sent * self.width
        return Op(
            name="experts",
            layer="moe",
            kind="experts",
            phase="both",
            shape={
                "hidden": self.sent, "inter": self.width, "matrices": self.matrices,
                "experts": self.held, "all_experts": self.experts, "top_k": self.top_k,
                "routed": routed, "output_bytes": num.act_bytes * self.sent, "wide": float(run.wide),
            },
            dtype=num.compute("experts"),
            flops=2.0 * routed * one,
            weight_bytes=num.weight_bytes("experts") * one * loads.active,
            act_bytes=num.act_bytes * routed * (2.0 * self.sent + self.matrices * self.width),
            loads=loads,
            access=Access("slices", num.weight_bytes("experts") * one, self.held),
        )  # fmt: skip
