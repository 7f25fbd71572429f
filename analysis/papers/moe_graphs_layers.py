"""Mixtures inside a layer: MoM's states (arXiv 2502.13685), Mixture-of-Mamba's projections (2501.16295), slices (2503.02495)."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from opbyte.extend import Batch, LayerKind, Loads, ModelSpec, Run, Table, deploy, load_model, load_system
from opbyte.extend.models import Attention, Memories, ModalMamba, SlicedAttention, SlicedFeedForward, is_routed
from opbyte.extend.systems import explicit_stage

from .moe_graphs import COSTS, GRAPHS, Graph
from .published import Prediction

SYSTEM = "h100-x1"
BATCH = 64
"""Sequences of a timed step [assumed]."""
CONTEXTS = (256, 512, 1024, 2048, 4096, 8192, 16384)
STATE_BATCHES, MODAL_BATCHES = (1, 8, BATCH, 256), (1, 8, BATCH, 512)
TEXT, MIXED = "modality:1,0", "modality:0.5,0.5"
"""Routings of steps with tokens of one modality only, and with equal numbers from two modalities."""
SLICED, TOKENS = "union-of-experts-small", 1024
LENGTHS = (64, 256, TOKENS, 4096)
MATMULS = ("gemm", "experts", "attention_prefill")
STATES = (
    f"steps decode {BATCH} sequences on one H100, rooflines of both; plain attention has the states' heads and widths",
    "keys and values are projected once for all states; short convolutions are left out",
)
PROJECTIONS = (
    (
        f"the sizes are Mamba 1.4B with two modalities; a step decodes {BATCH} sequences on one H100 "
        "(roofline), of one modality or half of each; embeddings, which both share here, are left out of the ratio"
    ),
)
SLICES = (
    (
        f"matmuls of one layer with its router, a causal sequence of {TOKENS} tokens; sizes are assumed "
        "(width 512, 8 heads, MLP 4 times as wide, 8 slices)"
    ),
)
"""Assumptions of each system."""


def step_s(spec: ModelSpec, batch: int, context: int = 1024, routing: str = "uniform") -> float:
    """Return the time of a decoding step at `context` tokens, the new token included, with expected loads [s]."""
    d = deploy(spec, load_system(SYSTEM), routing=routing, costs=COSTS)
    return explicit_stage(d, [Batch.of([context - 1] * batch)], expected=True).seconds


@GRAPHS.register("mom")
def mom() -> Graph:
    """Predict MoM: a token uses some of several linear-attention states."""
    states, plain = states_model(), attention_model()
    state_bytes = states.state_bytes_per_sequence
    rows = (
        Prediction("mom.state_MiB", state_bytes / 2**20),
        Prediction("mom.breakeven_tokens", state_bytes / plain.kv_bytes_per_token),
        Prediction("mom.step_time_over_attention.4k", step_s(states, BATCH, 4096) / step_s(plain, BATCH, 4096)),
    )
    return Graph(rows, (_steps(),), STATES, 2 * len(CONTEXTS) * len(STATE_BATCHES))


@cache
def states_model() -> ModelSpec:
    """Return the model with linear-attention states."""
    return load_model("mom-340m")


@cache
def attention_model() -> ModelSpec:
    """Return the model with plain attention of equal heads."""

    def plain(mixer: Memories) -> Attention:
        heads = mixer.net.value_heads
        return Attention(mixer.hidden, heads, heads, mixer.net.value_dim)

    return replace(states_model().map_parts(Memories, plain), name="attention-340m")


def _steps() -> Table:
    rows = []
    for context in CONTEXTS:
        row: dict[str, float] = {"context": context}
        for batch in STATE_BATCHES:
            ratio = step_s(states_model(), batch, context) / step_s(attention_model(), batch, context)
            row[f"batch {batch}"] = ratio
        rows.append(row)
    return Table("mom_steps", "MoM: step with states over step with plain attention", rows)


@GRAPHS.register("momamba")
def momamba() -> Graph:
    """Predict Mixture-of-Mamba: state-space layers with separate projections for each modality."""
    times = {
        name: step_s(modal_model(), BATCH, routing=routing) for name, routing in (("text", TEXT), ("mixed", MIXED))
    }
    rows = [Prediction("momamba.params_ratio", layer_weights(modal_model()) / layer_weights(mamba_model()))]
    rows += [Prediction(f"momamba.batch_time.{name}", took * 1e3) for name, took in times.items()]
    return Graph(tuple(rows), (_batches(),), PROJECTIONS, 3 * len(MODAL_BATCHES))


@cache
def modal_model() -> ModelSpec:
    """Return the model with separate projections for two modalities."""
    return load_model("mixture-of-mamba-1.4b")


@cache
def mamba_model() -> ModelSpec:
    """Return the model with one set of projections."""
    one_set = modal_model().map_parts(ModalMamba, lambda mixer: replace(mixer, modalities=1))
    return replace(one_set, name="mamba-1.4b")


def layer_weights(spec: ModelSpec) -> int:
    """Return the parameters without embedding and head."""
    return spec.total_params - spec.vocab * spec.hidden


def _batches() -> Table:
    rows = []
    for batch in MODAL_BATCHES:
        plain = step_s(mamba_model(), batch)
        rows.append({"batch": batch, "plain_ms": plain * 1e3}
                    | {f"{name} over plain": step_s(modal_model(), batch, routing=routing) / plain
                       for name, routing in (("text", TEXT), ("mixed", MIXED))})  # fmt: skip
    return Table("momamba_batches", "Mixture-of-Mamba: decoding step over plain Mamba's", rows)


@GRAPHS.register("uoe")
def uoe() -> Graph:
    """Predict Union-of-Experts: a token uses half of the slices of heads and MLP."""
    spec = load_model(SLICED)
    (layer, _), *_ = spec.groups
    assert layer.ffn is not None
    parts = {"mlp": (layer.ffn,), "attention": (layer.mixer,), "": layer.parts}
    rows = tuple(
        Prediction(f"uoe.flop_share{name and f'.{name}'}", share(spec, chosen, TOKENS))
        for name, chosen in parts.items()
    )
    return Graph(rows, (_lengths(spec),), SLICES)


def whole_model() -> ModelSpec:
    """Return the model with all slices chosen, which is a plain transformer."""
    whole = load_model(SLICED).map_layers(
        lambda layer: replace(layer, mixer=_whole(layer.mixer), ffn=layer.ffn and _whole(layer.ffn))
    )
    return replace(whole, name="union-of-experts-whole")


def share(spec: ModelSpec, parts: tuple[LayerKind, ...], tokens: int) -> float:
    """Return the FLOP of some parts over the FLOP of the same parts with all slices."""
    return sum(_flops(spec, part, tokens) for part in parts) / sum(_flops(spec, _whole(part), tokens) for part in parts)


def _flops(spec: ModelSpec, part: LayerKind, tokens: int) -> float:
    m = Batch.of([], [(tokens, 0)]).moments(spec.windows)
    loads = None
    if is_routed(part):
        routed = part.routed
        loads = Loads.expected(tokens, routed.top_k, routed.experts, routed.experts)
    ops = part.ops(m, Run(spec.numerics), loads)
    return sum(op.flops for op in ops if op.kind in MATMULS)


def _whole(part: LayerKind) -> LayerKind:
    """Return the part with all its slices, which is the plain layer."""
    assert isinstance(part, SlicedAttention | SlicedFeedForward)
    return replace(part, top_k=part.slices)


def _lengths(spec: ModelSpec) -> Table:
    (layer, _), *_ = spec.groups
    rows = [
        {"tokens": tokens, "attention": share(spec, (layer.mixer,), tokens), "both": share(spec, layer.parts, tokens)}
        for tokens in LENGTHS
    ]
    return Table("uoe_lengths", "Union-of-Experts: FLOP at half of the slices, by length", rows)
