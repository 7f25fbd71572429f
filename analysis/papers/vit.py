"""Counts of vision models: multiply-accumulates of an encoder and of a convolutional decoder."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from opbyte.extend import Batch, InputError, Loads, ModelSpec, Run
from opbyte.extend.models import Layer, embedding_ops, is_routed, layer_ops


def encoder_macs(model: ModelSpec) -> float:
    """Multiply-accumulates of one image through the encoder.

    Raises
    ------
    InputError
        The model takes no images.
    """
    if model.front is None:
        raise InputError(model.name, "takes tokens, not images")
    batch = Batch.of(chunks=[(model.front.tokens, 0)])
    m, run = batch.moments(model.windows), Run(model.numerics)
    ops = list(embedding_ops(model, m, run))
    for layer in model.layers:
        ffn, loads = layer.ffn, None
        if is_routed(ffn):
            routed = ffn.routed
            loads = Loads.expected(batch.tokens, routed.top_k, routed.experts, routed.experts)
        ops += [op for part in layer_ops(layer, m, run, loads) for op in part]
    return sum(op.flops for op in ops if op.kind != "elementwise") / 2


def upsampling_decoder_macs(model: ModelSpec, channels: int, classes: int) -> int:
    """Multiply-accumulates of one task's decoder for one image.

    Four 3 x 3 convolutions of `channels`, each at twice the side of the last (the first on the patch grid), then a 1 x
    1 convolution to `classes` on the fourth's grid (VITA-Group/M3ViT at d448b6f, models/vit_up_head.py).
    """
    if model.front is None:
        raise InputError(model.name, "takes tokens, not images")
    macs, inputs, pixels = 0, model.hidden, model.front.patches
    for stage in range(4):
        macs += pixels * 4**stage * 9 * inputs * channels
        inputs = channels
    return macs + pixels * 4**3 * channels * classes


def with_experts(model: ModelSpec, experts: int) -> ModelSpec:
    """The model with another number of experts in every MoE layer, `top_k` unchanged."""

    def change(layer: Layer) -> Layer:
        ffn: Any = layer.ffn
        if not is_routed(layer.ffn):
            return layer
        if experts < layer.ffn.routed.top_k:
            reason = f"must be at least the {layer.ffn.routed.top_k} experts of a token"
            raise InputError(f"experts {experts}", reason)
        if all(field.name != "experts" for field in fields(ffn)):
            raise InputError(f"experts {experts}", f"layer kind {ffn.kind} has no such field")
        return replace(layer, ffn=replace(ffn, experts=experts))

    return replace(model.map_layers(change), name=f"{model.name}-{experts}e")
