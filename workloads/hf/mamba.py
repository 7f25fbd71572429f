"""Models with state-space layers or short convolutions: Nemotron-H and -3, Falcon-H1, Granite 4, Bamba, LFM2, Mamba."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..layers import Attention, FeedForward, LayerKind, Lightning, Mamba, Mamba2, ShortConv
from ..model import Layer, ModelSpec
from .config import Config, shown
from .decoders import mtp_heads
from .families import family
from .parts import (
    assemble,
    check_heads,
    once_each,
    read_blocks,
    read_experts_of,
    read_ffn,
    read_heads,
    read_latent,
    stack,
)

PATTERN = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
BLOCKS = {"linear_attention": "mamba", "mamba": "mamba", "full_attention": "attention",
          "attention": "attention", "moe": "moe", "mlp": "mlp"}  # fmt: skip
"""Kind of layer for each word of ``layers_block_type`` and ``layer_types``."""


STATES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "auto": ""}
"""Number formats of recurrent states, by their spelling in files."""


def state_format(config: Config, key: str) -> str:
    """Return the number format of a recurrent state; empty: as activations."""
    text = config.text(key)
    if not text:
        return ""
    if text not in STATES:
        raise config.error(key, f"must be one of {', '.join(STATES)}, not {text!r}")
    return STATES[text]


def _kinds(config: Config, pattern: str, words: str) -> list[str]:
    """Return the kind of each single-part layer, from a pattern of letters or a list of words."""
    text = config.text(pattern)
    if text:
        for i, letter in enumerate(text):
            if letter not in PATTERN:
                raise config.error(pattern, f"must be of {' '.join(PATTERN)}, not {letter!r} at {i}")
        return [PATTERN[letter] for letter in text]
    items = config.items(words)
    if not items:
        raise config.error(pattern, f"is missing, like {words}; one of them must say what each layer is")
    for i, word in enumerate(items):
        if word not in BLOCKS:
            raise config.error(f"{words}[{i}]", f"must be one of {', '.join(BLOCKS)}, not {shown(word)}")
    return [BLOCKS[word] for word in items]


def _paired(
    kinds: Sequence[str], parts: dict[str, LayerKind], norm: int, config: Config, key: str
) -> tuple[Layer, ...]:
    """Combine single-part layers into layers of a mixer and the block after it; parts and order stay the same."""
    out: list[Layer] = []
    for i, kind in enumerate(kinds):
        if kind in ("mamba", "attention"):
            out.append(Layer(parts[kind], None, 1, norm))
        elif kind == "mlp" and (not out or out[-1].ffn is not None):
            out.append(Layer(parts[kind], None, 1, norm))  # dense blocks may follow each other
        elif not out or out[-1].ffn is not None or out[-1].mixer is parts.get("mlp"):
            raise config.error(key, f"layer {i} has experts and must follow a mixer")
        else:
            out[-1] = replace(out[-1], ffn=parts[kind], norms=2)
    return once_each(out)


@family("NemotronHForCausalLM", "NemotronHPuzzleForCausalLM", types=("nemotron_h",))
def nemotron_h(config: Config) -> ModelSpec:
    """Nemotron-H and -3: Mamba-2, attention, experts of two matrices (on a narrower width), one part a layer.

    A mixer and the block behind it are one layer here, with a norm each.
    """
    if config.has("block_configs"):
        raise config.error("block_configs", "separate widths of layers are not supported for this class")
    shape = read_heads(config, head_dim=128)
    hidden, bias = shape.hidden, config.flag("attention_bias", False)
    parts: dict[str, LayerKind] = {
        "mamba": Mamba2(
            hidden, config.size("mamba_num_heads"), config.size("mamba_head_dim"), config.size("n_groups"), config.size("ssm_state_size"),
            config.size("conv_kernel", default=4), config.flag("use_conv_bias", True), config.flag("mamba_proj_bias", False),
            state_format(config, "mamba_ssm_cache_dtype"),
        ),
        "attention": shape.attention([0], qkv_bias=bias, out_bias=bias)[0],
    }  # fmt: skip
    kinds = _kinds(config, "hybrid_override_pattern", "layers_block_type")
    if config.has("num_hidden_layers") and config.layers() != len(kinds):
        reason = f"must be equal to the {len(kinds)} layers of the pattern, not {config.layers()}"
        raise config.error("num_hidden_layers", reason)
    if "mlp" in kinds:
        parts["mlp"] = read_ffn(config, hidden, matrices=2, bias=config.flag("mlp_bias", False))
    if "moe" in kinds:
        parts["moe"] = _experts(config, hidden)
    layers = _paired(kinds, parts, hidden, config, "hybrid_override_pattern")
    heads = mtp_heads(config)
    head = None
    if heads:
        blocks = {**parts, "moe": _experts(config, hidden)}
        keys = ("mtp_hybrid_override_pattern", "mtp_layers_block_type")
        head = _paired(_kinds(config, *keys), blocks, hidden, config, keys[0])[-1]
    return assemble(config, layers, head=head, heads=heads)


def _experts(config: Config, hidden: int) -> LayerKind:
    """Read experts of two matrices; with ``moe_latent_size`` they compute on a narrower projection of the tokens."""
    shared = config.count("moe_shared_expert_intermediate_size") * config.count("n_shared_experts", default=1)
    experts = read_experts_of(config, hidden, router_bias=True, matrices=2, shared=shared)
    return replace(experts, shared_matrices=2, latent=config.count("moe_latent_size"))


def _mamba2(config: Config, hidden: int) -> Mamba2:
    """Read Mamba-2 under the keys of Bamba, Granite 4 and Falcon-H1."""
    inner = config.size("mamba_d_ssm", default=config.size("mamba_expand", default=2) * hidden)
    heads = config.size("mamba_n_heads")
    head_width = config.size("mamba_d_head") if type(config.values.get("mamba_d_head")) is int else inner // heads
    if heads * head_width != inner:
        raise config.error(
            "mamba_n_heads", f"times mamba_d_head must be equal to the {inner} channels, not {heads * head_width}"
        )
    return Mamba2(
        hidden, heads, head_width, config.size("mamba_n_groups", default=1), config.size("mamba_d_state", default=256),
        config.size("mamba_d_conv", default=4), config.flag("mamba_conv_bias", True), config.flag("mamba_proj_bias", False),
        state_format(config, "mamba_ssm_cache_dtype"),
    )  # fmt: skip


@family("FalconH1ForCausalLM", types=("falcon_h1",))
def falcon_h1(config: Config) -> ModelSpec:
    """Falcon-H1: Mamba-2 and attention side by side in every layer, behind one norm."""
    shape, layers = read_heads(config), config.layers()
    bias = config.flag("attention_bias", False)
    first = Layer(_mamba2(config, shape.hidden), None, 0, 0)
    second = Layer(
        shape.attention([0], qkv_bias=bias, out_bias=bias)[0],
        read_ffn(config, shape.hidden, bias=config.flag("mlp_bias", False)), 2, shape.hidden,
    )  # fmt: skip
    return assemble(config, (first, second) * layers)


@family("BambaForCausalLM", types=("bamba",))
def bamba(config: Config) -> ModelSpec:
    """Bamba: Mamba-2, attention in a few layers, dense blocks."""
    shape, layers = read_heads(config), config.layers()
    attends = config.indices("attn_layer_indices", layers) or frozenset()
    bias = config.flag("attention_bias", False)
    attention, mamba = (shape.attention([0], qkv_bias=bias, out_bias=bias)[0], _mamba2(config, shape.hidden))
    mixers: list[LayerKind] = [attention if i in attends else mamba for i in range(layers)]
    return assemble(config, stack(mixers, read_ffn(config, shape.hidden, bias=config.flag("mlp_bias", False))))


@family("GraniteMoeHybridForCausalLM", types=("granitemoehybrid",))
def granite_hybrid(config: Config) -> ModelSpec:
    """Granite 4: Mamba-2 and attention, experts with a shared one, or only the shared one."""
    shape, layers = read_heads(config), config.layers()
    words = config.items("layer_types") or config.items("layers_block_type") or ["mamba"] * layers
    if len(words) != layers or any(BLOCKS.get(str(word)) not in ("mamba", "attention") for word in words):
        raise config.error("layer_types", f"must say mamba or attention for each of the {layers} layers")
    bias = config.flag("attention_bias", False)
    attention, kinds = (shape.attention([0], qkv_bias=bias, out_bias=bias)[0], [BLOCKS[word] for word in words])
    mamba: LayerKind = _mamba2(config, shape.hidden) if "mamba" in kinds else attention
    shared = config.count("shared_intermediate_size")
    if config.count("num_local_experts"):
        ffn: LayerKind = read_experts_of(config, shape.hidden, shared=shared)
    else:
        ffn = FeedForward(shape.hidden, shared or config.size("intermediate_size"))
    mixers = [mamba if kind == "mamba" else attention for kind in kinds]
    return assemble(config, stack(mixers, ffn))


@family("Mamba2ForCausalLM", types=("mamba2",))
def mamba2(config: Config) -> ModelSpec:
    """Only Mamba-2 (Codestral Mamba)."""
    hidden = config.size("hidden_size")
    part = Mamba2(
        hidden, config.size("num_heads"), config.size("head_dim"), config.size("n_groups", default=8), config.size("state_size", default=128),
        config.size("conv_kernel", default=4), config.flag("use_conv_bias", True), config.flag("use_bias", False),
    )  # fmt: skip
    return assemble(config, (Layer(part, None, 1, hidden),) * config.layers("num_hidden_layers", "n_layer"))


@family("MambaForCausalLM", "FalconMambaForCausalLM", types=("mamba", "falcon_mamba"))
def mamba(config: Config) -> ModelSpec:
    """Only Mamba-1; Falcon's has norms without weights."""
    hidden = config.size("hidden_size", "d_model")
    inner = config.size("intermediate_size", "d_inner", default=config.size("expand", default=2) * hidden)
    rank = config.values.get("time_step_rank", "auto")
    dt_rank = -(-hidden // 16) if rank == "auto" else config.size("time_step_rank")
    part = Mamba(
        hidden, inner, config.size("state_size", default=16), config.size("conv_kernel", default=4), dt_rank, False
    )
    return assemble(config, (Layer(part, None, 1, hidden),) * config.layers("num_hidden_layers", "n_layer"), tied=True)


@family("Lfm2ForCausalLM", "Lfm2MoeForCausalLM", "Lfm3ForCausalLM", "Lfm2VlForConditionalGeneration",
        types=("lfm2", "lfm2_moe", "lfm3"))  # fmt: skip
def lfm2(config: Config) -> ModelSpec:
    """LFM2 and 3: gated short convolutions, attention in a few layers; tied."""
    shape, layers = read_heads(config), config.layers()
    hidden, window = shape.hidden, config.window("sliding_window")
    words = config.words("layer_types", layers, ("conv", "full_attention", "sliding_attention"))
    if words is None:
        full = config.indices("full_attn_idxs", layers)
        words = tuple("full_attention" if full is None or i in full else "conv" for i in range(layers))
    if "sliding_attention" in words and not window:
        raise config.error("sliding_window", "is required: layer_types has layers with a window")
    gate = config.flag("use_attention_gate", False)
    full_part, local = (replace(a, head_gate=gate) for a in shape.attention([0, window], qk_norm=shape.head_norm))
    conv = ShortConv(hidden, config.size("conv_dim", default=hidden), config.size("conv_L_cache", default=3),
                     config.flag("conv_bias", False))  # fmt: skip
    made: dict[str, LayerKind] = {"conv": conv, "full_attention": full_part, "sliding_attention": local}
    mixers = [made[word] for word in words]
    if config.count("num_experts"):
        blocks = read_blocks(config, hidden, layers, router_bias=config.flag("use_expert_bias", True), first=2)
    else:
        blocks = [FeedForward(hidden, _adjusted(config))] * layers
    norms = 4 if config.flag("use_sandwich_norm", False) else 2
    return assemble(config, stack(mixers, blocks, norms=norms), tied=True)


def _adjusted(config: Config) -> int:
    """Return the width of LFM2's block: two thirds of the file's value, rounded up, unless the file calls it final."""
    width = config.size("intermediate_size", "block_ff_dim")
    if not config.flag("block_auto_adjust_ff_dim", config.text("model_type") == "lfm2"):
        return width
    factor = config.values.get("block_ffn_dim_multiplier", 1.0)
    if factor is not None and (not isinstance(factor, (int, float)) or not 0 < factor < 100):
        raise config.error("block_ffn_dim_multiplier", f"must be a number above 0, not {shown(factor)}")
    width, unit = (int(int(2 * width / 3) * (factor or 1.0)), config.size("block_multiple_of", default=256))
    return -(-width // unit) * unit


@family("BailingMoeV2_5ForCausalLM", types=("bailing_moe_v2_5", "bailing_moe_linear"))
def bailing_v2_5(config: Config) -> ModelSpec:
    """Ling and Ring 2.5 and 2.6: lightning attention, latent attention at the end of each group of layers."""
    layers, hidden, heads = config.layers(), config.size("hidden_size"), config.size("num_attention_heads")
    every = config.size("layer_group_size", default=8)
    dim = config.size("head_dim", default=max(1, hidden // heads))
    light = Lightning(hidden, heads, dim, 2 * dim * config.flag("use_qk_norm", True))
    if config.has("kv_lora_rank"):
        full: LayerKind = read_latent(config)
    else:
        groups = config.size("num_key_value_heads", default=heads)
        full = Attention(hidden, heads, check_heads(config, hidden, heads, groups, dim).kv_heads, dim, qk_norm=2 * dim)
    mixers: list[LayerKind] = [full if (i + 1) % every == 0 else light for i in range(layers)]
    blocks = read_blocks(config, hidden, layers, router_bias=True, first=1)
    return assemble(config, stack(mixers, blocks), heads=mtp_heads(config))


@family("MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM", "MiniMaxForCausalLM",
        types=("minimax_text_01", "minimax_m1", "minimax"))  # fmt: skip
def minimax_text(config: Config) -> ModelSpec:
    """MiniMax-Text-01 and M1: lightning attention, grouped attention in some layers, experts."""
    shape, layers = read_heads(config), config.layers()
    words = config.words("layer_types", layers, ("linear_attention", "full_attention"))
    kinds = [word == "full_attention" for word in words] if words else config.switches("attn_type_list", layers)
    if kinds is None:
        raise config.error("attn_type_list", "is missing; it says which layers have full attention")
    light = Lightning(shape.hidden, shape.heads, shape.head_dim)
    mixers = [shape.attention([0])[0] if one else light for one in kinds]
    shared = config.count("shared_intermediate_size")
    blocks = read_blocks(config, shape.hidden, layers, shared=shared)
    return assemble(config, stack(mixers, blocks), heads=mtp_heads(config))


@family("LongcatFlashForCausalLM", "LongcatFlashNgramForCausalLM", types=("longcat_flash", "longcat_flash_ngram"))
def longcat(config: Config) -> ModelSpec:
    """LongCat-Flash: two latent attentions and two dense blocks a layer, experts in parallel with the first, some of them empty.

    Experts that do nothing take their part of a token's choices: of 12 choices among 512 and 256 empty ones
    8 are real on average.
    """
    attention, layers = read_latent(config), config.layers("num_layers", "num_hidden_layers")
    hidden, width = attention.hidden, config.size("ffn_hidden_size", "intermediate_size")
    chosen, empty = config.size("moe_topk", "num_experts_per_tok"), config.count("zero_expert_num")
    experts = config.experts("n_routed_experts")
    real = max(1, round(chosen * experts / (experts + empty)))
    moe = read_experts_of(config.but(moe_topk=real), hidden, router_bias=True, shared=0)
    moe = replace(moe, residual_width=width, empty_experts=empty)
    pair = (Layer(attention, moe, 2, hidden), Layer(attention, FeedForward(hidden, width), 2, hidden))
    extra = 0
    if config.has("ngram_vocab_size_ratio"):  # hashed n-grams: as many rows as that many vocabularies
        ratio = config.values["ngram_vocab_size_ratio"]
        if not isinstance(ratio, (int, float)) or not 0 <= ratio < 10_000:
            raise config.error("ngram_vocab_size_ratio", f"must be a number from 0, not {shown(ratio)}")
        extra = round(ratio * config.size("vocab_size") * hidden)
    return assemble(config, pair * layers, extra=extra, heads=mtp_heads(config))
