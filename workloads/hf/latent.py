"""Decoders with latent attention beyond DeepSeek's own: the same parts, other habits."""

from __future__ import annotations

from dataclasses import replace

from ..layers import LatentAttention, LayerKind, SparseLatentAttention
from ..model import ModelSpec
from .blocks import read_blocks
from .config import Config
from .decoders import mtp_heads
from .deepseek import attention_of, indexer_of, indexing, latent_model
from .families import Family, family
from .gemma import overrides
from .parts import assemble, stack

LATENT: dict[tuple[str, ...], tuple[tuple[str, ...], tuple[int, int, bool], str]] = {
    ("AXK1ForCausalLM", "SarvamMLAForCausalLM"): (
        ("axk1", "sarvam_mla"), (1, 2, False), "DeepSeek-V3's layers, one of them dense",
    ),
    ("Mistral4ForCausalLM", "MistralLarge3ForCausalLM"): (
        ("mistral4", "mistral_large_3"), (0, 2, False), "Mistral's latent attention, experts in every layer",
    ),
    ("YoutuForCausalLM", "MiniCPM3ForCausalLM"): (
        ("youtu", "minicpm3"), (0, 2, True), "Latent attention without experts",
    ),
    ("PanguUltraMoEForCausalLM", "OpenPanguForCausalLM"): (
        ("pangu_ultra_moe", "openpangu"), (3, 4, False), "Pangu Ultra MoE: DeepSeek-V3's layers between four norms",
    ),
}  # fmt: skip
"""Classes -> their ``model_type``; dense layers first, norms a layer and whether tied by default; what they are."""


def _reader(first: int, norms: int, tied: bool, title: str) -> Family:
    def read(config: Config) -> ModelSpec:
        layers, attention = config.layers(), attention_of(config)
        blocks = read_blocks(config, attention.hidden, layers, router_bias=True, first=first)
        return assemble(config, stack([attention] * layers, blocks, norms=norms), tied=tied, heads=mtp_heads(config))

    read.__doc__ = title
    return read


for _names, (_types, _habits, _title) in LATENT.items():
    family(*_names, types=_types)(_reader(*_habits, _title))


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
    """What a reader should know of streams whose mixing has no measured kernel."""
    return f"{config.path}: the mixing of {streams} residual streams is counted by weights, not by time"


DOTS = ("full_attention", "indexed_attention", "sliding_attention")
NARROW = {
    "num_attention_heads": 64, "num_key_value_heads": 64, "q_lora_rank": 1024, "kv_lora_rank": 1024,
    "qk_nope_head_dim": 192, "qk_rope_head_dim": 64, "v_head_dim": 128,
}  # fmt: skip
"""Keys of dots3-note's layers with a window (``swa_`` in front of each) and what they are without one."""


@family("Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration", types=("dots3_note_text", "dots3_note"))
def dots3_note(config: Config) -> ModelSpec:
    """dots3-note: DeepSeek's sparse attention, in three layers of four a window and other widths; a gate a head."""
    layers = config.layers()
    words = config.words("layer_types", layers, DOTS)
    slides = [i > 1 and i % 4 != 1 for i in range(layers)]
    slides = [word == DOTS[2] for word in words] if words else slides
    full = attention_of(config, gate_dim=1)
    kinds: dict[bool, LayerKind] = {False: SparseLatentAttention(full, indexer_of(config))}
    if any(slides):
        narrow = {key: config.size(f"swa_{key}", default=size) for key, size in NARROW.items()}
        narrow |= overrides(config, slides.index(True))
        window = config.size("sliding_window", "sliding_window_size", default=512)
        kinds[True] = replace(attention_of(config.but(**narrow), gate_dim=1), window=window)
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
    layers, base, pattern = config.layers(), attention_of(config), config.values.get("index_topk_pattern")
    roped = config.items("no_rope_layers") or [
        (i + 1) % config.size("no_rope_layer_interval", default=4) != 0 for i in range(layers)
    ]
    sources = config.items("kv_source_layers") or list(range(layers))
    for key, flags, top in (("no_rope_layers", roped, 2), ("kv_source_layers", sources, layers)):
        if len(flags) < layers or any(n not in range(top) for n in flags):
            raise config.error(key, f"must be a whole number below {top} for each of {layers} layers")
    if isinstance(pattern, str) and not config.has("indexer_types"):
        config = config.but(indexer_types=[{"F": "full", "S": "shared"}.get(one, one) for one in pattern])
    index = indexer_of(config)
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
