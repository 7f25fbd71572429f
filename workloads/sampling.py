"""How a step's logits become tokens, as bytes moved per word of the vocabulary and sequence.

Traffic follows vLLM's sampler (``Sampler`` in vllm/v1/sample/sampler.py, PyTorch's kernels), each
tensor read or written once a kernel, logits in 32 bits:

- any: cast from 16 to 32 bits (6 bytes), largest value of a row (4);
- random: divide by the temperature (8), softmax (8), exponential noise (4), divide by it (12);
- nucleus (top-p or top-k): every row is sorted (``apply_top_k_top_p_pytorch`` in
  vllm/v1/sample/ops/topk_topp_sampler.py). PyTorch sorts up to 127 rows as one array of 32-bit keys
  with 8 bytes beside them and then by row (``segmented_sort_pairs_by_full_sort`` in
  aten/src/ATen/native/cuda/SortStable.cu): positions (8), a radix sort's histogram (4) and four passes
  of 8 bits (4 x 24), one of 8-byte keys with its histogram (24), values and positions (24). Then
  softmax (8), sum (8), compare (5), mask (9) and scatter back (24).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

NONE, GREEDY, RANDOM, NUCLEUS = "none", "greedy", "random", "nucleus"
SAMPLING = (NONE, GREEDY, RANDOM, NUCLEUS)
"""What follows the logits; "none" where nothing is said of an engine."""

SAMPLE_BYTES: Mapping[str, float] = {NONE: 0.0, GREEDY: 10.0, RANDOM: 42.0, NUCLEUS: 42.0}
"""Bytes per logit of what every row goes through."""
SORT_BYTES: Mapping[str, float] = {NONE: 0.0, GREEDY: 0.0, RANDOM: 0.0, NUCLEUS: 210.0}
"""Bytes per logit of the sort and what uses it."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """How requests that say nothing are sampled from a checkpoint under vLLM.

    Attributes
    ----------
    names : tuple of str
        Parts of the checkpoint's name on the hub, in lower case.
    sampling : str
        One of `SAMPLING`.
    source : str
    """

    names: tuple[str, ...]
    sampling: str
    source: str


CHECKPOINTS = (
    Defaults(("codellama",), RANDOM, "no sampling keys in generation_config.json"),
    Defaults(("llama-2-",), NUCLEUS, "generation_config.json: temperature 0.6, top_p 0.9"),
    Defaults(("llama-3", "llama-4-scout", "llama-4-maverick"), NUCLEUS,
             "generation_config.json: temperature 0.6, top_p 0.9"),
    Defaults(("qwen2.5-", "qwen2-"), NUCLEUS,
             "generation_config.json of the instruct models: temperature 0.7, top_p 0.8, top_k 20"),
    Defaults(("qwen3",), NUCLEUS, "generation_config.json: temperature 0.6, top_p 0.95, top_k 20"),
)  # fmt: skip
"""The first entry whose name a checkpoint's contains. vLLM follows a checkpoint's
``generation_config.json`` unless told otherwise, and samples at temperature 1 where it says nothing."""


def checkpoint_sampling(name: str) -> str:
    """How vLLM samples from a checkpoint of this name when a request says nothing.

    Examples
    --------
    >>> checkpoint_sampling("meta-llama/Llama-2-7b-hf"), checkpoint_sampling("mistralai/Mixtral-8x7B")
    ('nucleus', 'random')
    """
    found = name.lower()
    for known in CHECKPOINTS:
        if any(part in found for part in known.names):
            return known.sampling
    return RANDOM


def asked_sampling(values: Mapping[str, Any]) -> str:
    """The kind of sampling that ``temperature``, ``top_p`` and ``top_k`` ask for.

    Examples
    --------
    >>> asked_sampling({"temperature": 0}), asked_sampling({"top_p": 0.9}), asked_sampling({})
    ('greedy', 'nucleus', 'random')
    """
    if values.get("temperature", 1.0) == 0:
        return GREEDY
    nucleus = values.get("top_p", 1.0) < 1.0 or values.get("top_k", 0) not in (0, -1)
    return NUCLEUS if nucleus else RANDOM
