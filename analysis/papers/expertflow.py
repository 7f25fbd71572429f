"""ExpertFlow (DAC 2026, arXiv 2410.17954): experts in host memory, fetched ahead of their layer.

Decoding is bound by transfers: the gain over a system that preloads whole layers is the number of experts of a layer
over the experts that a batch uses. Hit rates, times and memory come from the simulator's expert cache, on the A40 of
the catalog.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from opbyte.extend import Batch, Deployment, ModelSpec, Table, deploy, load_model, load_system
from opbyte.extend.models import Attention, FeedForward, Layer, MixtureOfExperts, Numerics
from opbyte.extend.systems import ExpertCache, ExpertStore, StepFetch, explicit_stage

from .published import Prediction, paper

SYSTEM = "a40-x1"
ROUTING = "power_law:0.95"
ACCURACY = 0.92
CONTEXT = 128
ALL = ExpertStore(1.0, fraction=True)
"""Expert store with all experts in the GPU's memory."""
PRELOAD = ExpertStore(1.0, True, "transient", accuracy=1.0, false_rate=1.0)
"""SE-MoE: all experts of a layer are fetched ahead, for any routing."""


def expertflow(slots: int) -> ExpertStore:
    """Return ExpertFlow's store: predicted experts are prefetched into slots that are free again after their layer."""
    return ExpertStore(slots, policy="transient", accuracy=ACCURACY)


@dataclass(frozen=True, slots=True)
class Step:
    """A decode step: its time and its fetches of experts.

    Attributes
    ----------
    seconds : float
    fetch : StepFetch
    """

    seconds: float
    fetch: StepFetch


def _t5_layers(experts: int, decoder: bool) -> tuple[Layer, ...]:
    """Return twelve layers of Switch-base, every second with experts; cross-attention is a separate layer."""
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
    """Return Switch-base: the decoder, or with `whole` the encoder too; embedding and head share one table."""
    layers = _t5_layers(experts, decoder=True)
    if whole:
        layers = _t5_layers(experts, decoder=False) + layers
    return _sized(f"switch-base-{experts}", 768, 32128, layers, tied=True)


@lru_cache
def qwen() -> ModelSpec:
    """Return Qwen1.5-MoE-A2.7B: 60 experts of width 1408, of which a token uses 4, and one shared of 5632."""
    moe = MixtureOfExperts(hidden=2048, experts=60, top_k=4, width=1408, shared_width=5632, shared_gate=True)
    attention = Attention(hidden=2048, heads=16, kv_heads=16, head_dim=128, qkv_bias=True)
    layer = Layer(attention, moe, norms=2, norm_width=2048)
    return _sized("qwen1.5-moe", 2048, 151_936, (layer,) * 24, tied=False)


@lru_cache
def deepseek() -> ModelSpec:
    """Return DeepSeekMoE-16B: 64 experts of width 1408, 6 and two shared per token; the first layer is dense."""
    return load_model("deepseek-moe-16b")


@lru_cache
def mixtral() -> ModelSpec:
    """Return Mixtral-8x7B from the catalog."""
    return load_model("mixtral-8x7b")


def deployed(model: ModelSpec, store: ExpertStore | None, routing: str = ROUTING, seed: int = 0) -> Deployment:
    """Deploy a model on the GPU with its experts in `store`."""
    return deploy(model, load_system(SYSTEM), routing=routing, seed=seed, resident_experts=store)


@cache
def step(experts: int, batch: int, store: ExpertStore, routing: str = ROUTING, seed: int = 0) -> Step:
    """Return a decode step of Switch-base, the mean of many samples.

    Parameters
    ----------
    experts : int
        Of each MoE layer.
    batch : int
        Tokens of the step.
    """
    d = deployed(switch(experts), store, routing, seed)
    stage = explicit_stage(d, [Batch.of([CONTEXT] * batch)], expected=True)
    assert stage.fetch is not None
    return Step(stage.seconds, stage.fetch)


@cache
def plain_hit_rate(policy: str, slots: int, batch: int, routing: str = ROUTING, seed: int = 0) -> float:
    """Return the hit rate of an ordinary cache of Switch-32's experts, with requests in the tokens' order.

    An engine may use cached experts before it fetches the rest, as simulations do; an ordinary cache gets requests for
    one expert after another.
    """
    d, warm = deployed(switch(32), None, routing, seed), 64
    rng, step_batch = np.random.default_rng([seed, batch]), Batch.of([CONTEXT] * batch)
    hits = asked = 0
    for part in d.experts:
        cache = ExpertCache(slots, policy)
        for step_ in range(4 * warm):
            tokens = part.router.loads(step_, part.row, step_batch).tokens.astype(np.int64)
            order = dict.fromkeys(rng.permutation(np.repeat(np.arange(len(tokens)), tokens)).tolist())
            hits_found = [cache.ask(expert) for expert in order]
            if step_ >= warm:
                hits, asked = hits + sum(hits_found), asked + len(hits_found)
    return hits / asked


def resident_bytes(model: ModelSpec, slots: int | None) -> float:
    """Return the weights in the GPU's memory: all, or with `slots` experts of each layer [B]."""
    if slots is None:
        return model.weight_bytes
    return deployed(model, expertflow(slots)).memory().weights


def fits(model: ModelSpec) -> bool:
    """Return whether all weights fit into the GPU's memory."""
    memory = load_system(SYSTEM).device.memory
    return model.weight_bytes <= memory.capacity_bytes


SWITCHES = (32, 64, 128)
SLOTS, BATCH, FULL_BATCH = 16, 32, 512
SLOTS_OF = {"qwen": 8, "deepseek": 6, "mixtral": 1, "switch128": 4}
"""Slots of a layer for routed experts, as memory was measured. Of the eight of DeepSeekMoE two are the
shared experts', which Table 1 counts among the experts (their share of the weights shows it)."""
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
POLICIES = {"random": "random", "lru": "lru", "lfu": "lfu", "belady:8": "belady"}


def routing_of(asked: str) -> str:
    """Return the routing for a requested one: "uniform", the default, becomes the paper's routing."""
    return ROUTING if asked == "uniform" else asked


def predictions(seeds: Sequence[int] = (0,), routing: str = "uniform") -> Iterator[Prediction]:
    """Predict all rows by simulation: hit rates, decode rates and memory."""
    chosen = routing_of(routing)
    yield from _hits(seeds, chosen)
    yield from _rates(seeds, chosen)
    yield from _memory()


def _hits(seeds: Sequence[int], routing: str) -> Iterator[Prediction]:
    for policy in ("lru", "predictive"):
        for slots, batch in ((16, 4), (16, 16), (8, 16)):
            rates = [_hit_rate(policy, slots, batch, routing, seed) for seed in seeds]
            yield Prediction(f"expertflow.hit.{policy}.cs{slots}.bs{batch}", float(np.mean(rates)))


def _hit_rate(policy: str, slots: int, batch: int, routing: str, seed: int) -> float:
    if policy == "predictive":
        return step(32, batch, expertflow(slots), routing, seed).fetch.hit_rate
    return plain_hit_rate(policy, slots, batch, routing, seed)


def gain(experts: int, batch: int, routing: str, seed: int) -> float:
    """Return the decode rate over the rate with whole layers preloaded."""
    ours = step(experts, batch, expertflow(SLOTS), routing, seed).seconds
    return step(experts, batch, PRELOAD, routing, seed).seconds / ours


def _rates(seeds: Sequence[int], routing: str) -> Iterator[Prediction]:
    for experts in SWITCHES:
        gains = [gain(experts, BATCH, routing, seed) for seed in seeds]
        yield Prediction(f"expertflow.switch{experts}.vs_semoe", float(np.mean(gains)))
    for experts in SWITCHES:
        took = [step(experts, BATCH, expertflow(SLOTS), routing, seed).seconds for seed in seeds]
        yield Prediction(f"expertflow.switch{experts}.tokens_per_s", BATCH / float(np.mean(took)))
    full = [gain(32, FULL_BATCH, routing, seed) for seed in seeds]
    yield Prediction("expertflow.gain_at_full_batch", float(np.mean(full)))


def _memory() -> Iterator[Prediction]:
    models = {"qwen": qwen(), "mixtral": mixtral(), "deepseek": deepseek(), "switch128": switch(128, whole=True)}
    for name, model in models.items():
        yield Prediction(f"expertflow.memory.{name}", resident_bytes(model, SLOTS_OF[name]) / 1e9)
    all_bytes = switch(128, whole=True)
    yield Prediction("expertflow.memory.switch128.all_in_gpu", resident_bytes(all_bytes, None) / 1e9)
    yield Prediction("expertflow.mixtral.all_in_gpu_fits", float(fits(mixtral())))


def hit_table(seeds: Sequence[int], asked: str) -> Table:
    """Compare hit rates of cache policies by number of slots, at two batch sizes."""
    routing, seed, rows = routing_of(asked), seeds[0], list[dict[str, float]]()
    for batch in (4, 16):
        for slots in (4, 8, 12, 16, 24, 32):
            row: dict[str, float] = {"batch": batch, "slots": slots}
            for label, name in POLICIES.items():
                store = ExpertStore(slots, policy=name, look_ahead=8 if name == "belady" else 0)
                row[label] = step(32, batch, store, routing, seed).fetch.hit_rate
            store_kept = ExpertStore(slots, policy="predictive", accuracy=ACCURACY)
            row["predictive, kept"] = step(32, batch, store_kept, routing, seed).fetch.hit_rate
            row["predictive, transient"] = step(32, batch, expertflow(slots), routing, seed).fetch.hit_rate
            row["lru, in tokens' order"] = plain_hit_rate("lru", slots, batch, routing, seed)
            rows.append(row)
    note = "share of the experts a step needs that are there when their layer comes"
    return Table("hits", "Switch-32: hit rates by policy", rows, note)


def time_table(seeds: Sequence[int], asked: str) -> Table:
    """Compare the milliseconds per token of expert stores, by batch size."""
    routing, seed = routing_of(asked), seeds[0]
    stores = {
        "all in GPU": ALL, "preload layers (SE-MoE)": PRELOAD,
        "lru": ExpertStore(SLOTS, policy="lru"), "ExpertFlow": expertflow(SLOTS),
        "predictive, kept": ExpertStore(SLOTS, policy="predictive", accuracy=ACCURACY),
    }  # fmt: skip
    rows = []
    for batch in BATCHES:
        row: dict[str, float] = {"batch": batch}
        steps = {name: step(32, batch, store, routing, seed) for name, store in stores.items()}
        row |= {name: cost.seconds / batch * 1e3 for name, cost in steps.items()}
        row["distinct experts a layer"] = steps["ExpertFlow"].fetch.needed / 6
        row["gain over SE-MoE"] = row["preload layers (SE-MoE)"] / row["ExpertFlow"]
        rows.append(row)
    note = f"ms; {SLOTS} slots a layer, routing {routing}"
    return Table("times", "Switch-32: time per token by how experts are kept", rows, note)


paper(
    "expertflow", "ExpertFlow: hit rates, decode rates and memory with experts in host memory.", predictions,
    seeded=True, tables=(hit_table, time_table), drawn={"hit_rates": hit_table, "token_times": time_table},
)  # fmt: skip
