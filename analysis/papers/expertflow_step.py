"""ExpertFlow's models on its GPU: decode steps whose experts lie in host memory.

Nothing published of its results is read here. Routing is an input: a power law per layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from opbyte.extend import Batch, Deployment, ModelSpec, deploy, load_model, load_system
from opbyte.extend.models import Attention, FeedForward, Layer, MixtureOfExperts, Numerics
from opbyte.extend.systems import ExpertCache, ExpertStore, StepFetch, explicit_stage

SYSTEM = "a40-x1"
ROUTING = "power_law:0.95"
ACCURACY = 0.92
CONTEXT = 128
ALL = ExpertStore(1.0, fraction=True)
"""Every expert in the GPU's memory."""
PRELOAD = ExpertStore(1.0, True, "transient", accuracy=1.0, false_rate=1.0)
"""SE-MoE: all experts of a layer are fetched ahead, whatever the routes."""


def expertflow(slots: int) -> ExpertStore:
    """Fetched ahead: what the predictor names, in slots that are free again after their layer."""
    return ExpertStore(slots, policy="transient", accuracy=ACCURACY)


@dataclass(frozen=True, slots=True)
class Step:
    """A decode step.

    Attributes
    ----------
    seconds : float
    fetch : StepFetch
    """

    seconds: float
    fetch: StepFetch


def _t5_layers(experts: int, decoder: bool) -> tuple[Layer, ...]:
    """Twelve layers of Switch-base, every second with experts; cross-attention is a layer of its own."""
    attention = Attention(hidden=768, heads=12, kv_heads=12, head_dim=64)
    moe = MixtureOfExperts(hidden=768, experts=experts, top_k=1, width=3072, matrices=2)
    dense = FeedForward(hidden=768, width=3072, matrices=2)
    out = []
    for i in range(12):
        ffn = moe if i % 2 else dense
        if decoder:
            out.append(Layer(attention, None, norms=1, norm_width=768))
        out.append(Layer(attention, ffn, norms=2, norm_width=768))
    return tuple(out)


def _sized(name: str, hidden: int, vocab: int, layers: tuple[Layer, ...], tied: bool) -> ModelSpec:
    source = "ExpertFlow, Table 1, and the models' cards"
    return ModelSpec(name, "built here", hidden, vocab, layers, tied, Numerics(), source=source)


@lru_cache
def switch(experts: int, whole: bool = False) -> ModelSpec:
    """Switch-base: its decoder, or `whole`, the encoder too; embedding and head are one table."""
    layers = _t5_layers(experts, decoder=True)
    if whole:
        layers = _t5_layers(experts, decoder=False) + layers
    return _sized(f"switch-base-{experts}", 768, 32128, layers, tied=True)


@lru_cache
def qwen() -> ModelSpec:
    """Qwen1.5-MoE-A2.7B: 60 experts of 1408, 4 of them and one shared of 5632 for each token."""
    moe = MixtureOfExperts(hidden=2048, experts=60, top_k=4, width=1408, shared_width=5632, shared_gate=True)
    attention = Attention(hidden=2048, heads=16, kv_heads=16, head_dim=128, qkv_bias=True)
    layer = Layer(attention, moe, norms=2, norm_width=2048)
    return _sized("qwen1.5-moe", 2048, 151_936, (layer,) * 24, tied=False)


@lru_cache
def deepseek() -> ModelSpec:
    """DeepSeekMoE-16B: 64 experts of 1408, 6 of them and two shared; the first layer is dense."""
    moe = MixtureOfExperts(hidden=2048, experts=64, top_k=6, width=1408, shared_width=2816)
    attention = Attention(hidden=2048, heads=16, kv_heads=16, head_dim=128)
    first = Layer(attention, FeedForward(hidden=2048, width=10944), norms=2, norm_width=2048)
    layers = (first,) + (Layer(attention, moe, norms=2, norm_width=2048),) * 27
    return _sized("deepseek-moe-16b", 2048, 102_400, layers, tied=False)


@lru_cache
def mixtral() -> ModelSpec:
    """Mixtral-8x7B of the catalog."""
    return load_model("mixtral-8x7b")


def deployed(model: ModelSpec, store: ExpertStore | None, routing: str = ROUTING, seed: int = 0) -> Deployment:
    """A model on the GPU with experts kept as `store` says."""
    return deploy(model, load_system(SYSTEM), routing=routing, seed=seed, store=store)


@cache
def step(experts: int, batch: int, store: ExpertStore, routing: str = ROUTING, seed: int = 0) -> Step:
    """A decode step of Switch-base, the mean of many draws.

    Parameters
    ----------
    experts : int
        Of each MoE layer.
    batch : int
        Tokens of the step.
    """
    d = deployed(switch(experts), store, routing, seed)
    found = explicit_stage(d, [Batch.of([CONTEXT] * batch)], expected=True)
    assert found.fetch is not None
    return Step(found.seconds, found.fetch)


@cache
def plain_hit_rate(policy: str, slots: int, batch: int, routing: str = ROUTING, seed: int = 0) -> float:
    """Hit rate of a cache of Switch-32 that is asked in the order in which tokens name experts.

    An engine may use what is there before it fetches the rest, as simulations do; an ordinary cache
    is asked for one expert after another.
    """
    d, warm = deployed(switch(32), None, routing, seed), 64
    rng, step_batch = np.random.default_rng([seed, batch]), Batch.of([CONTEXT] * batch)
    hits = asked = 0
    for part in d.experts:
        cache = ExpertCache(slots, policy)
        for step_ in range(4 * warm):
            tokens = part.router.loads(step_, part.row, step_batch).tokens.astype(np.int64)
            order = dict.fromkeys(rng.permutation(np.repeat(np.arange(len(tokens)), tokens)).tolist())
            found = [cache.ask(expert) for expert in order]
            if step_ >= warm:
                hits, asked = hits + sum(found), asked + len(found)
    return hits / asked


def resident_bytes(model: ModelSpec, slots: int | None) -> float:
    """Weights in the GPU's memory: all, or with so many experts of each layer [B]."""
    if slots is None:
        return model.weight_bytes
    return deployed(model, expertflow(slots)).memory().weights


def fits(model: ModelSpec) -> bool:
    """Whether all weights fit the GPU's memory."""
    memory = load_system(SYSTEM).device.memory
    return model.weight_bytes <= memory.capacity_bytes
