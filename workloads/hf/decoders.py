"""Decoders that differ only in a few settings: biases, norms, gates, windows and experts.

Each family is one row of ``decoders.yaml``, with the settings that its files do not state or the keys that state them.
A new family of this type is one more row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..layers import FeedForward, LayerKind
from ..model import ModelSpec
from ..yamlfile import read_yaml
from .config import Config, shown
from .families import MODEL_TYPES, Family, family
from .parts import assemble, read_blocks, read_experts, read_heads, read_latent, read_windows, stack

LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
MTP = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "num_mtp_modules")
"""Keys with the number of multi-token-prediction heads."""


@dataclass(frozen=True, slots=True)
class Habits:
    """Settings of a model family.

    Attributes
    ----------
    keys : mapping of str to list of str
        Names of sizes in the family's files, where they are not the usual ones.
    latent : bool
        DeepSeek's latent attention.
    mha : bool
        Whether files without key/value heads have as many as query heads.
    one_kv : str
        Key that switches to one key/value head, as `qkv_bias`.
    heads, kv_heads, vocab : int or None
        Defaults of the family's class.
    head_dim : int or None
        Default of the family's class; None divides the hidden size by the heads.
    qkv_bias, out_bias, ffn_bias : str
        Key that switches the biases on, with ``+`` in front where it is on by default; empty: none.
        ``true`` is always.
    qk_norm : str
        ``head`` or ``full`` (over the whole projection), with a key behind a colon that switches it; empty:
        none, or norms without weights.
    norms : int
        Norms of a layer over the hidden size; 4 before and after both parts.
    norm : int
        Weights of a norm by hidden unit: 1, 2 with a bias, 0 for none.
    matrices : int
        Number of matrices of a feed-forward block.
    wide : int
        Default of a block's width, as a multiple of the hidden size; 0: the file must say.
    blocks : str
        ``dense``: of the usual width; ``experts``: in all layers, as wide as that; empty: experts in any naming of keys, if there are some, and multi-token-prediction heads.
    gated : bool
        An output gate as wide as the values.
    head_gate : str
        Key that switches a gate of one column a head on, ``true`` always.
    windows : str
        Which layers have the window where a file has no ``layer_types``: ``all``, ``none``, ``N`` (all but every N-th),
        ``qwen`` (by Qwen's rule); ``one`` for all layers whatever pattern a file has; ``never`` for any file.
    window : int
        Default of the window.
    first : int
        Dense layers before those with experts, where the file does not say.
    mtp : int
        Multi-token-prediction heads where the file does not say.
    shares : str
        Key that holds how many layers share one cache, where ``use_cla`` is on.
    parallel, head_bias, router_bias : str
        Key that switches parallel parts, a bias of the output head, or one number an expert for routing, on.
    positions : str
        Key that holds the number of learned positions.
    embedding_norm : bool
        A norm of the embedding.
    """

    keys: Mapping[str, Sequence[str]] = field(default_factory=dict)
    latent: bool = False
    mha: bool = True
    one_kv: str = ""
    heads: int | None = None
    kv_heads: int | None = None
    vocab: int | None = None
    head_dim: int | None = None
    qkv_bias: str = ""
    out_bias: str = ""
    ffn_bias: str = ""
    qk_norm: str = ""
    norms: int = 2
    norm: int = 1
    matrices: int = 3
    wide: int = 0
    blocks: str = ""
    gated: bool = False
    head_gate: str = ""
    sinks: bool = False
    windows: str = "none"
    window: int = 0
    parallel: str = ""
    head_bias: str = ""
    positions: str = ""
    embedding_norm: bool = False
    tied: bool = False
    router_bias: str = ""
    expert_bias: bool = False
    shared_gate: bool = False
    first: int = 0
    mtp: int = 0
    shares: str = ""


def switched(config: Config, key: str) -> bool:
    """Return whether an optional feature is on, by the key that switches it."""
    if key in ("", "true"):
        return key == "true"
    return config.flag(key.removeprefix("+"), key.startswith("+"))


def read_decoder(config: Config, habits: Habits) -> ModelSpec:
    """Read a decoder with the settings of its family."""
    config = replace(config, names=habits.keys)
    layers = config.layers(*LAYERS)
    mixers = [read_latent(config)] * layers if habits.latent else attention_of(config, habits, layers)
    hidden = mixers[0].hidden
    width = habits.norm * hidden
    made = stack(
        mixers, _blocks(config, habits, hidden, layers), norms=habits.norms, norm_width=width,
        parallel=switched(config, habits.parallel),
    )  # fmt: skip
    extra = config.size(habits.positions) * hidden if habits.positions else 0
    extra += width * habits.embedding_norm
    if switched(config, habits.head_bias):
        extra += config.size("vocab_size")
    return assemble(
        config, made, tied=habits.tied, vocab=habits.vocab, extra=extra, final_norm=width,
        heads=0 if habits.blocks else mtp_heads(config, habits.mtp),
    )  # fmt: skip


def _blocks(config: Config, habits: Habits, hidden: int, layers: int) -> Sequence[LayerKind]:
    """Return the feed-forward part of every layer."""
    bias = switched(config, habits.ffn_bias)
    if not habits.blocks:
        return read_blocks(
            config, hidden, layers, router_bias=switched(config, habits.router_bias), shared_gate=habits.shared_gate, matrices=habits.matrices,
            bias=bias, first=habits.first,
        )  # fmt: skip
    width = config.size("intermediate_size", default=habits.wide * hidden or None)
    if habits.blocks == "dense":
        return [FeedForward(hidden, width, habits.matrices, bias)] * layers
    experts = read_experts(
        config, hidden, width, router_bias=switched(config, habits.router_bias), expert_bias=habits.expert_bias
    )
    return [experts] * layers


def qwen_windows(config: Config, layers: int) -> tuple[int, ...]:
    """Return windows by Qwen's rule: only with ``use_sliding_window``, from layer ``max_window_layers`` on."""
    used = config.flag("use_sliding_window", False)
    first = config.count("max_window_layers") if used else layers
    return read_windows(config, layers, slides=lambda layer: used and layer >= first)


def mtp_heads(config: Config, default: int = 0) -> int:
    """Return the number of multi-token-prediction heads of the checkpoint."""
    return config.count(*MTP, default=default)


def attention_of(config: Config, habits: Habits, layers: int) -> Sequence[LayerKind]:
    """Return the attention of every layer."""
    shape = read_heads(config, head_dim=habits.head_dim, heads=habits.heads, kv_heads=habits.kv_heads, mha=habits.mha)
    if switched(config, habits.one_kv):
        shape = replace(shape, kv_heads=1)
    windows: Sequence[int] = [0] * layers
    if habits.windows == "qwen":
        windows = qwen_windows(config, layers)
    elif habits.windows != "never":
        windows = read_windows(config, layers, slides=_slides(config, habits.windows), default=habits.window)
    where, _, key = habits.qk_norm.partition(":")
    on = not key or switched(config, key)
    norm = (shape.head_norm if where == "head" else shape.full_norm) if where and on else 0
    made = shape.attention(
        windows, qkv_bias=switched(config, habits.qkv_bias), out_bias=switched(config, habits.out_bias),
        qk_norm=norm * max(habits.norm, 1), gated=habits.gated, sinks=habits.sinks,
    )  # fmt: skip
    if switched(config, habits.head_gate):
        gated = {parts: replace(parts, head_gate=True) for parts in set(made)}
        made = tuple(gated[parts] for parts in made)
    if habits.shares and config.flag("use_cla", False):
        every = config.size(habits.shares, default=2)
        shared = {parts: replace(parts, shares=True) for parts in set(made)}
        made = tuple(shared[a] if i % every else a for i, a in enumerate(made))
    return made


def _slides(config: Config, rule: str) -> Callable[[int], bool]:
    """Return which layers have the window: by the file's pattern (``4``, ``LLLG``), else by the family's rule."""
    if rule == "one":
        return lambda i: True
    pattern = config.values.get("sliding_window_pattern")
    if isinstance(pattern, str):
        if not pattern or set(pattern) - set("LG"):
            raise config.error("sliding_window_pattern", f"must contain only the letters L and G, not {shown(pattern)}")
        return lambda i: pattern[i % len(pattern)] == "L"
    if rule in ("all", "none") and pattern is None:
        return lambda i: rule == "all"
    every = config.size("sliding_window_pattern", default=1 if rule in ("all", "none") else int(rule))
    return lambda i: rule != "none" and (i + 1) % every != 0


def _reader(habits: Habits, title: str) -> Family:
    def read(config: Config) -> ModelSpec:
        return read_decoder(config, habits)

    read.__doc__ = title
    return read


for _row in read_yaml(Path(__file__).parent / "decoders.yaml")["families"]:
    _habits = Habits(**_row.get("habits", {}))
    family(*_row["classes"], types=_row["types"])(_reader(_habits, _row["title"]))

llama = MODEL_TYPES["llama"]
"""Reader of Llama's files, also used by families that modify Llama's model."""
