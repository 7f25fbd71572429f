"""Layer kinds: one module each, registered by name in `LAYER_KINDS`."""

from .attention import Attention
from .attention_moe import ExpertAttention
from .base import (
    LAYER_KINDS,
    LayerKind,
    Routed,
    RoutedKind,
    Run,
    State,
    Weights,
    is_routed,
    layer_kind,
)
from .ffn import FeedForward
from .linear_state import GatedDeltaNet, Mamba
from .memories import Memories
from .mla import LatentAttention
from .moe import MixtureOfExperts
from .spans import SpanAttention
from .vit import BidirectionalAttention, MultiTaskExperts, PatchEmbedding

__all__ = [
    "LAYER_KINDS",
    "Attention",
    "BidirectionalAttention",
    "ExpertAttention",
    "FeedForward",
    "GatedDeltaNet",
    "LatentAttention",
    "LayerKind",
    "Mamba",
    "Memories",
    "MixtureOfExperts",
    "MultiTaskExperts",
    "PatchEmbedding",
    "Routed",
    "RoutedKind",
    "Run",
    "SpanAttention",
    "State",
    "Weights",
    "is_routed",
    "layer_kind",
]
