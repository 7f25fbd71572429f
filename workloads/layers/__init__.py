"""Layer kinds: one module each, registered by name in `LAYER_KINDS`."""

from .attention import Attention
from .attention_mixture import AttentionMixture
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
from .head_experts import HeadExperts
from .linear_state import GatedDeltaNet, Mamba
from .memories import Memories
from .mla import LatentAttention
from .modal import ModalMamba
from .moe import MixtureOfExperts
from .slices import SlicedAttention, SlicedFeedForward
from .spans import SpanAttention
from .vit import BidirectionalAttention, MultiTaskExperts, PatchEmbedding

__all__ = [
    "LAYER_KINDS",
    "Attention",
    "AttentionMixture",
    "BidirectionalAttention",
    "ExpertAttention",
    "FeedForward",
    "GatedDeltaNet",
    "HeadExperts",
    "LatentAttention",
    "LayerKind",
    "Mamba",
    "Memories",
    "MixtureOfExperts",
    "ModalMamba",
    "MultiTaskExperts",
    "PatchEmbedding",
    "Routed",
    "RoutedKind",
    "Run",
    "SlicedAttention",
    "SlicedFeedForward",
    "SpanAttention",
    "State",
    "Weights",
    "is_routed",
    "layer_kind",
]
