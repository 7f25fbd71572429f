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
from .fusion import Fusion
from .indexer import Indexer
from .kimi_delta import KimiDelta
from .linear_state import GatedDeltaNet, Mamba
from .lora import LowRank
from .mamba2 import Lightning, Mamba2
from .mla import LatentAttention
from .moe import MixtureOfExperts
from .published.attention_mixture import AttentionMixture
from .published.head_experts import HeadExperts
from .published.memories import Memories
from .published.merged import MergedExperts
from .published.mixlora import AdapterExperts
from .published.modal import ModalMamba
from .published.rmoe import RecurrentExperts
from .published.shard_pool import PooledAdapter
from .published.slices import SlicedAttention, SlicedFeedForward
from .published.smora import RankExperts
from .published.spans import SpanAttention
from .short_conv import ShortConv
from .side_inputs import SideInputs
from .sparse_latent import SparseLatentAttention
from .tower import ImageTower
from .vit import BidirectionalAttention, MultiTaskExperts, PatchEmbedding

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
