"""Number formats of a checkpoint, from ``torch_dtype``, ``quantization_config`` and ``hf_quant_config.json``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING

from ..errors import nearest
from ..numerics import BITS, Numerics, Parts
from .config import Config, shown
from .quant_methods import LINEAR, Recipe, Stored

if TYPE_CHECKING:
    from ..layers import LayerKind
    from ..model import Layer


OWNERS = {
    "attention": ("self_attn", "linear_attn", "attn", "attention", "self_attention", "mamba", "mixer", "conv",
                  "short_conv", "temporal_block"),
    "ffn": ("mlp", "feed_forward", "block_sparse_moe", "moe", "mixer", "ffn"),
    "experts": ("mlp", "feed_forward", "block_sparse_moe", "moe", "mixer", "ffn"),
}  # fmt: skip
"""Names of a layer's parts in checkpoints, by weight group."""
OTHER_MODELS = re.compile(r"vision|visual|audio|projector|mtp\b|mtp\.|draft|image|\bvit\b|patch_embed")
"""Pattern of modules of a file's model that do not belong to decoder layers."""
SHARED = ("shared_experts", "shared_expert", "shared_mlp", "share_expert", "shared_experts.0")


@dataclass(frozen=True, slots=True)
class _Module:
    """A linear module: its weight group, its names after ``layers.N.`` and its number of weights."""

    group: str
    names: tuple[str, ...]
    weights: float


def _modules(part: LayerKind, others: bool) -> list[_Module]:
    """Return the linear modules of a layer part.

    `others`: the layer has experts, so dense blocks are shared experts.
    """
    totals = dict.fromkeys(LINEAR, 0)
    for w in part.weights():
        if w.group in totals:
            totals[w.group] += w.total
    out: list[_Module] = []
    if totals["attention"]:
        out += _scaled("attention", _projections(part), totals["attention"])
    if totals["experts"]:
        names: tuple[str, ...] = ("experts", "experts.0.gate_proj", "experts.0.up_proj")
        names += ("experts.gate_up_proj", "experts.0.w1")
        out += _scaled("experts", {names: 1.0}, totals["experts"])
    if totals["ffn"]:
        owners = SHARED if others else ("",)
        gated = getattr(part, "matrices", 3) == 3 or others
        columns: dict[tuple[str, ...], float] = {("gate_proj", "gate_up_proj", "w1", "gate"): 1.0} if gated else {}
        columns |= {("up_proj", "gate_up_proj", "w3", "fc1", "up"): 1.0, ("down_proj", "w2", "fc2", "down"): 1.0}
        spelled = {tuple(f"{o}.{n}".lstrip(".") for o in owners for n in names): w for names, w in columns.items()}
        out += _scaled("ffn", spelled, totals["ffn"])
    return out


def _projections(part: LayerKind) -> Mapping[tuple[str, ...], float]:
    """Return the projections of a mixer by their names, with their weights, if they can be distinguished."""
    part = getattr(part, "base", part)  # sparse attention has the projections of what it chooses for
    linears = getattr(part, "linears", None)
    if linears is not None:
        names = {"q": ("q_proj", "qkv_proj"), "k": ("k_proj", "qkv_proj"), "v": ("v_proj", "qkv_proj"),
                 "out": ("o_proj", "out_proj", "dense")}  # fmt: skip
        sizes = {names.get(li.name, (li.name,)): float(li.inputs * li.outputs) for li in linears()}
        if sizes:
            return sizes
    latent = all(hasattr(part, key) for key in ("q_rank", "kv_rank", "nope_dim", "rope_dim", "v_dim"))
    if latent:
        p: object = part
        g = {k: int(getattr(p, k)) for k in ("hidden", "heads", "q_rank", "kv_rank", "nope_dim", "rope_dim", "v_dim")}
        q = g["heads"] * (g["nope_dim"] + g["rope_dim"])
        made: dict[tuple[str, ...], float] = {
            ("kv_a_proj_with_mqa", "fused_qkv_a_proj"): float(g["hidden"] * (g["kv_rank"] + g["rope_dim"])),
            ("kv_b_proj",): float(g["kv_rank"] * g["heads"] * (g["nope_dim"] + g["v_dim"])),
            ("o_proj",): float(g["heads"] * g["v_dim"] * g["hidden"]),
        }
        if g["q_rank"]:
            made[("q_a_proj", "fused_qkv_a_proj")] = float(g["hidden"] * g["q_rank"])
            made[("q_b_proj",)] = float(g["q_rank"] * q)
        else:
            made[("q_proj",)] = float(g["hidden"] * q)
        return made
    # Recurrent and other mixers: what goes in, about twice as large as what comes out.
    return {("in_proj", "in_proj_qkv", "in_proj_qkvz", "q_proj", "qkv_proj"): 2.0, ("out_proj", "o_proj"): 1.0}


def _scaled(group: str, weights: Mapping[tuple[str, ...], float], total: float) -> list[_Module]:
    total_all = sum(weights.values())
    return [
        _Module(group, tuple(f"{owner}.{name}" for owner in OWNERS[group] for name in names), total * w / total_all)
        for names, w in weights.items()
    ]


@dataclass(slots=True)
class _Patterns:
    """Names and patterns of modules, sorted by the layer that they name; None means every layer."""

    texts: Iterable[str]
    layers: int
    _named: dict[int | None, list[str]] = field(default_factory=dict)
    _regex: list[re.Pattern[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for text in self.texts:
            if text.startswith("re:") or re.search(r"[\\^$(\[+]", text):
                try:
                    self._regex.append(re.compile(text.removeprefix("re:")))
                except re.error:  # an engine would fail on it too; it names nothing
                    continue
                continue
            before, layer, after = text.rpartition("layers.")
            if OTHER_MODELS.search(before if layer else text):
                continue
            for number, rest in self._places(layer, after):
                self._named.setdefault(number, []).append(rest)

    def _places(self, layer: str, after: str) -> list[tuple[int | None, str]]:
        """Return the layers that a text names, each with the rest of the text, which names the module."""
        if not layer:
            return [(None, after)]
        number, dot, rest = after.partition(".")
        if number.isdigit():
            return [(int(number), rest if dot else "*")] if int(number) < self.layers else []
        if "*" in number or "?" in number:
            fits = [i for i in range(self.layers) if fnmatchcase(str(i), number)]
            everywhere = rest if dot else "*" if number.rstrip("*").isdigit() else number
            return [(None if len(fits) == self.layers else i, everywhere)
                    for i in (fits[:1] if len(fits) == self.layers else fits)]  # fmt: skip
        return [(None, after)]

    @property
    def by_layer(self) -> bool:
        """Return whether any text names specific layers."""
        return bool(self._regex) or any(number is not None for number in self._named)

    def fit(self, names: Sequence[str], layer: int) -> bool:
        """Return whether a module is covered under any of its names."""
        texts = [*self._named.get(None, ()), *self._named.get(layer, ())]
        if any(_is(name, text) for text in texts for name in names):
            return True
        return any(
            p.match(full) or p.match(name)
            for name in names
            for full in (f"model.layers.{layer}.{name}",)
            for p in self._regex
        )


@lru_cache(maxsize=20_000)
def _is(name: str, text: str) -> bool:
    """Return whether a text covers a module: its name, the beginning or end of its name, or a glob."""
    if "*" in text or "?" in text:
        return fnmatchcase(name, text) or fnmatchcase(f"model.layers.0.{name}", text)
    text = text.strip(".")
    return bool(text) and f".{text}." in f".{name}."


def group_formats(
    recipe: Recipe, quantization: Config, layers: Sequence[Layer], default: str
) -> list[tuple[str, Parts]]:
    """Return the formats, bits and shares of every weight group, largest share first, and of an output head if named."""
    exempt = _Patterns(recipe.exempt, len(layers))
    rules = [(_Patterns(texts, len(layers)), stored) for texts, stored in recipe.rules]
    plain = Stored(default, BITS[default])

    def of(module: _Module, layer: int) -> Stored:
        if module.group not in recipe.groups:
            return plain
        if exempt.fit(module.names, layer):
            return plain
        if module.group == "experts" and recipe.experts is not None:
            return recipe.experts
        for patterns, stored in rules:
            if patterns.fit(module.names, layer):
                return stored or plain
        return recipe.default or plain

    same = not (exempt.by_layer or any(patterns.by_layer for patterns, _ in rules))
    sums: dict[str, dict[Stored, float]] = {group: {} for group in LINEAR}
    seen: dict[tuple[LayerKind, bool], list[tuple[_Module, Stored]]] = {}
    for i, layer in enumerate(layers):
        for part in layer.parts:
            others = bool(layer.expert_parts) and part is layer.ffn
            previous = seen.get((part, others)) if same else None
            if previous is None:
                previous = [(module, of(module, i)) for module in _modules(part, others)]
                seen[part, others] = previous
            for module, stored in previous:
                format_sums = sums[module.group]
                format_sums[stored] = format_sums.get(stored, 0.0) + module.weights
    for group in LINEAR:
        if not sums[group]:  # none of them in this model; --dtype and reports ask all the same
            names = {"attention": "q_proj", "ffn": "down_proj", "experts": "experts"}
            module = _scaled(group, {(names[group],): 1.0}, 1.0)[0]
            sums[group][of(module, 0)] = 1.0
    out = [(group, _parts(sums[group])) for group in LINEAR]
    heads = [stored for texts, stored in recipe.rules if stored and "lm_head" in texts]
    return out + [("head", _parts({stored: 1.0})) for stored in heads[:1]]


def _parts(weights: Mapping[Stored, float]) -> Parts:
    total = sum(weights.values())
    rows = sorted(((s.name, s.bits, w / total) for s, w in weights.items()), key=lambda row: -row[2])
    return tuple(rows)


SERVED_IN = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "bf16", "float": "bf16", "auto": "bf16"}
"""Number format in which engines serve a checkpoint, by its stored format. Checkpoints saved in 32 bits (OLMo-2, OLMoE,
Gemma-2) are cast to 16 bits by every inference server (vLLM: ``dtype="auto"`` maps float32 to 16 bits), so weights and
KV cache are counted at 16 bits."""

SIDE_FILE = "hf_quant_config.json"
"""File of modelopt's checkpoints that states the storage of weights, next to ``config.json``."""


def numerics(config: Config, layers: Sequence[Layer]) -> Numerics:
    """Return the formats of the stored weights and of the KV cache: 16 bits, unless the file or a run says otherwise.

    Engines keep the cache in the format that a checkpoint was calibrated for without being asked (vLLM:
    ``kv_cache_dtype="auto"``), so ``kv_cache_quant_algo`` and ``kv_cache_scheme`` hold.
    """
    key = "torch_dtype" if config.nearest_with("torch_dtype").has("torch_dtype") else "dtype"
    at = config.nearest_with(key)
    stored = at.text(key, "bfloat16").removeprefix("torch.")
    if stored not in SERVED_IN:
        raise at.error(key, f"unknown format {shown(stored)}{nearest(stored, SERVED_IN)}")
    default = SERVED_IN[stored]
    q = _given(config)
    if q is None:
        return Numerics(default=default, kv=default)
    from .quant_methods import cache_format, recipe_of  # most files have none

    recipe = recipe_of(q, config)
    beside = _beside(config)  # modelopt's files that stand twice may name the cache in one place alone
    kv = recipe.kv or (cache_format(beside) if beside is not None else "") or default
    formats = group_formats(recipe, q, layers, default)
    mixed = tuple((g, parts) for g, parts in formats if _own(parts))
    names = tuple((g, parts[0][0]) for g, parts in formats if parts[0][0] != default or _own(parts))
    return Numerics(default=default, weights=names, kv=kv, stored=mixed)


def _own(parts: Sequence[tuple[str, float, float]]) -> bool:
    """Return whether a group differs from one known format with its usual scales."""
    from ..numerics import BITS

    return len(parts) > 1 or parts[0][1] != BITS[parts[0][0]]


def _given(config: Config) -> Config | None:
    """Return the section on the storage of weights; ``config.json`` has priority over the side file."""
    for key in ("quantization_config", "compression_config"):
        outer = config.nearest_with(key)
        if outer.has(key):
            return outer.section(key)
    return _beside(config)


def _beside(config: Config) -> Config | None:
    """Return the section on the storage of weights in the file next to ``config.json``; None without that file."""
    outer = config.nearest_with(SIDE_FILE)
    if not outer.has(SIDE_FILE):
        return None
    side = replace(outer, path=os.path.join(os.path.dirname(config.path), SIDE_FILE), prefix="")
    q = side.section(SIDE_FILE)
    q = replace(q, prefix="").section("quantization")
    return replace(q, values={"quant_method": "modelopt", **q.values})
