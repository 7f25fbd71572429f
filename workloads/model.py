"""A model as a list of layers, whose parts give parameters, KV cache and the ops of one step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from .batch import Moments
from .layers import LayerKind, PatchEmbedding, RoutedKind, Run, is_routed
from .layers.base import elementwise, gemm, split
from .layers.streamed import hyper_ops, mixer_weights
from .numerics import Numerics
from .ops import Loads, Op
from .sampling import moved_share, sample_bytes, sort_bytes

if TYPE_CHECKING:
    from .tower import Size, Tower

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer: a token mixer, usually followed by a feed-forward part.

    Attributes
    ----------
    mixer, ffn : LayerKind
        Attention or state layer; dense or MoE block (None where a layer has only a mixer).
    norms : int
        Norms over the hidden size in this layer.
    norm_width : int
        Weights per norm: the hidden size, or twice that with a bias, 0 for none.
    parallel : bool
        Both parts read the same normed input and share one all-reduce (Falcon, Phi-2).
    replicated : bool
        Every device of a rank runs all of it: nothing is added up behind it.
    streams : int
        Residual streams that are mixed before and after each part (hyper-connections).
    """

    mixer: LayerKind
    ffn: LayerKind | None
    norms: int
    norm_width: int
    parallel: bool = False
    replicated: bool = False
    streams: int = 1

    @property
    def parts(self) -> tuple[LayerKind, ...]:
        return (self.mixer,) if self.ffn is None else (self.mixer, self.ffn)

    @property
    def expert_parts(self) -> tuple[RoutedKind, ...]:
        """The parts of this layer that have routed experts, in order of execution."""
        return tuple(part for part in self.parts if is_routed(part))


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model. Sizes are counts; bytes follow from `numerics`.

    Attributes
    ----------
    name, architecture : str
        What it is called, and the architecture class of its ``config.json``.
    layers : tuple of Layer
        In order of execution.
    tied : bool
        The output head reuses the embedding's weights.
    extra_weights : int
        Weights outside layers, embedding and head (final norm, learned positions, head bias).
    max_position : int or None
        Longest sequence the model was made for.
    source : str
        Where the dimensions come from.
    front : PatchEmbedding or None
        Turns an image into tokens; the model is then an encoder, with neither vocabulary nor head.
    mtp : tuple of Layer
        Layers of one multi-token-prediction head of the checkpoint; see `speculators.methods.mtp`. They are
        no part of the model's own weights and ops.
    mtp_heads : int
        How many such heads there are.
    notes : tuple of str
        What a reader should know of how the file was read, such as a class that was guessed.
    tower : Tower or None
        Its image tower, where the file describes one; no part of the model's own weights and ops, see `tower.with_tower`.
    borrows : bool
        Embedding and head are another model's, whose weights count there: of draft heads.
    """

    name: str
    architecture: str
    hidden: int
    vocab: int
    layers: tuple[Layer, ...]
    tied: bool
    numerics: Numerics
    extra_weights: int = 0
    max_position: int | None = None
    source: str = ""
    front: PatchEmbedding | None = None
    mtp: tuple[Layer, ...] = ()
    mtp_heads: int = 0
    borrows: bool = False
    notes: tuple[str, ...] = ()
    tower: Tower | None = None

    def __repr__(self) -> str:
        kinds = ", ".join(dict.fromkeys(type(p).__name__ for la in self.layers for p in la.parts))
        return (
            f"<ModelSpec: {self.name}, {self.total_params / 1e9:.3g} billion parameters, "
            f"{len(self.layers)} layers of {kinds}, hidden {self.hidden}>"
        )

    @property
    def total_params(self) -> int:
        """Number of weights; tied embeddings count once."""
        return sum(count for _, count, _ in self._weights())

    @property
    def active_params(self) -> int:
        """Number of weights that one token uses, input embedding included."""
        return sum(active for _, _, active in self._weights())

    @property
    def weight_bytes(self) -> float:
        """Stored size of all weights [B]."""
        return sum(count * self.numerics.weight_bytes(g) for g, count, _ in self._weights())

    @property
    def stored_bytes(self) -> dict[str, dict[str, float]]:
        """Stored size of every weight group by format [B]."""
        out: dict[str, dict[str, float]] = {}
        for group, count, _ in self._weights():
            for name, bits, share in self.numerics.parts(group) if count else ():
                sizes = out.setdefault(group, {})
                sizes[name] = sizes.get(name, 0.0) + count * share * bits / 8
        return out

    def _weights(self) -> list[tuple[str, int, int]]:
        """Return each group of weights with its number of parameters and the number active for a token."""
        table = self.vocab * self.hidden
        rows = [("other", self.extra_weights, self.extra_weights)]
        if not self.borrows:
            rows.insert(0, ("embedding", table, table))
        if not (self.tied or self.borrows):
            rows.append(("head", table, table))
        if self.front is not None:
            rows += [(w.group, w.total, w.active) for w in self.front.weights()]
        for layer in self.layers:
            norms = layer.norms * layer.norm_width
            if layer.streams > 1:
                norms += len(layer.parts) * mixer_weights(layer.mixer.hidden, layer.streams)
            rows.append(("other", norms, norms))
            rows += [(w.group, w.total, w.active) for p in layer.parts for w in p.weights()]
        return rows

    @property
    def windows(self) -> tuple[int, ...]:
        """Window sizes for which ops need sums over the batch; always includes 0 (all tokens).

        These are the windows of the KV caches and the limits on how many tokens a query reads.
        """
        alike = {id(part): part for layer in self.layers for part in layer.parts}  # most layers are one object
        return tuple(sorted({0}.union(*(part.state().spans for part in alike.values()))))

    def kv_classes(self) -> dict[int, float]:
        """Return the KV cache bytes per token of all layers, by attention window (0 = unlimited) [B]."""
        out: dict[int, float] = {}
        for layer in self.layers:
            for part in layer.parts:
                for cache in part.state().keeps:
                    size = cache.token_bytes(self.numerics)
                    out[cache.window] = out.get(cache.window, 0.0) + size
        return out

    @property
    def kv_bytes_per_token(self) -> float:
        """KV bytes one token adds over all layers while inside every window [B]."""
        return sum(self.kv_classes().values())

    def cache_bytes(self, tokens: int) -> float:
        """Return the KV cache and state of a sequence of `tokens` tokens, with windows [B]."""
        cached = sum(size * (min(tokens, window) if window else tokens) for window, size in self.kv_classes().items())
        return cached + self.state_bytes_per_sequence

    @property
    def kv_window(self) -> tuple[int | None, ...]:
        """Longest attention window of each layer; None where unlimited or without a KV cache."""
        return tuple(layer.mixer.state().window or None for layer in self.layers)

    @property
    def state_bytes_per_sequence(self) -> float:
        """Size of the states of one sequence that do not grow with its length [B]."""
        states = [f for la in self.layers for p in la.parts for f in p.state().fixed]
        return sum(state.bytes(self.numerics) for state in states)

    @property
    def moe_layers(self) -> int:
        """Number of layers whose feed-forward part has routed experts."""
        return sum(is_routed(layer.ffn) and not layer.ffn.routed.by_request for layer in self.layers)

    @property
    def groups(self) -> tuple[tuple[Layer, int], ...]:
        """Distinct layers with their number of occurrences, in order of first appearance."""
        counts: dict[Layer, int] = {}
        for layer in self.layers:
            counts[layer] = counts.get(layer, 0) + 1
        return tuple(counts.items())

    def within(self, longest: int) -> ModelSpec:
        """Return this model for sequences of at most `longest` tokens, without windows that are at least as long."""

        def change(layer: Layer) -> Layer:
            mixer: Any = layer.mixer  # maybe a dataclass with a window of its own
            if 0 < longest <= getattr(mixer, "window", 0):
                return replace(layer, mixer=replace(mixer, window=0))
            return layer

        return self.of_length(longest).map_layers(change)

    def of_length(self, longest: int) -> ModelSpec:
        """Return the model for sequences of at most `longest` tokens, if its windows depend on that length.

        Mixers with such windows have a method `within`.
        """

        def change(layer: Layer) -> Layer:
            mixer: Any = layer.mixer
            return replace(layer, mixer=mixer.within(longest)) if hasattr(mixer, "within") else layer

        if any(hasattr(layer.mixer, "within") for layer in self.layers):
            return self.map_layers(change)
        return self

    @property
    def working_bytes_per_token(self) -> float:
        """Return the largest workspace of any part per prompt token, without its input and output [B].

        Only feed-forward parts state one (`working_values`): their gate, up projection and product need more than
        attention.
        """
        values = [getattr(p, "working_values", 0) for la in self.layers for p in la.parts]
        return max(values, default=0) * self.numerics.act_bytes

    def map_layers(self, change: Callable[[Layer], Layer]) -> ModelSpec:
        """Return the model with every distinct layer replaced by `change` (used for sharding)."""
        changed = {layer: change(layer) for layer, _ in self.groups}
        return replace(self, layers=tuple(changed[layer] for layer in self.layers))

    def map_parts(self, kind: type[T], change: Callable[[T], LayerKind]) -> ModelSpec:
        """Return the model with every mixer and feed-forward part of class `kind` replaced by `change` of it."""

        def changed(part: Any) -> Any:
            return change(part) if isinstance(part, kind) else part

        return self.map_layers(lambda layer: replace(layer, mixer=changed(layer.mixer), ffn=changed(layer.ffn)))


POST_NORMS = ("post_norm", "router_norm", "residual_norm")
"""Norms behind a part's first norm (Gemma's), for which engines start separate kernels."""


def layer_ops(layer: Layer, moments: Moments, run: Run, loads: Loads | None) -> list[list[Op]]:
    """Return the ops of each part of one layer without collectives; norms with the residual add come first.

    `loads` apply to every expert part; callers with separate samples per part replace those ops.
    """
    out: list[list[Op]] = []
    per_part = layer.norms / (1 if layer.parallel else len(layer.parts))
    for i, part in enumerate(layer.parts):
        ops: list[Op] = []
        if layer.norms and not (layer.parallel and i):
            behind = [n for n, _ in zip(POST_NORMS, range(1, int(per_part)), strict=False) if n in run.alone]
            ops.append(elementwise("norm", "norm", moments.tokens, part.hidden, 4 * (per_part - len(behind)), run))
            ops += [elementwise(name, "norm", moments.tokens, part.hidden, 4, run) for name in behind]
        ops += part.ops(moments, run, loads if is_routed(part) else None)
        if layer.streams > 1:
            before, after = hyper_ops(part.hidden, layer.streams, moments, run)
            ops = [before, *ops, after]
        out.append(ops)
    return out


def embedding_ops(spec: ModelSpec, moments: Moments, run: Run) -> list[Op]:
    """Return the op that gathers one embedding row per token, or that cuts images into patches."""
    if spec.front is not None:
        return spec.front.ops(moments, run, None)
    if not spec.vocab:
        return []
    return [elementwise("embedding", "embedding", moments.tokens, spec.hidden, 2, run, access="gather")]


def sampling_ops(spec: ModelSpec, moments: Moments, run: Run) -> list[Op]:
    """Return the ops that sample tokens from logits; every device with whole rows of logits runs all of them."""
    if not spec.vocab:
        return []
    parts = (("sampling", sample_bytes), ("sampling_sort", sort_bytes))
    ops = [
        elementwise(name, "head", moments.sequences, spec.vocab, size(run.sampling) / run.numerics.act_bytes, run)
        for name, size in parts
        if size(run.sampling)
    ]
    return [replace(op, moved=moved_share(run.sampling)) for op in ops]


def head_ops(spec: ModelSpec, moments: Moments, run: Run, tp: int) -> list[Op]:
    """Return the final norm and the product for the logits of the last token of every sequence.

    The head is split over `tp` devices by vocabulary, padded to a multiple of `tp`. Without a vocabulary (encoders,
    single layers) all tokens are normed and there are no logits.
    """
    if not spec.vocab:
        return [elementwise("final_norm", "head", moments.tokens, spec.hidden, 4, run)]
    vocab = split(-(-spec.vocab // tp) * tp, tp, "vocabulary rows")
    return [
        elementwise("final_norm", "head", moments.sequences, spec.hidden, 4, run),
        gemm("logits", "head", "head", moments.sequences, vocab, spec.hidden, run),
    ]


def with_tower(
    model: ModelSpec, size: Size | None, share: float = 0.0, images: int = 1, hits: float = 0.0
) -> ModelSpec:
    """Return the model with its image tower, which is replicated on each of the model's devices.

    Parameters
    ----------
    size : (int, int), optional
        Width and height of the images; without images only the weights are added.
    share : float
        Share of image tokens in prompts.
    images : int
        Images per request; that number of a rank's devices may process them at once.
    hits : float
        Share of images whose tokens the encoder's cache has.
    """
    tower = model.tower
    if tower is None:
        return model
    if size is None or not share or hits == 1.0:  # nothing to compute, and nothing to launch
        return replace(model, extra_weights=model.extra_weights + tower.params)
    pictures, patches, tokens = tower.cut(size)
    part = replace(tower.part, share=share * (1.0 - hits), patches=patches, tokens=tokens, pictures=pictures * images)
    # At the end of the list, so that no other layer has another number (draws of expert loads go by it).
    return replace(model, layers=(*model.layers, Layer(part, None, 0, 0, replicated=True)))


def tower_alone(model: ModelSpec, tower: Tower, size: Size) -> ModelSpec:
    """Return the image tower as a separate model that computes the image tokens."""
    pictures, patches, tokens = tower.cut(size)
    part = replace(tower.part, share=1.0, patches=patches, tokens=tokens, pictures=pictures)
    return ModelSpec(
        name=f"{model.name} tower", architecture=tower.kind, hidden=part.hidden, vocab=0,
        layers=(Layer(part, None, 0, 0),), tied=True, numerics=Numerics(model.numerics.default),
        source=model.source,
    )  # fmt: skip
