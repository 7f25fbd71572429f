"""Contents of a model: parameters, KV cache, state and layer structure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...workloads.catalog import load_model
from ...workloads.layers import Attention, ExpertAttention, LatentAttention, Reads, State, is_routed
from ...workloads.model import ModelSpec
from ..show.declared import declared, filled, record, row
from ..show.result import Result
from ..show.text import Rows


@dataclass(frozen=True, slots=True)
class Inspection(Result):
    """Counts of one model; see `inspect`."""

    FILE = "inspect.json"

    model: ModelSpec

    def to_dict(self) -> dict[str, Any]:
        notes = {"notes": list(self.model.notes)} if self.model.notes else {}
        return {**record(self), **notes, **self._tower()}

    @property
    def kv_bytes(self) -> int:
        return kv_bytes(self.model)

    def most(self, what: str) -> int | None:
        """Return the most common value of a count (such as ``top_k``) over the layers with routed experts."""
        layers = self.model.layers
        kinds = [la.ffn.routed for la in layers if is_routed(la.ffn) and not la.ffn.routed.by_request]
        counts: list[int] = [getattr(kind, what) for kind in kinds]
        return Counter(counts).most_common(1)[0][0] if counts else None

    @property
    def experts(self) -> int | None:
        return self.most("experts")

    @property
    def top_k(self) -> int | None:
        return self.most("top_k")

    @property
    def attention(self) -> str:
        return attention_kind(self.model)

    def formats(self) -> dict[str, str]:
        """Return the weight groups whose number format differs from the default -> format."""
        return dict(self.model.numerics.weights)

    @property
    def state(self) -> int:
        """Return the fixed-size state of one sequence [B]."""
        return int(self.model.state_bytes_per_sequence)

    @property
    def active(self) -> str:
        """Return the number of parameters that one token uses, and its share of all parameters, as text."""
        active, total = self.model.active_params, self.model.total_params
        return f"{active:,} ({active / total:.1%})" if total else f"{active:,}"

    @property
    def routed(self) -> str:
        """Return the routed experts as text: their number, top-k and layers."""
        if not self.experts:
            return "none"
        return f"{self.experts:,}, {self.top_k} a token, in {self.model.moe_layers} layers"

    def remarks(self) -> Sequence[str]:
        return self.model.notes

    def rows(self) -> Rows:
        tower = self._tower()
        vision = {"image tower": filled(tower, declared(self, "tower"))} if tower else {}
        cells = {
            **row(self, "first"), **self._stored(), **row(self, "middle"), **vision, "source": self.model.source,
        }  # fmt: skip
        return [{"what": what, "value": value} for what, value in cells.items()]

    def records(self) -> Rows:
        return [self.to_dict()]

    def written(self) -> str:
        """Return the number formats of the weights as text."""
        numerics = self.model.numerics
        others = "".join(f", {group} {name}" for group, name in numerics.weights)
        return f"{numerics.default}{others}"

    def cache(self) -> str:
        """Return the KV bytes of a token in 16 bits and, if it differs, in the checkpoint's KV format."""
        spec = self.model
        plain = f"{kv_bytes(spec):,} B{_in_bits(spec)}"
        if kv_bytes(spec) == round(spec.kv_bytes_per_token):
            return plain
        return f"{plain}, {spec.kv_bytes_per_token:,.0f} B in {spec.numerics.kv} as the file asks"

    def _tower(self) -> dict[str, Any]:
        """Return the size of the image tower, if the model has one; the other counts do not include it."""
        tower = self.model.tower
        if tower is None:
            return {}
        size = tower.params * self.model.numerics.act_bytes
        tokens = tower.tokens(SHOWN_IMAGE)
        return {"vision_params": tower.params, "vision_bytes": size, "tokens_per_1080p_image": tokens}

    def _stored(self) -> dict[str, str]:
        """Return the bytes of each weight group by format, for checkpoints in more than one format."""
        if not self.model.numerics.weights:
            return {}
        return {
            f"  {group}": ", ".join(f"{size / 2**30:,.2f} GiB {name}" for name, size in formats.items())
            for group, formats in self.model.stored_bytes.items()
        }

    def windows(self) -> str:
        """Return the number of layers for each attention window, as text."""
        states = Counter(tuple(_looks(layer.mixer.state())) or ("all",) for layer in self.model.layers)
        if set(states) == {("all",)}:
            return "no window"
        if len(states) > MOST_KINDS:
            ends = sorted({k.window for la in self.model.layers for k in la.mixer.state().keeps})
            return f"heads of {ends[ends[0] == 0]:,} to {ends[-1]:,} tokens"
        return ", ".join(f"{count} layers {_reach(windows)}" for windows, count in states.items())


SHOWN_IMAGE = (1920, 1080)
"""Width and height of the image whose tokens are counted [pixels]."""
MOST_KINDS = 4
"""Kinds of layers whose windows are listed one by one."""


def _looks(state: State) -> Iterator[str]:
    """Yield a text for each set of tokens that a layer's queries read; if reads are not described, of its cache."""
    for read in state.reads or (Reads(cache.window) for cache in state.keeps):
        text = f"{read.most:,}" if read.most else "all"
        text = f"the best {text}" if read.chosen else text
        yield f"{text} pools of {read.pool:,}" if read.pool > 1 else text


def _reach(looks: tuple[str, ...]) -> str:
    """Return the attention window of a layer as text."""
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
    """Return the number format of a token's KV bytes, as text."""
    has_scale = any(k.scale_bytes for la in spec.layers for p in la.parts for k in p.state().keeps)
    return f" in {spec.numerics.kv}" if has_scale else " in 16 bit"


def attention_kind(spec: ModelSpec) -> str:
    """Return the attention type of a model (mha, gqa, mqa, mla or none), and the layer types mixed with it."""
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
