"""Layer kinds: a module per kind, registered by name in `LAYER_KINDS`."""

from .attention import Attention
from .attention_moe import ExpertAttention
from .base import (
    LAYER_KINDS,
    Fixed,
    LayerCache,
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
from .block_sparse import BlockSparseAttention
from .compressed import CompressedAttention
from .ffn import FeedForward
from .indexer import Indexer
from .linear_state import GatedDeltaNet, KimiDelta, Mamba
from .lora import LowRank
from .mamba2 import Lightning, Mamba2, ShortConv
from .mla import LatentAttention
from .moe import MixtureOfExperts
from .published.head_experts import AttentionMixture, HeadExperts
from .published.memories import Memories, ModalMamba
from .published.merged import MergedExperts, RecurrentExperts
from .published.mixlora import AdapterExperts, PooledAdapter, RankExperts
from .published.slices import SlicedAttention, SlicedFeedForward
from .published.spans import SpanAttention
from .side_inputs import Fusion, SideInputs
from .sparse_latent import SparseLatentAttention
from .vit import BidirectionalAttention, ImageTower, MultiTaskExperts, PatchEmbedding

__all__ = [
    "LAYER_KINDS", "AdapterExperts", "Attention", "AttentionMixture", "BidirectionalAttention",
    "BlockSparseAttention", "CompressedAttention", "ExpertAttention", "FeedForward", "Fixed",
    "Fusion", "GatedDeltaNet", "HeadExperts", "ImageTower", "Indexer", "KimiDelta",
    "LatentAttention", "LayerCache", "LayerKind", "Lightning", "LowRank", "Mamba", "Mamba2", "Memories",
    "MergedExperts", "MixtureOfExperts", "ModalMamba", "MultiTaskExperts", "PatchEmbedding",
    "PooledAdapter", "RankExperts", "Reads", "RecurrentExperts", "Routed", "RoutedKind", "Run",
    "ShortConv", "SideInputs", "SlicedAttention", "SlicedFeedForward", "SpanAttention",
    "SparseLatentAttention", "State", "Weights", "is_routed", "layer_kind",
]  # fmt: skip
