"""Layer kinds and models in detail, batches, routings and files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared

if TYPE_CHECKING:
    from opbyte.workloads.errors import CapacityError as CapacityError
    from opbyte.workloads.hf.read import model_from_keys as model_from_keys
    from opbyte.workloads.layers import AdapterExperts as AdapterExperts
    from opbyte.workloads.layers import Attention as Attention
    from opbyte.workloads.layers import BidirectionalAttention as BidirectionalAttention
    from opbyte.workloads.layers import FeedForward as FeedForward
    from opbyte.workloads.layers import HeadExperts as HeadExperts
    from opbyte.workloads.layers import LowRank as LowRank
    from opbyte.workloads.layers import Memories as Memories
    from opbyte.workloads.layers import MergedExperts as MergedExperts
    from opbyte.workloads.layers import MixtureOfExperts as MixtureOfExperts
    from opbyte.workloads.layers import ModalMamba as ModalMamba
    from opbyte.workloads.layers import PatchEmbedding as PatchEmbedding
    from opbyte.workloads.layers import PooledAdapter as PooledAdapter
    from opbyte.workloads.layers import RankExperts as RankExperts
    from opbyte.workloads.layers import RecurrentExperts as RecurrentExperts
    from opbyte.workloads.layers import SlicedAttention as SlicedAttention
    from opbyte.workloads.layers import SlicedFeedForward as SlicedFeedForward
    from opbyte.workloads.layers import SpanAttention as SpanAttention
    from opbyte.workloads.layers import is_routed as is_routed
    from opbyte.workloads.layers.base import elementwise as elementwise
    from opbyte.workloads.layers.linears import adaptable as adaptable
    from opbyte.workloads.model import Layer as Layer
    from opbyte.workloads.model import embedding_ops as embedding_ops
    from opbyte.workloads.model import head_ops as head_ops
    from opbyte.workloads.model import layer_ops as layer_ops
    from opbyte.workloads.numerics import BITS as BITS
    from opbyte.workloads.numerics import Numerics as Numerics
    from opbyte.workloads.registry import Registry as Registry
    from opbyte.workloads.routing import make_router as make_router
    from opbyte.workloads.vit_requests import task_sequence as task_sequence
    from opbyte.workloads.yamlfile import read_yaml as read_yaml

__all__, __getattr__ = declared(__name__, __file__)
