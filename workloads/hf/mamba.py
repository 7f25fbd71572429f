"""Models with state-space layers or short convolutions: Nemotron-H and -3, Falcon-H1, Granite 4, Bamba, LFM2, Mamba."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..layers import Attention, FeedForward, LayerKind, Lightning, Mamba, Mamba2, ShortConv
from ..model import Layer, ModelSpec
from .blocks import read_blocks, read_experts_of
from .config import Config, shown
from .decoders import mtp_heads
from .deepseek import attention_of
from .families import family
from .parts import assemble, check_heads, read_ffn, read_heads, stack, state_format

PATTERN = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
BLOCKS = {"linear_attention": "mamba", "mamba": "mamba", "full_attention": "attention",
          "attention": "attention", "moe": "moe", "mlp": "mlp"}  # fmt: skip
"""Words of ``layers_block_type`` and ``layer_types`` -> what the layer is."""


def _kinds(c: Config, pattern: str, words: str) -> list[str]:
    """What each single-part layer is, from a pattern of letters or a list of words."""
    text = c.text(pattern)
    if text:
        for i, letter in enumerate(text):
            if letter not in PATTERN:
                raise c.error(pattern, f"must be of {' '.join(PATTERN)}, not {letter!r} at {i}")
        return [PATTERN[letter] for letter in text]
    items = c.items(words)
    if not items:
        raise c.error(pattern, f"is missing, like {words}; one of them must say what each layer is")
    for i, word in enumerate(items):
        if word not in BLOCKS:
            raise c.error(f"{words}[{i}]", f"must be one of {', '.join(BLOCKS)}, not {shown(word)}")
    return [BLOCKS[word] for word in items]


def _paired(kinds: Sequence[str], parts: dict[str, LayerKind], norm: int, c: Config, key: str) -> list[Layer]:
    """Layers of one part as layers of two, a mixer with the block behind it: the same parts in the same order."""
    out: list[Layer] = []
    for i, kind in enumerate(kinds):
        if kind in ("mamba", "attention"):
            out.append(Layer(parts[kind], None, 1, norm))
        elif kind == "mlp" and (not out or out[-1].ffn is not None):
            out.append(Layer(parts[kind], None, 1, norm))  # dense blocks may follow each other
        elif not out or out[-1].ffn is not None or out[-1].mixer is parts.get("mlp"):
            raise c.error(key, f"layer {i} has experts and must follow a mixer")
        else:
            out[-1] = replace(out[-1], ffn=parts[kind], norms=2)
    unique: dict[Layer, Layer] = {}
    return [unique.setdefault(layer, layer) for layer in out]


@family("NemotronHForCausalLM", "NemotronHPuzzleForCausalLM", types=("nemotron_h",))
def nemotron_h(c: Config) -> ModelSpec:
    """Nemotron-H and -3: Mamba-2, attention, experts of two matrices (on a narrower width), one part a layer.

    A mixer and the block behind it are one layer here, with a norm each.
    """
    if c.has("block_configs"):
        raise c.error("block_configs", "separate widths of layers are not supported for this class")
    shape = read_heads(c, head_dim=128)
    hidden, bias = shape.hidden, c.flag("attention_bias", False)
    parts: dict[str, LayerKind] = {
        "mamba": Mamba2(
            hidden, c.size("mamba_num_heads"), c.size("mamba_head_dim"), c.size("n_groups"), c.size("ssm_state_size"),
            c.size("conv_kernel", default=4), c.flag("use_conv_bias", True), c.flag("mamba_proj_bias", False),
            state_format(c, "mamba_ssm_cache_dtype"),
        ),
        "attention": shape.attention([0], qkv_bias=bias, out_bias=bias)[0],
    }  # fmt: skip
    kinds = _kinds(c, "hybrid_override_pattern", "layers_block_type")
    if c.has("num_hidden_layers") and c.layers() != len(kinds):
        reason = f"must be the {len(kinds)} layers of the pattern, not {c.layers()}"
        raise c.error("num_hidden_layers", reason)
    if "mlp" in kinds:
        parts["mlp"] = read_ffn(c, hidden, matrices=2, bias=c.flag("mlp_bias", False))
    if "moe" in kinds:
        parts["moe"] = _experts(c, hidden)
    layers = _paired(kinds, parts, hidden, c, "hybrid_override_pattern")
    heads = mtp_heads(c)
    head = None
    if heads:
        blocks = {**parts, "moe": _experts(c, hidden)}
        keys = ("mtp_hybrid_override_pattern", "mtp_layers_block_type")
        head = _paired(_kinds(c, *keys), blocks, hidden, c, keys[0])[-1]
    return assemble(c, tuple(layers), head=head, heads=heads)


def _experts(c: Config, hidden: int) -> LayerKind:
    """Experts of two matrices; with ``moe_latent_size`` they work on a narrower copy of the tokens."""
    shared = c.count("moe_shared_expert_intermediate_size") * c.count("n_shared_experts", default=1)
    experts = read_experts_of(c, hidden, router_bias=True, matrices=2, shared=shared)
    return replace(experts, shared_matrices=2, latent=c.count("moe_latent_size"))


def _mamba2(c: Config, hidden: int) -> Mamba2:
    """Mamba-2 in the keys of Bamba, Granite 4 and Falcon-H1."""
    inner = c.size("mamba_d_ssm", default=c.size("mamba_expand", default=2) * hidden)
    heads = c.size("mamba_n_heads")
    head_width = c.size("mamba_d_head") if type(c.values.get("mamba_d_head")) is int else inner // heads
    if heads * head_width != inner:
        raise c.error("mamba_n_heads", f"times mamba_d_head must be the {inner} channels, not {heads * head_width}")
    return Mamba2(
        hidden, heads, head_width, c.size("mamba_n_groups", default=1), c.size("mamba_d_state", default=256),
        c.size("mamba_d_conv", default=4), c.flag("mamba_conv_bias", True), c.flag("mamba_proj_bias", False),
        state_format(c, "mamba_ssm_cache_dtype"),
    )  # fmt: skip


@family("FalconH1ForCausalLM", types=("falcon_h1",))
def falcon_h1(c: Config) -> ModelSpec:
    """Falcon-H1: Mamba-2 and attention side by side in every layer, behind one norm."""
    shape, layers = read_heads(c), c.layers()
    bias = c.flag("attention_bias", False)
    first = Layer(_mamba2(c, shape.hidden), None, 0, 0)
    second = Layer(
        shape.attention([0], qkv_bias=bias, out_bias=bias)[0],
        read_ffn(c, shape.hidden, bias=c.flag("mlp_bias", False)), 2, shape.hidden,
    )  # fmt: skip
    return assemble(c, (first, second) * layers)


@family("BambaForCausalLM", types=("bamba",))
def bamba(c: Config) -> ModelSpec:
    """Bamba: Mamba-2, attention in a few layers, dense blocks."""
    shape, layers = read_heads(c), c.layers()
    attends = c.indices("attn_layer_indices", layers) or frozenset()
    bias = c.flag("attention_bias", False)
    attention, mamba = (shape.attention([0], qkv_bias=bias, out_bias=bias)[0], _mamba2(c, shape.hidden))
    mixers: list[LayerKind] = [attention if i in attends else mamba for i in range(layers)]
    return assemble(c, stack(mixers, read_ffn(c, shape.hidden, bias=c.flag("mlp_bias", False))))


@family("GraniteMoeHybridForCausalLM", types=("granitemoehybrid",))
def granite_hybrid(c: Config) -> ModelSpec:
    """Granite 4: Mamba-2 and attention, experts with a shared one, or only the shared one."""
    shape, layers = read_heads(c), c.layers()
    words = c.items("layer_types") or c.items("layers_block_type") or ["mamba"] * layers
    if len(words) != layers or any(BLOCKS.get(str(word)) not in ("mamba", "attention") for word in words):
        raise c.error("layer_types", f"must say mamba or attention for each of the {layers} layers")
    bias = c.flag("attention_bias", False)
    attention, kinds = (shape.attention([0], qkv_bias=bias, out_bias=bias)[0], [BLOCKS[word] for word in words])
    mamba: LayerKind = _mamba2(c, shape.hidden) if "mamba" in kinds else attention
    shared = c.count("shared_intermediate_size")
    if c.count("num_local_experts"):
        ffn: LayerKind = read_experts_of(c, shape.hidden, shared=shared)
    else:
        ffn = FeedForward(shape.hidden, shared or c.size("intermediate_size"))
    mixers = [mamba if kind == "mamba" else attention for kind in kinds]
    return assemble(c, stack(mixers, ffn))


@family("Mamba2ForCausalLM", types=("mamba2",))
def mamba2(c: Config) -> ModelSpec:
    """Only Mamba-2 (Codestral Mamba)."""
    hidden = c.size("hidden_size")
    part = Mamba2(
        hidden, c.size("num_heads"), c.size("head_dim"), c.size("n_groups", default=8), c.size("state_size", default=128),
        c.size("conv_kernel", default=4), c.flag("use_conv_bias", True), c.flag("use_bias", False),
    )  # fmt: skip
    return assemble(c, (Layer(part, None, 1, hidden),) * c.layers("num_hidden_layers", "n_layer"))


@family("MambaForCausalLM", "FalconMambaForCausalLM", types=("mamba", "falcon_mamba"))
def mamba(c: Config) -> ModelSpec:
    """Only Mamba-1; Falcon's has norms without weights."""
    hidden = c.size("hidden_size", "d_model")
    inner = c.size("intermediate_size", "d_inner", default=c.size("expand", default=2) * hidden)
    rank = c.values.get("time_step_rank", "auto")
    dt_rank = -(-hidden // 16) if rank == "auto" else c.size("time_step_rank")
    part = Mamba(hidden, inner, c.size("state_size", default=16), c.size("conv_kernel", default=4), dt_rank, False)
    return assemble(c, (Layer(part, None, 1, hidden),) * c.layers("num_hidden_layers", "n_layer"), tied=True)


@family("Lfm2ForCausalLM", "Lfm2MoeForCausalLM", "Lfm3ForCausalLM", "Lfm2VlForConditionalGeneration",
        types=("lfm2", "lfm2_moe", "lfm3"))  # fmt: skip
def lfm2(c: Config) -> ModelSpec:
    """LFM2 and 3: gated short convolutions, attention in a few layers; tied."""
    shape, layers = read_heads(c), c.layers()
    hidden, window = shape.hidden, c.window("sliding_window")
    words = c.words("layer_types", layers, ("conv", "full_attention", "sliding_attention"))
    if words is None:
        full = c.indices("full_attn_idxs", layers)
        words = tuple("full_attention" if full is None or i in full else "conv" for i in range(layers))
    if "sliding_attention" in words and not window:
        raise c.error("sliding_window", "is required: layer_types has layers with a window")
    gate = c.flag("use_attention_gate", False)
    full_part, local = (replace(a, head_gate=gate) for a in shape.attention([0, window], qk_norm=shape.head_norm))
    conv = ShortConv(hidden, c.size("conv_dim", default=hidden), c.size("conv_L_cache", default=3),
                     c.flag("conv_bias", False))  # fmt: skip
    made: dict[str, LayerKind] = {"conv": conv, "full_attention": full_part, "sliding_attention": local}
    mixers = [made[word] for word in words]
    if c.count("num_experts"):
        blocks = read_blocks(c, hidden, layers, router_bias=c.flag("use_expert_bias", True), first=2)
    else:
        blocks = [FeedForward(hidden, _adjusted(c))] * layers
    norms = 4 if c.flag("use_sandwich_norm", False) else 2
    return assemble(c, stack(mixers, blocks, norms=norms), tied=True)


def _adjusted(c: Config) -> int:
    """Width of LFM2's block: two thirds of what its file says, rounded up, unless it says that it is final."""
    width = c.size("intermediate_size", "block_ff_dim")
    if not c.flag("block_auto_adjust_ff_dim", c.text("model_type") == "lfm2"):
        return width
    factor = c.values.get("block_ffn_dim_multiplier", 1.0)
    if factor is not None and (not isinstance(factor, (int, float)) or not 0 < factor < 100):
        raise c.error("block_ffn_dim_multiplier", f"must be a number above 0, not {shown(factor)}")
    width, unit = (int(int(2 * width / 3) * (factor or 1.0)), c.size("block_multiple_of", default=256))
    return -(-width // unit) * unit


@family("BailingMoeV2_5ForCausalLM", types=("bailing_moe_v2_5", "bailing_moe_linear"))
def bailing_v2_5(c: Config) -> ModelSpec:
    """Ling and Ring 2.5 and 2.6: lightning attention, latent attention at the end of each group of layers."""
    layers, hidden, heads = c.layers(), c.size("hidden_size"), c.size("num_attention_heads")
    every = c.size("layer_group_size", default=8)
    dim = c.size("head_dim", default=max(1, hidden // heads))
    light = Lightning(hidden, heads, dim, 2 * dim * c.flag("use_qk_norm", True))
    if c.has("kv_lora_rank"):
        full: LayerKind = attention_of(c)
    else:
        groups = c.size("num_key_value_heads", default=heads)
        full = Attention(hidden, heads, check_heads(c, hidden, heads, groups, dim).kv_heads, dim, qk_norm=2 * dim)
    mixers: list[LayerKind] = [full if (i + 1) % every == 0 else light for i in range(layers)]
    blocks = read_blocks(c, hidden, layers, router_bias=True, first=1)
    return assemble(c, stack(mixers, blocks), heads=mtp_heads(c))


@family("MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM", "MiniMaxForCausalLM",
        types=("minimax_text_01", "minimax_m1", "minimax"))  # fmt: skip
def minimax_text(c: Config) -> ModelSpec:
    """MiniMax-Text-01 and M1: lightning attention, grouped attention in some layers, experts."""
    shape, layers = read_heads(c), c.layers()
    words = c.words("layer_types", layers, ("linear_attention", "full_attention"))
    kinds = [int(word == "full_attention") for word in words] if words else c.items("attn_type_list")
    if kinds is None or len(kinds) != layers or any(one not in (0, 1) for one in kinds):
        raise c.error("attn_type_list", f"must hold 0 or 1 for each of the {layers} layers")
    light = Lightning(shape.hidden, shape.heads, shape.head_dim)
    mixers = [shape.attention([0])[0] if one else light for one in kinds]
    shared = c.count("shared_intermediate_size")
    blocks = read_blocks(c, shape.hidden, layers, shared=shared)
    return assemble(c, stack(mixers, blocks), heads=mtp_heads(c))


@family("LongcatFlashForCausalLM", "LongcatFlashNgramForCausalLM", types=("longcat_flash", "longcat_flash_ngram"))
def longcat(c: Config) -> ModelSpec:
    """LongCat-Flash: two latent attentions and two dense blocks a layer, experts in parallel with the first, some of them empty.

    Experts that do nothing take their part of a token's choices: of 12 choices among 512 and 256 empty ones
    8 are real on average.
    """
    attention, layers = attention_of(c), c.layers("num_layers", "num_hidden_layers")
    hidden, width = attention.hidden, c.size("ffn_hidden_size", "intermediate_size")
    chosen, empty = c.size("moe_topk", "num_experts_per_tok"), c.count("zero_expert_num")
    experts = c.experts("n_routed_experts")
    real = max(1, round(chosen * experts / (experts + empty)))
    moe = read_experts_of(c.but(moe_topk=real), hidden, router_bias=True, shared=0)
    moe = replace(moe, residual_width=width, empty_experts=empty)
    pair = (Layer(attention, moe, 2, hidden), Layer(attention, FeedForward(hidden, width), 2, hidden))
    extra = 0
    if c.has("ngram_vocab_size_ratio"):  # hashed n-grams: as many rows as that many vocabularies
        ratio = c.values["ngram_vocab_size_ratio"]
        if not isinstance(ratio, (int, float)) or not 0 <= ratio < 10_000:
            raise c.error("ngram_vocab_size_ratio", f"must be a number from 0, not {shown(ratio)}")
        extra = round(ratio * c.size("vocab_size") * hidden)
    return assemble(c, pair * layers, extra=extra, heads=mtp_heads(c))
