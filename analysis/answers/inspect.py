"""What is in a model: parameters, KV cache, state and layer structure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...workloads.catalog import load_model
from ...workloads.layers import Attention, ExpertAttention, LatentAttention, Reads, State, is_routed
from ...workloads.model import ModelSpec
from ..show.result import Result
from ..show.text import show


@dataclass(frozen=True, slots=True)
class Inspection(Result):
    """Counts of one model; see `inspect`."""

    FILE = "inspect.json"

    model: ModelSpec

    def to_dict(self) -> dict[str, Any]:
        spec = self.model
        experts = [la.ffn.routed for la in spec.layers if is_routed(la.ffn) and not la.ffn.routed.by_request]
        return {
            "model": spec.name,
            "architecture": spec.architecture,
            "total_params": spec.total_params,
            "active_params": spec.active_params,
            "weight_bytes": spec.weight_bytes,
            "kv_bytes_per_token": kv_bytes(spec),
            "kv_window": list(spec.kv_window),
            "state_bytes_per_sequence": spec.state_bytes_per_sequence,
            "layers": len(spec.layers),
            "moe_layers": spec.moe_layers,
            "experts": _most_common([e.experts for e in experts]),
            "top_k": _most_common([e.top_k for e in experts]),
            "attention": attention_kind(spec),
            "hidden": spec.hidden,
            "vocab": spec.vocab,
            "max_position": spec.max_position,
            "dtype": spec.numerics.default,
            "weight_formats": dict(spec.numerics.weights),
            "weight_bytes_by_format": spec.stored_bytes,
            "kv_dtype": spec.numerics.kv,
            "source": spec.source,
            **({"notes": list(spec.notes)} if spec.notes else {}),
            **self._tower(),
        }

    def remarks(self) -> Sequence[str]:
        return self.model.notes

    def rows(self) -> Sequence[Mapping[str, Any]]:
        spec, data = self.model, self.to_dict()
        active = f"{data['active_params']:,}"
        if spec.total_params:
            active += f" ({data['active_params'] / spec.total_params:.1%})"
        experts = "none"
        if data["experts"]:
            experts = f"{data['experts']:,}, {data['top_k']} a token, in {spec.moe_layers} layers"
        return [
            {"what": what, "value": value}
            for what, value in {
                "model": f"{spec.name} ({spec.architecture})",
                "parameters": f"{spec.total_params:,}",
                "active for one token": active,
                "weights": f"{spec.weight_bytes / 2**30:,.2f} GiB ({self._formats()})",
                **self._stored(),
                "layers": f"{len(spec.layers)}, {spec.hidden:,} wide",
                "experts": experts,
                "attention": f"{data['attention']}; {self._windows()}",
                "KV cache of one token": self._cache(),
                "state of one sequence": f"{int(spec.state_bytes_per_sequence):,} B",
                "vocabulary": f"{spec.vocab:,}",
                "positions": show(spec.max_position),
                **self._vision(),
                "source": spec.source,
            }.items()
        ]

    def records(self) -> Sequence[Mapping[str, Any]]:
        return [self.to_dict()]

    def _formats(self) -> str:
        numerics = self.model.numerics
        others = "".join(f", {group} {name}" for group, name in numerics.weights)
        return f"{numerics.default}{others}"

    def _cache(self) -> str:
        """Bytes of a token in 16 bit, and as the checkpoint has them kept."""
        spec = self.model
        plain = f"{kv_bytes(spec):,} B{_in_bits(spec)}"
        if kv_bytes(spec) == round(spec.kv_bytes_per_token):
            return plain
        return f"{plain}, {spec.kv_bytes_per_token:,.0f} B in {spec.numerics.kv} as the file asks"

    def _vision(self) -> dict[str, str]:
        """The image tower as a row."""
        tower = self._tower()
        if not tower:
            return {}
        text = f"{tower['vision_params']:,} parameters beside those, {tower['vision_bytes'] / 2**30:,.2f} GiB; "
        return {"image tower": text + f"{tower['tokens_per_1080p_image']:,} tokens for 1920 x 1080 pixels"}

    def _tower(self) -> dict[str, Any]:
        """The image tower, where the file has one: it is not among the other counts."""
        tower = self.model.tower
        if tower is None:
            return {}
        size = tower.params * self.model.numerics.act_bytes
        tokens = tower.tokens(SHOWN_IMAGE)
        return {"vision_params": tower.params, "vision_bytes": size, "tokens_per_1080p_image": tokens}

    def _stored(self) -> dict[str, str]:
        """Each weight group's bytes by format, of checkpoints that are not in one format."""
        if not self.model.numerics.weights:
            return {}
        return {
            f"  {group}": ", ".join(f"{size / 2**30:,.2f} GiB {name}" for name, size in formats.items())
            for group, formats in self.model.stored_bytes.items()
        }

    def _windows(self) -> str:
        """Layers by how far they look back."""
        states = Counter(tuple(_looks(layer.mixer.state())) or ("all",) for layer in self.model.layers)
        if set(states) == {("all",)}:
            return "no window"
        if len(states) > MOST_KINDS:
            ends = sorted({k.window for la in self.model.layers for k in la.mixer.state().keeps})
            return f"heads of {ends[ends[0] == 0]:,} to {ends[-1]:,} tokens"
        return ", ".join(f"{count} layers {_reach(windows)}" for windows, count in states.items())


SHOWN_IMAGE = (1920, 1080)
"""Pixels of the image whose tokens are shown."""
MOST_KINDS = 4
"""Kinds of layers whose windows are listed one by one."""


def _looks(state: State) -> Iterator[str]:
    """What a layer's queries read, or where nothing is said, what it keeps."""
    for read in state.reads or (Reads(cache.window) for cache in state.keeps):
        text = f"{read.most:,}" if read.most else "all"
        text = f"the best {text}" if read.chosen else text
        yield f"{text} pools of {read.pool:,}" if read.pool > 1 else text


def _reach(looks: tuple[str, ...]) -> str:
    """How far heads look back."""
    if looks == ("all",):
        return "without window"
    return f"of {' and '.join(looks)} tokens"


def kv_bytes(spec: ModelSpec) -> int:
    """Return the KV bytes of one token over all layers, at 16 bits per value for any format.

    Rows with separate scales (sparse latent attention) keep their format, as in engines.
    """
    numerics, plain = spec.numerics, replace(spec.numerics, kv="bf16")
    keeps = [k for la in spec.layers for part in la.parts for k in part.state().keeps]
    return round(sum(k.token_bytes(numerics if k.scale_bytes else plain) for k in keeps))


def _in_bits(spec: ModelSpec) -> str:
    """Of which format the bytes of a token are."""
    has_scale = any(k.scale_bytes for la in spec.layers for p in la.parts for k in p.state().keeps)
    return f" in {spec.numerics.kv}" if has_scale else " in 16 bit"


def _most_common(values: list[int]) -> int | None:
    return Counter(values).most_common(1)[0][0] if values else None


def attention_kind(spec: ModelSpec) -> str:
    """Name the attention of a model: mha, gqa, mqa, mla or none, and what is mixed with it."""
    kinds: dict[str, None] = {}
    for layer in spec.layers:
        mixer = layer.mixer
        if isinstance(mixer, Attention | ExpertAttention):
            heads = mixer.heads if isinstance(mixer, Attention) else mixer.top_k * mixer.kv_heads
            if mixer.kv_heads == heads:
                kinds["mha"] = None
            else:
                kinds["mqa" if mixer.kv_heads == 1 else "gqa"] = None
        elif isinstance(mixer, LatentAttention):
            kinds["mla"] = None
        else:
            kinds[mixer.kind] = None
    return "+".join(sorted(kinds, key=lambda k: k not in ("mha", "gqa", "mqa", "mla")))


def inspect(model: str | Path | ModelSpec) -> Inspection:
    """Count a model's parameters and per-sequence state.

    Parameters
    ----------
    model : str, Path or ModelSpec
        Catalog name, ``config.json`` or its folder.

    Raises
    ------
    InputError
        Unknown name or unusable configuration.
    """
    return Inspection(model if isinstance(model, ModelSpec) else load_model(model))
