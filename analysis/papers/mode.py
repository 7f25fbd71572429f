"""MoDE (arXiv 2412.12953): experts chosen by the noise level, merged before the run.

The printed count of a pass with merged experts equals attention's projections: the counter did not include the experts.
Work and times here include all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from opbyte.extend import (
    Batch,
    Deployment,
    InputError,
    LayerKind,
    Loads,
    ModelSpec,
    Op,
    Run,
    Table,
    deploy,
    load_system,
)
from opbyte.extend.models import (
    BidirectionalAttention,
    FeedForward,
    Layer,
    MergedExperts,
    MixtureOfExperts,
    Numerics,
    layer_ops,
)
from opbyte.extend.systems import explicit_stage

from .published import Prediction, paper


@dataclass(frozen=True, slots=True)
class Denoising:
    """Denoising workload: several passes over the same tokens, without autoregressive decoding.

    Attributes
    ----------
    steps : int
        Noise steps, a pass each.
    tokens : int
        Tokens of one sample: noisy actions with what they are conditioned on.
    """

    steps: int
    tokens: int

    def batch(self, samples: int) -> Batch:
        """Return one pass over `samples` samples: each a whole sequence without a cache."""
        if samples < 1:
            raise InputError("samples", f"must be at least 1, not {samples}")
        return Batch.of(chunks=[(self.tokens, 0)] * samples)


SYSTEM = "rtx-a6000-x1"
LAYERS, HIDDEN, HEADS = 12, 1024, 8
EXPERTS, TOP_K, WIDTH = 4, 2, 4 * HIDDEN
"""Number of experts, experts per token, and width of an expert, which is a gated block of 3 x 4 d^2 weights."""
PASSES = Denoising(steps=10, tokens=14)
BATCH = 512

BLOCKS: dict[str, LayerKind] = {
    "merged": MergedExperts(HIDDEN, EXPERTS, TOP_K, WIDTH, levels=PASSES.steps),
    "top2": MixtureOfExperts(HIDDEN, EXPERTS, TOP_K, WIDTH),
    "dense": FeedForward(HIDDEN, EXPERTS * WIDTH),
}
"""Feed-forward part of each design: experts merged for a noise level, routed by token, or one dense block."""


@cache
def model(block: str) -> ModelSpec:
    """Return the transformer with one kind of `BLOCKS`; its inputs are already embedded."""
    attention = BidirectionalAttention(HIDDEN, HEADS, HIDDEN // HEADS, bias=False)
    layer = Layer(attention, BLOCKS[block], 2, HIDDEN)
    return ModelSpec(
        f"mode-{block}", "built here", HIDDEN, 0, (layer,) * LAYERS, True,
        Numerics("bf16", kv="bf16"), source="MoDE (arXiv 2412.12953), A.4",
    )  # fmt: skip


@cache
def deployed(block: str) -> Deployment:
    """Deploy the transformer on one GPU."""
    return deploy(model(block), load_system(SYSTEM))


def seconds(block: str, samples: int) -> float:
    """Return the time of one pass over `samples` samples [s]."""
    d = deployed(block)
    return explicit_stage(d, [PASSES.batch(samples)], expected=True).seconds


def _matmuls(block: str, samples: int) -> list[Op]:
    """Return the matmuls of one layer in a pass, except the router."""
    spec, batch = model(block), PASSES.batch(samples)
    m, run = batch.moments(spec.windows), Run(spec.numerics)
    loads = Loads.expected(batch.tokens, TOP_K, EXPERTS, EXPERTS)
    return [
        op for part in layer_ops(spec.layers[0], m, run, loads) for op in part
        if op.kind != "elementwise" and op.name != "router"
    ]  # fmt: skip


def gmac(block: str, samples: int = 1) -> float:
    """Return the multiply-accumulates of a pass without the routers [1e9]."""
    return LAYERS * sum(op.flops for op in _matmuls(block, samples)) / 2 / 1e9


def projections_gmac(samples: int = 1) -> float:
    """Return the work of attention's projections [1e9]."""
    ops = [op for op in _matmuls("merged", samples) if op.name in ("qkv", "out")]
    return LAYERS * sum(op.flops for op in ops) / 2 / 1e9


def expert_flops(block: str) -> float:
    """Return the FLOPs of a layer's feed-forward part for one sample, without the router."""
    return sum(op.flops for op in _matmuls(block, 1) if op.layer != "attention")


def weights_gib(block: str) -> float:
    """Return the size of the weights in memory, including merged copies [GiB]."""
    return model(block).weight_bytes / 2**30


BATCHES = (1, 8, 64, 512)
TIMED = ("merged", "dense")
"""One kernel after another each; the routed block is one op here, whose activation is hidden."""


def predictions() -> Iterator[Prediction]:
    """Predict all rows from the model's ops and their times on the GPU."""
    yield Prediction("mode.pass.gmac", gmac("merged"))
    yield Prediction("mode.pass.attention_projections_gmac", projections_gmac())
    merged, dense = seconds("merged", BATCH), seconds("dense", BATCH)
    yield Prediction("mode.b512.mode_ms", merged * 1e3)
    yield Prediction("mode.b512.dense_ms", dense * 1e3)
    yield Prediction("mode.b512.ratio", dense / merged)
    same = abs(expert_flops("merged") / expert_flops("top2") - 1) < 1e-9
    yield Prediction("mode.merged_equals_top2_flops", float(same))


def _batches() -> Table:
    rows = []
    for samples in BATCHES:
        took = {name: seconds(name, samples) for name in TIMED}
        rows.append({"samples": samples, **{f"{name}_ms": s * 1e3 for name, s in took.items()},
                     "dense_over_merged": took["dense"] / took["merged"],
                     "action_ms": PASSES.steps * took["merged"] * 1e3})  # fmt: skip
    note = "an action is ten passes with merged experts"
    return Table("batches", "A pass by batch and design", rows, note)


def _designs() -> Table:
    rows = [{"design": name, "GMAC": gmac(name), "weights_GiB": weights_gib(name)} for name in BLOCKS]
    return Table("designs", "Work of a pass and weights in memory", rows,
                 "merged: the experts, and a merged block for each of ten levels")  # fmt: skip


def _drawn() -> Table:
    """Return the milliseconds of a pass of 512 samples for the plot."""
    rows = [{"case": name, "pass": seconds(name, BATCH) * 1e3} for name in TIMED]
    return Table("steps", f"A pass of {BATCH} samples (ms)", rows)


paper(
    "mode", "MoDE: work and time of a diffusion policy's pass with merged experts and without.", predictions,
    tables=(_batches, _designs), drawn={"steps": _drawn}, runs=len(TIMED) * len(BATCHES),
)  # fmt: skip
