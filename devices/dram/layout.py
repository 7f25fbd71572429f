"""Data layout in a device's DRAM: its standard, address mapping, and blocks of the KV cache."""

from __future__ import annotations

from typing import Literal

from ...workloads.specfile import Spec
from ..lines import Count


class DataLayout(Spec):
    """What a device's memory is made of, and where its bytes lie.

    Attributes
    ----------
    standard : str
        Name of a DRAM standard, or its YAML file (relative to the file that names it).
    mapping : str
        Address bits of a channel; see :mod:`.state`.
    interleave_bytes : int
        Bytes in sequence on one channel before the next one follows. 256 is the width of a partition of NVIDIA's GPUs
        ("Optimizing Matrix Transpose in CUDA", 2009, section on partition camping).
    kv_block_tokens : int
        Tokens of a KV block; 16 is vLLM's default.
    kv_pieces : int
        Separate pieces of a block: keys and values (2, as in vLLM), or all in one (1, as a cache of latents always).
    """

    standard: str
    mapping: str = "col64"
    interleave_bytes: Count = 256
    kv_block_tokens: Count = 16
    kv_pieces: Literal[1, 2] = 2

    def page_bytes(self, token_bytes: float, tensors: int) -> float:
        """Return one piece of a KV block [B], from the bytes of a token and the number of tensors."""
        return token_bytes * self.kv_block_tokens / min(self.kv_pieces, tensors)

    def on_channel(self, size_bytes: float, channels: int) -> float:
        """Return the bytes of a piece of `size_bytes` on one of the channels that contain it [B]."""
        turns = size_bytes // self.interleave_bytes
        if turns < 1:
            return size_bytes
        return max(1.0, round(turns / channels)) * self.interleave_bytes
