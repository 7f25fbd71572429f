"""Layer kinds: one module each, registered by name in `LAYER_KINDS`."""

from .attention import Attention
from .attention_mixture import AttentionMixture
from .attention_moe import ExpertAttention
from .base import (
    LAYER_KINDS,
    Fixed,
    Kept,
    LayerKind,
    Reads,
    Routed,
    RoutedKind,
    Run,
    State,
    Weights,
    is_routed,
    layer_kind,
)
from .ffn import FeedForward
from .fusion import Fusion
from .head_experts import HeadExperts
from .linear_state import GatedDeltaNet, Mamba
from .lora import LowRank
from .memories import Memories
from .merged import MergedExperts
from .mixlora import AdapterExperts
from .mla import LatentAttention
from .modal import ModalMamba
from .moe import MixtureOfExperts
from .rmoe import RecurrentExperts
from .shard_pool import PooledAdapter
from .side_inputs import SideInputs
from .slices import SlicedAttention, SlicedFeedForward
from .smora import RankExperts
from .spans import SpanAttention
from .vit import BidirectionalAttention, MultiTaskExperts, PatchEmbedding

__all__ = [
    "LAYER_KINDS",
    "AdapterExperts",
    "Attention",
    "AttentionMixture",
    "BidirectionalAttention",
    "ExpertAttention",
    "FeedForward",
    "Fixed",
    "Fusion",
    "GatedDeltaNet",
    "HeadExperts",
    "Kept",
    "LatentAttention",
    "LayerKind",
    "LowRank",
    "Mamba",
    "Memories",
    "MergedExperts",
    "MixtureOfExperts",
    "ModalMamba",
    "MultiTaskExperts",
    "PatchEmbedding",
    "PooledAdapter",
    "RankExperts",
    "Reads",
    "RecurrentExperts",
    "Routed",
    "RoutedKind",
    "Run",
    "SideInputs",
    "SlicedAttention",
    "SlicedFeedForward",
    "SpanAttention",
    "State",
    "Weights",
    "is_routed",
    "layer_kind",
]
