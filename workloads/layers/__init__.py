"""Layer kinds: one module each, registered by name in `LAYER_KINDS`."""

from .attention import Attention
from .attention_moe import ExpertAttention
from .base import LAYER_KINDS, LayerKind, Run, State, Weights, layer_kind
from .ffn import FeedForward
from .linear_state import GatedDeltaNet, Mamba
from .mla import LatentAttention
from .moe import MixtureOfExperts

__all__ = [
    "LAYER_KINDS",
    "Attention",
    "ExpertAttention",
    "FeedForward",
    "GatedDeltaNet",
    "LatentAttention",
    "LayerKind",
    "Mamba",
    "MixtureOfExperts",
    "Run",
    "State",
    "Weights",
    "layer_kind",
]
