"""Decoders with many narrow experts: DeepSeek, Kimi, GLM, dots.llm1 and ERNIE.

Multi-token-prediction layers (``num_nextn_predict_layers``) are a draft model (`ModelSpec.mtp`), not part of the layers
and weights, as in the published totals of DeepSeek-V3.

DeepSeek-V4: compressed attention, residual streams, experts in 4 bits; some layers choose experts by a table.

Decoders of other vendors with latent attention: the same parts with other defaults.
"""

from __future__ import annotations

from dataclasses import replace

from ..layers import CompressedAttention, Indexer, LatentAttention, LayerKind, SparseLatentAttention
from ..model import ModelSpec
from .config import Config
from .decoders import mtp_heads
from .families import MODEL_TYPES, family
from .gemma import overrides
from .moe import roped_layers
from .parts import assemble, read_blocks, read_experts_of, read_latent, stack


@family("HYV4ForCausalLM", "HYV4VLForConditionalGeneration", types=("hy_v4", "hy_v4_vl_text"))
def hy_v4(config: Config) -> ModelSpec:
    """Hy4: GLM-5's sparse latent attention with an output gate, several residual streams.

    The mixing of the streams is counted by its weights; its time is not.
    """
    indexer_of(config)  # required here
    streams, gate = config.size("hc_mult", default=1), config.size("v_head_dim")
    spec = latent_model(config, router_bias=True, indexer=indexing(config), gate_dim=gate)
    if streams == 1:
        return spec
    wide = streams * streams * spec.hidden
    extra = 2 * (2 * wide + 2 * streams + 2) * len(spec.layers) + wide + streams + 1
    return replace(spec, extra_weights=spec.extra_weights + extra, notes=(*spec.notes, mixed(config, streams)))


def mixed(config: Config, streams: int) -> str:
    """Return the note that the mixing of residual streams has no measured kernel."""
    return f"{config.path}: the mixing of {streams} residual streams is counted by weights, not by time"


DOTS = ("full_attention", "indexed_attention", "sliding_attention")
NARROW = {
    "num_attention_heads": 64, "num_key_value_heads": 64, "q_lora_rank": 1024, "kv_lora_rank": 1024,
    "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip
"""Keys and defaults of dots3-note's layers with an attention window; in the file each has the prefix ``swa_``."""


@family("Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration", types=("dots3_note_text", "dots3_note"))
def dots3_note(config: Config) -> ModelSpec:
    """dots3-note: DeepSeek's sparse attention, in three layers of four a window and other widths; a gate a head."""
    layers = config.layers()
    words = config.words("layer_types", layers, DOTS)
    slides = [i > 1 and i % 4 != 1 for i in range(layers)]
    slides = [word == DOTS[2] for word in words] if words else slides
    full = read_latent(config, gate_dim=1)
    kinds: dict[bool, LayerKind] = {False: SparseLatentAttention(full, indexer_of(config))}
    if any(slides):
        narrow = {key: config.size(f"swa_{key}", default=size) for key, size in NARROW.items()}
        narrow |= overrides(config, slides.index(True))
        window = config.size("sliding_window", "sliding_window_size", default=512)
        kinds[True] = replace(read_latent(config.but(**narrow), gate_dim=1), window=window)
    shared = config.size("n_shared_experts", default=1) * config.size(
        "moe_shared_expert_intermediate_size", "shared_experts_intermediate_size", default=1536
    )
    blocks = read_blocks(config, full.hidden, layers, router_bias=True, first=1, shared=shared)
    mixers = [kinds[one] for one in slides]
    spec = assemble(config, stack(mixers, blocks), extra=layers * full.rope_dim, heads=mtp_heads(config))
    return replace(spec, numerics=replace(spec.numerics, kv="fp8"))  # as all of DSA's kin


@family("MistralLarge4ForConditionalGeneration", "MistralLarge4ForCausalLM",
        types=("mistral_large4_text", "mistral_large4"))  # fmt: skip
def mistral_large4(config: Config) -> ModelSpec:
    """Mistral Large 4: sparse latent attention without a latent of queries, layers that share a latent or have no rope."""
    layers, base, pattern = config.layers(), read_latent(config), config.values.get("index_topk_pattern")
    roped, sources = roped_layers(config, layers), config.items("kv_source_layers") or list(range(layers))
    if len(sources) < layers or any(n not in range(layers) for n in sources):
        raise config.error("kv_source_layers", f"must be a whole number below {layers} for each of {layers} layers")
    if isinstance(pattern, str) and not config.has("indexer_types"):
        config = config.but(indexer_types=[{"F": "full", "S": "shared"}.get(one, one) for one in pattern])
    index = indexer_of(config)
    # A layer without rope has the same head width, all of it without positions.
    plain = replace(base, nope_dim=base.nope_dim + base.rope_dim, rope_dim=0)

    def mixer(i: int, runs: bool) -> SparseLatentAttention:
        mixer_own: LatentAttention = replace(base if roped[i] else plain, shares=sources[i] != i)
        return SparseLatentAttention(mixer_own, index, not runs)

    chosen = indexing(config)
    blocks = read_blocks(config, base.hidden, layers, first=1)
    # A scale and a bias a head, and a norm of what each indexer's queries come from.
    extra = 2 * layers * base.heads + 2 * base.hidden * sum(chosen)
    made = stack([mixer(i, runs) for i, runs in enumerate(chosen)], blocks)
    spec = assemble(config, made, extra=extra, heads=mtp_heads(config))
    return replace(spec, numerics=replace(spec.numerics, kv="fp8"))


@family("DeepseekV2ForCausalLM", types=("deepseek_v2",))
def deepseek_v2(config: Config) -> ModelSpec:
    """DeepSeek-V2 and V2-Lite: latent attention, softmax routing without a bias.

    Text models of DeepSeek-VL2 and -OCR may have plain attention (``use_mla``).
    """
    if not config.flag("use_mla", config.has("kv_lora_rank") or not config.has("num_key_value_heads")):
        return MODEL_TYPES["deepseek"](config)
    return latent_model(config, router_bias=config.text("topk_method") == "noaux_tc")


@family("DeepseekV32ForCausalLM", types=("deepseek_v32",))
def deepseek_v32(config: Config) -> ModelSpec:
    """DeepSeek-V3.2: V3 with an indexer in every layer."""
    return latent_model(config, router_bias=True, indexer=(True,) * config.layers())


@family("GlmMoeDsaForCausalLM", types=("glm_moe_dsa",))
def glm_moe_dsa(config: Config) -> ModelSpec:
    """GLM-5: DeepSeek-V3.2's layers; some may share the indexer of a layer before them."""
    return latent_model(config, router_bias=True, indexer=indexing(config))


def indexing(config: Config) -> tuple[bool, ...]:
    """Return which layers run an indexer; each other layer reuses the choice of an earlier one."""
    layers = config.layers()
    kinds = config.words("indexer_types", layers, ("full", "shared"))
    if kinds is not None:
        if kinds[0] != "full":
            raise config.error(
                "indexer_types[0]",
                "must be full: the first layer has no earlier layer whose choice of tokens it could use",
            )
        return tuple(kind == "full" for kind in kinds)
    # every `index_topk_freq`-th layer selects (transformers' GlmMoeDsaConfig)
    every = config.size("index_topk_freq", default=1)
    offset = config.count("index_skip_topk_offset", default=2)
    return tuple(max(i - offset + 1, 0) % every == 0 for i in range(layers))


def latent_model(config: Config, *, router_bias: bool, indexer: tuple[bool, ...] = (), gate_dim: int = 0) -> ModelSpec:
    """Build a model with DeepSeek's latent attention and experts; `indexer` says which layers run one (empty: none)."""
    layers, attention = config.layers(), read_latent(config, gate_dim)
    hidden = attention.hidden
    # transformers' DeepseekV3Config and its kin default to three dense layers, V2's to none.
    blocks = read_blocks(config, hidden, layers, router_bias=router_bias, first=3 if router_bias else 0)
    mixers: list[LayerKind] = [attention] * layers
    chosen = indexer_of(config) if any(indexer) and config.has("index_n_heads") else None  # null: dense
    if chosen is not None:
        mixers = [SparseLatentAttention(attention, chosen, not runs) for runs in indexer]
    spec = assemble(config, stack(mixers, blocks), heads=mtp_heads(config))
    # Engines keep this latent in 8 bits unasked (`fp8_ds_mla` in vllm-project/vllm).
    return replace(spec, numerics=replace(spec.numerics, kv="fp8")) if chosen else spec


def indexer_of(config: Config) -> Indexer:
    """Read the shape of a layer's indexer."""
    return Indexer(config.size("index_n_heads"), config.size("index_head_dim"), config.size("index_topk"))


CHOSEN = 4
"""Compression ratio of the layers in which an indexer chooses pools."""


@family("DeepseekV4ForCausalLM", types=("deepseek_v4",))
def deepseek_v4(config: Config) -> ModelSpec:
    """DeepSeek-V4: windows and pools of 4 or 128 tokens, hyper-connections, hash-routed layers first."""
    hidden, layers = config.size("hidden_size"), config.layers()
    config = _as_published(config, layers)
    window = CompressedAttention(
        hidden=hidden, heads=config.size("num_attention_heads"), head_dim=config.size("head_dim"),
        rope_dim=config.size("qk_rope_head_dim"), q_rank=config.size("q_lora_rank"),
        out_groups=config.size("o_groups"), out_rank=config.size("o_lora_rank"),
        near=config.size("sliding_window"),
    )  # fmt: skip
    mixers: list[LayerKind] = [_pooled(config, window, ratio) for ratio in _ratios(config, layers)]
    experts = read_experts_of(config, hidden, router_bias=True)
    hashed = min(config.count("num_hash_layers"), layers)
    blocks = [replace(experts, router_bias=i >= hashed) for i in range(layers)]
    streams = config.size("hc_mult", default=1)
    made = tuple(replace(layer, streams=streams) for layer in stack(mixers, blocks))
    head = replace(stack([window], [experts])[0], streams=streams)
    extra = streams * streams * hidden + streams + 1 if streams > 1 else 0
    spec = assemble(config, made, extra=extra, head=head, heads=mtp_heads(config))
    # Engines keep entries in 8 bits whatever is asked for (`fp8_ds_mla` in vllm-project/vllm).
    return replace(spec, numerics=replace(spec.numerics, kv="fp8"))


KINDS = ("sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention")


def _as_published(config: Config, layers: int) -> Config:
    """Convert a file in the keys of transformers 5 to DeepSeek's keys; leave other files unchanged."""
    words = None if config.has("compress_ratios") else config.words("layer_types", layers, KINDS)
    if words is None:
        return config
    rates = config.section("compress_rates")
    pools = {KINDS[0]: 0} | {kind: rates.size(kind) for kind in set(words) - {KINDS[0]}}
    keys: dict[str, object] = {"compress_ratios": [pools[word] for word in words]}
    blocks = config.words("mlp_layer_types", layers, ("hash_moe", "moe"))
    if blocks is not None:
        keys["num_hash_layers"] = blocks.count("hash_moe")
    if not config.has("qk_rope_head_dim"):
        keys["qk_rope_head_dim"] = config.size("head_dim") // 8  # `partial_rotary_factor` of all its checkpoints
    return config.but(**keys)


def _ratios(config: Config, layers: int) -> list[int]:
    """Return the tokens per pool of each layer; entries of multi-token-prediction layers at the end are dropped."""
    ratios = config.items("compress_ratios")
    if ratios is None or len(ratios) < layers:
        have = "nothing" if ratios is None else len(ratios)
        raise config.error("compress_ratios", f"must have one entry per layer: {layers}, not {have}")
    for i, ratio in enumerate(ratios):
        if type(ratio) is not int or ratio < 0:
            raise config.error(f"compress_ratios[{i}]", f"must be a number of tokens, not {ratio!r}")
    return ratios[:layers]


def _pooled(config: Config, window: CompressedAttention, ratio: int) -> CompressedAttention:
    if ratio != CHOSEN:
        return replace(window, ratio=ratio)
    index = Indexer(config.size("index_n_heads"), config.size("index_head_dim"), config.size("index_topk"), ratio)
    return replace(window, ratio=ratio, indexer=index)
