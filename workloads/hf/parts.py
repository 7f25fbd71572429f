"""Building blocks that the readers of model families share: heads, windows, experts, and the whole model.

Experts in any naming of keys: their number, width, shared ones, and layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..layers import Attention, FeedForward, Fusion, LatentAttention, LayerKind, MixtureOfExperts
from ..model import Layer, ModelSpec
from .config import Config, shown
from .quantization import numerics

EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", "num_moe_experts")
TOP_K = (
    "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_top_k", "moe_topk", "moe_k",
    "experts_per_token",
)  # fmt: skip
WIDTH = ("moe_intermediate_size", "moe_ffn_hidden_size", "expert_ffn_hidden_size", "intermediate_size")
SHARED_COUNT = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
SHARED_WIDTH = (
    "moe_shared_expert_intermediate_size", "shared_expert_intermediate_size", "share_expert_dim",
    "shared_expert_dim", "shared_intermediate_size",
)  # fmt: skip
"""Keys with the width of one shared expert; of all shared experts together if the file gives no count."""
FIRST_DENSE = ("first_k_dense_replace", "num_dense_layers", "first_k_dense_layers", "moe_layer_start_index")
FROM_ONE = ("decoder_sparse_step", "moe_layer_interval")
PERIOD = ("moe_layer_freq", *FROM_ONE, "interleave_moe_layer_step", "moe_every_n_layers")
"""Keys with the period of layers with experts. Qwen and ERNIE count layers from one, DeepSeek from zero."""
LAST = "moe_layer_end_index"
GROUPS = ("n_group", "num_expert_group")
LISTS = ("moe_layer_freq", "is_moe_layer")
"""Keys that may contain 0 or 1 for each layer."""

Block = FeedForward | MixtureOfExperts


def evened(config: Config, keys: Sequence[str]) -> Config:
    """Return the same file with a list of equal numbers per layer replaced by the number (Hunyuan)."""
    changed = {}
    for key in keys:
        value = config.values.get(key)
        if isinstance(value, list) and value and all(v == value[0] for v in value):
            changed[key] = value[0]
    return config.but(**changed) if changed else config


def sparse_layers(config: Config, layers: int, first: int = 0) -> list[bool]:
    """Return which layers have experts; if the file does not say, all but the `first` dense ones."""
    kinds = config.words("mlp_layer_types", layers, ("dense", "sparse", "moe"))
    if kinds is not None:
        return [kind != "dense" for kind in kinds]
    for key in LISTS:
        if isinstance(config.values.get(key), list):
            return config.switches(key, layers) or []
    if config.has("moe_layers_enum"):
        return _enumerated(config, layers)
    named = config.indices("moe_layers", layers) if isinstance(config.values.get("moe_layers"), list) else None
    if named is not None:
        return [i in named for i in range(layers)]
    every = config.size(*(key for key in PERIOD), default=1)
    dense = config.count(*FIRST_DENSE, default=first)
    only = config.indices("mlp_only_layers", layers) or frozenset()
    from_one = any(map(config.has, FROM_ONE))
    last = layers - 1 if config.values.get(LAST) == -1 else config.count(LAST, default=layers - 1)
    return [dense <= i <= last and i not in only and (i + from_one) % every == 0 for i in range(layers)]


def _enumerated(config: Config, layers: int) -> list[bool]:
    """Return which layers have experts by Step's comma-separated list of layers."""
    value = config.values["moe_layers_enum"]
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [""]
    numbers = {int(p) for p in parts if str(p).strip().isdigit() and len(str(p)) < 9}
    if len(numbers) != len(parts):
        raise config.error("moe_layers_enum", f"must be a comma-separated list of layers, not {shown(value)}")
    return [i in numbers for i in range(layers)]


def read_blocks(
    config: Config, hidden: int, layers: int, *, router_bias: bool = False, shared_gate: bool = False,
    matrices: int = 3, bias: bool = False, first: int = 0, shared: int | None = None,
) -> list[Block]:  # fmt: skip
    """Return the feed-forward part of every layer; a model without a number of experts is dense.

    Parameters
    ----------
    first : int
        Dense layers before the first with experts, where the file does not say.
    shared : int, optional
        Width of all shared experts together, where it is not in the usual keys.
    """
    config = evened(config, (*TOP_K, *WIDTH, *SHARED_COUNT))
    moe = any(map(config.has, (*TOP_K, *WIDTH[:-1]))) and not any(key in config.values for key in EXPERTS)
    if not config.count(*EXPERTS, default=None if moe else 0):
        return [read_ffn(config, hidden, matrices=matrices, bias=bias)] * layers
    experts = read_experts_of(
        config, hidden, router_bias=router_bias, shared_gate=shared_gate, matrices=matrices,
        shared=shared,
    )  # fmt: skip
    sparse = sparse_layers(config, layers, first)
    if all(sparse):
        return [experts] * layers
    dense = dense_of(config, hidden, matrices, bias)
    return [experts if s else dense for s in sparse]


def dense_of(config: Config, hidden: int, matrices: int = 3, bias: bool = False) -> FeedForward:
    """Return the dense feed-forward block of a model that also has experts."""
    width = config.size("dense_intermediate_size", "prefix_dense_intermediate_size", "intermediate_size")
    return FeedForward(hidden, width, matrices, bias)


def read_experts_of(
    config: Config, hidden: int, *, router_bias: bool = False, shared_gate: bool = False, matrices: int = 3,
    shared: int | None = None,
) -> MixtureOfExperts:  # fmt: skip
    """Read the experts of a layer under any of the usual keys."""
    width = config.size(*WIDTH)
    if shared is None:
        count = config.count(*SHARED_COUNT, default=0) if any(config.has(k) for k in SHARED_COUNT) else None
        width_each = config.count(*SHARED_WIDTH, default=width if count is not None else 0)
        shared = width_each * (1 if count is None else count)
    keys = tuple(k for k in EXPERTS if config.has(k)) or EXPERTS
    experts = read_experts(
        config, hidden, width, experts=keys, top_k=TOP_K, matrices=matrices, shared_width=shared,
        shared_gate=shared_gate and shared > 0, router_bias=router_bias,
        groups=next(filter(config.has, GROUPS), GROUPS[0]),
    )  # fmt: skip
    latent = config.count("routed_expert_hidden_size")
    if latent:  # Kimi-K3: experts work on a narrower copy of the tokens
        experts = replace(experts, latent=latent, latent_norm=config.flag("latent_moe_use_norm", False))
    return experts


def periodic(config: Config, layers: int, names: Sequence[str], every: int) -> tuple[str, ...]:
    """Return the kind of each layer: by ``layer_types``, else the first kind, with the last at a fixed period."""
    words = config.words("layer_types", layers, names)
    return words or tuple(names[-((i + 1) % every == 0)] for i in range(layers))


def once_each(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers with one object for all equal ones."""
    unique: dict[Layer, Layer] = {}
    return tuple(unique.setdefault(layer, layer) for layer in layers)


WINDOWED = {"sliding_attention": True, "chunked_attention": True, "full_attention": False}
"""Entries of ``layer_types`` for softmax attention, and whether the attention window applies to them."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Numbers of heads and sizes of an attention block."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def full_norm(self) -> int:
        """Number of weights of query and key norms over the whole projection."""
        return (self.heads + self.kv_heads) * self.head_dim

    @property
    def head_norm(self) -> int:
        """Number of weights of query and key norms over one head."""
        return 2 * self.head_dim

    def attention(
        self,
        windows: Sequence[int],
        *,
        qkv_bias: bool = False,
        out_bias: bool = False,
        qk_norm: int = 0,
        gated: bool = False,
        sinks: bool = False,
    ) -> tuple[Attention, ...]:
        """Return one attention block per entry of `windows` (0 = unlimited)."""
        made = {
            window: Attention(
                hidden=self.hidden,
                heads=self.heads,
                kv_heads=self.kv_heads,
                head_dim=self.head_dim,
                window=window,
                qkv_bias=qkv_bias,
                out_bias=out_bias,
                qk_norm=qk_norm,
                gated=gated,
                sinks=sinks,
            )
            for window in set(windows)
        }
        return tuple(made[window] for window in windows)


def read_heads(
    config: Config,
    *,
    head_dim: int | None = None,
    heads: int | None = None,
    kv_heads: int | None = None,
    mha: bool = False,
) -> Heads:
    """Read the shape of attention in the keys most families use.

    Parameters
    ----------
    head_dim, heads, kv_heads : int, optional
        Defaults of the family's configuration class where a file leaves them out. Without
        one, the head size is the hidden size over the heads and the others are required.
    mha : bool
        Files without ``num_key_value_heads`` have as many as query heads (older than GQA).
    """
    hidden = config.size("hidden_size")
    queries = config.size("num_attention_heads", default=heads)
    if "num_key_value_heads" in config.values or mha:  # null means as many as query heads
        kv_heads = queries
    groups = config.size("num_key_value_heads", default=kv_heads)
    return check_heads(config, hidden, queries, groups, config.optional("head_dim") or head_dim)


def check_heads(
    config: Config,
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int | None = None,
    keys: tuple[str, str] = ("num_attention_heads", "num_key_value_heads"),
) -> Heads:
    """Check that the numbers of heads are divisible as needed, and return them."""
    if heads % kv_heads:
        raise config.error(keys[1], f"must divide the {heads} query heads, {kv_heads} does not")
    if head_dim is None:
        if hidden % heads:
            raise config.error(
                keys[0], f"must divide the hidden size {hidden} where head_dim is not given, {heads} does not"
            )
        head_dim = hidden // heads
    return Heads(hidden, heads, kv_heads, head_dim)


def read_latent(config: Config, gate_dim: int = 0) -> LatentAttention:
    """Read latent attention under DeepSeek's keys; it caches no heads, but their number is checked."""
    hidden, heads = config.size("hidden_size"), config.size("num_attention_heads")
    check_heads(config, hidden, heads, config.size("num_key_value_heads", default=heads), head_dim=1)
    return LatentAttention(
        hidden=hidden, heads=heads, q_rank=config.count("q_lora_rank", "attention_q_lora_dim"),
        kv_rank=config.size("kv_lora_rank", "attention_kv_lora_dim"),
        nope_dim=config.size("qk_nope_head_dim", "attention_qk_dim"),
        rope_dim=config.count("qk_rope_head_dim", "attention_qk_rope_dim", default=None),
        v_dim=config.size("v_head_dim", "attention_v_dim"), bias=config.flag("attention_bias", False),
        gate_dim=gate_dim,
    )  # fmt: skip


def read_windows(
    config: Config,
    layers: int,
    *,
    slides: Callable[[int], bool] = lambda layer: True,
    key: str = "sliding_window",
    default: int = 0,
) -> tuple[int, ...]:
    """Return the attention window of every layer.

    ``layer_types`` has priority if a file has it; otherwise `slides` returns whether a layer has a window.
    """
    window = config.window(key, default)
    kinds = config.words("layer_types", layers, WINDOWED)
    if kinds is None:
        return tuple(window if slides(i) else 0 for i in range(layers))
    if not window and any(WINDOWED[kind] for kind in kinds):
        raise config.error(key, "is required: layer_types has layers with a window")
    return tuple(window if WINDOWED[kind] else 0 for kind in kinds)


def read_experts(
    config: Config,
    hidden: int,
    width: int,
    *,
    experts: Sequence[str] = ("num_local_experts", "num_experts"),
    top_k: Sequence[str] = ("num_experts_per_tok",),
    matrices: int = 3,
    shared_width: int = 0,
    shared_gate: bool = False,
    router_bias: bool = False,
    expert_bias: bool = False,
    residual_width: int = 0,
    groups: str = "",
) -> MixtureOfExperts:
    """Read a layer's experts; refuse a `top_k` above their number."""
    count, routed = config.experts(*experts), config.size(*top_k)
    if routed > count:
        key = next(k for k in top_k if config.has(k))
        raise config.error(key, f"must be at most the {count} experts, not {routed}")
    parts = config.size(groups, default=1) if groups else 1
    if count % parts:
        raise config.error(groups, f"must divide the {count} experts, not {parts}")
    limited = parts > 1 and config.text("topk_method") != "greedy"
    chosen = config.size("topk_group", default=parts) if limited else parts
    if not routed <= count // parts * chosen <= count:
        raise config.error(
            "topk_group", f"must be a number of the {parts} groups that have {routed} experts together, not {chosen}"
        )
    return MixtureOfExperts(
        hidden=hidden, experts=count, top_k=routed, width=width, matrices=matrices,
        shared_width=shared_width, shared_gate=shared_gate, router_bias=router_bias,
        expert_bias=expert_bias, residual_width=residual_width, expert_groups=parts, groups_chosen=chosen,
    )  # fmt: skip


def read_ffn(
    config: Config, hidden: int, *, key: str = "intermediate_size", matrices: int = 3, bias: bool = False
) -> FeedForward:
    """Read a dense feed-forward block."""
    return FeedForward(hidden=hidden, width=config.size(key), matrices=matrices, bias=bias)


def stack(
    mixers: Sequence[LayerKind],
    ffns: LayerKind | Sequence[LayerKind],
    *,
    norms: int = 2,
    norm_width: int | None = None,
    parallel: bool = False,
) -> tuple[Layer, ...]:
    """Combine mixers and feed-forward blocks into layers; by default a norm has one weight per hidden unit."""
    if not isinstance(ffns, Sequence):
        ffns = [ffns] * len(mixers)
    made: dict[tuple[LayerKind, LayerKind], Layer] = {}
    for mixer, ffn in zip(mixers, ffns, strict=True):
        if (mixer, ffn) not in made:
            width = mixer.hidden if norm_width is None else norm_width
            made[mixer, ffn] = Layer(mixer, ffn, norms, width, parallel)
    return tuple(made[pair] for pair in zip(mixers, ffns, strict=True))


CHOICES = ("index_topk", "sparse_attention_config", "indexer_budget")
"""Keys with the number of keys, pools or blocks that a query chooses."""


def assemble(
    config: Config, layers: tuple[Layer, ...], *, tied: bool = False, vocab: int | None = None,
    extra: int = 0, final_norm: int | None = None, head: Layer | None = None, heads: int = 0,
) -> ModelSpec:  # fmt: skip
    """Build the model from its layers and the file's remaining keys.

    Parameters
    ----------
    tied : bool
        Default of the family for ``tie_word_embeddings``.
    vocab : int, optional
        Default of the family for ``vocab_size``.
    extra : int
        Weights outside layers, embedding, head and final norm.
    final_norm : int, optional
        Weights of the norm before the head; the hidden size by default.
    head : Layer, optional
        Decoder layer of a multi-token-prediction head; the last of `layers` by default.
    heads : int
        Multi-token-prediction heads of the checkpoint.
    """
    hidden = layers[0].mixer.hidden
    positions = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length")
    longest = config.optional(*positions)
    reads = {r for layer in layers for part in layer.parts for r in part.state().reads if r.chosen}
    most = max((r.most * r.pool for r in reads), default=0)
    if longest is not None and most > longest:
        key = next((k for k in CHOICES if config.has(k)), "max_position_embeddings")
        raise config.error(key, f"is too large: attention to {most} tokens, but the model has only {longest} positions")
    return ModelSpec(
        name=config.name,
        architecture=config.architecture,
        hidden=hidden,
        vocab=config.size("vocab_size", default=vocab),
        layers=layers,
        tied=config.outermost_with("tie_word_embeddings").flag("tie_word_embeddings", tied),
        numerics=numerics(config, layers),
        extra_weights=extra + (hidden if final_norm is None else final_norm),
        max_position=longest,
        source=config.source,
        mtp=(joining(hidden), head or layers[-1]) if heads else (),
        mtp_heads=heads,
    )


def joining(hidden: int) -> Layer:
    """Return the layer that joins hidden state and embedding in an MTP head (DeepSeek-V3 report, equation 21)."""
    return Layer(Fusion(hidden), None, 0, 0, replicated=True)
