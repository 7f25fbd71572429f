"""Decoders that differ from each other in a few habits: biases, norms, gates, windows, experts.

One row of ``decoders.yaml`` a family: the habits that its files do not state, or under which key they do. A
class of other habits is one more row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..layers import Attention
from ..model import ModelSpec
from ..yamlfile import read_yaml
from .blocks import read_blocks
from .config import Config, shown
from .families import Family, family
from .parts import Heads, assemble, read_heads, read_windows, stack

LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
MTP = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers", "num_mtp_modules")
"""Keys that hold the number of multi-token-prediction heads."""


@dataclass(frozen=True, slots=True)
class Habits:
    """What a family does.

    Attributes
    ----------
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
        Of a feed-forward block.
    gated : bool
        An output gate as wide as the values.
    head_gate : str
        Key that switches a gate of one column a head on, ``true`` always.
    windows : str
        Which layers have the window where a file has no ``layer_types``: ``all``, ``none``, ``N`` (all but every N-th).
    window : int
        Default of the window.
    first : int
        Dense layers before those with experts, where the file does not say.
    mtp : int
        Multi-token-prediction heads where the file does not say.
    shares : str
        Key that holds how many layers share one cache, where ``use_cla`` is on.
    """

    head_dim: int | None = None
    qkv_bias: str = ""
    out_bias: str = ""
    ffn_bias: str = ""
    qk_norm: str = ""
    norms: int = 2
    norm: int = 1
    matrices: int = 3
    gated: bool = False
    head_gate: str = ""
    sinks: bool = False
    windows: str = "none"
    window: int = 0
    parallel: bool = False
    tied: bool = False
    router_bias: bool = False
    shared_gate: bool = False
    first: int = 0
    mtp: int = 0
    shares: str = ""


def switched(config: Config, key: str) -> bool:
    """What a habit's key says."""
    if key in ("", "true"):
        return key == "true"
    return config.flag(key.removeprefix("+"), key.startswith("+"))


def read_decoder(config: Config, habits: Habits) -> ModelSpec:
    """A decoder by its habits."""
    shape, layers = read_heads(config, head_dim=habits.head_dim, mha=True), config.layers(*LAYERS)
    mixers = attention_of(config, habits, shape, layers)
    blocks = read_blocks(
        config, shape.hidden, layers, router_bias=habits.router_bias, shared_gate=habits.shared_gate, matrices=habits.matrices,
        bias=switched(config, habits.ffn_bias), first=habits.first,
    )  # fmt: skip
    width = habits.norm * shape.hidden
    return assemble(
        config, stack(mixers, blocks, norms=habits.norms, norm_width=width, parallel=habits.parallel), tied=habits.tied,
        final_norm=width, heads=mtp_heads(config, habits.mtp),
    )  # fmt: skip


def mtp_heads(config: Config, default: int = 0) -> int:
    """Multi-token-prediction heads of the checkpoint."""
    return config.count(*MTP, default=default)


def attention_of(config: Config, habits: Habits, shape: Heads, layers: int) -> tuple[Attention, ...]:
    """The attention of every layer."""
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
    """Which layers have the window: as the file's pattern says (``4``, ``LLLG``), else by habit."""
    pattern = config.values.get("sliding_window_pattern")
    if isinstance(pattern, str):
        if not pattern or set(pattern) - set("LG"):
            raise config.error("sliding_window_pattern", f"must be of L and G, not {shown(pattern)}")
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
