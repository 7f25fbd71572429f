"""Cost of sampling tokens from a step's logits, as bytes moved per logit (vocabulary word and sequence).

Traffic follows vLLM's sampler (``Sampler`` in vllm/v1/sample/sampler.py, PyTorch's kernels), each tensor read or
written once a kernel, logits in 32 bits. Any: cast from 16 to 32 bits (6 bytes), largest value of a row (4). Random:
divide by the temperature (8), softmax (8), exponential noise (4), divide by it (12). Nucleus (top-p or top-k): every
row is sorted (``apply_top_k_top_p_pytorch`` in vllm/v1/sample/ops/topk_topp_sampler.py); PyTorch sorts up to 127 rows
as one array of 32-bit keys with 8 bytes each and then by row (``segmented_sort_pairs_by_full_sort`` in
aten/src/ATen/native/cuda/SortStable.cu): positions (8), a radix sort's histogram (4) and four passes of 8 bits (4 x
24), one of 8-byte keys with its histogram (24), values and positions (24); then softmax (8), sum (8), compare (5), mask
(9) and scatter back (24). Min-p: softmax (8), largest (4), compare (5), mask (9). Penalties (repetition, frequency,
presence; vllm/model_executor/layers/utils.py): 64-bit count tables of prompts and outputs, scattered, compared and
subtracted in several passes; their kernels name 85 bytes, measured is ten times that, see `PENALTY_BYTES`. Logprobs:
log-softmax (8), the tokens above the sampled one (5), the largest ones (radix selection, 4 passes of 4). A row is
sampled on every device that stores it whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError, SpecError, check_known, typed_number

NONE, GREEDY, RANDOM, NUCLEUS = "none", "greedy", "random", "nucleus"
SAMPLING = (NONE, GREEDY, RANDOM, NUCLEUS)
"""Known kinds of sampling; "none" if the engine's sampling is unknown."""

PENALTIES, MIN_P, LOGPROBS = "penalties", "min-p", "logprobs"
PENALTY_BYTES = 800.0
"""Bytes per logit that penalties are worth at the rate of an H100's memory: least mean |log error| of the median
gap between tokens of three dense models on one H100 under vLLM 0.11 (ML.ENERGY v3.0, chats with
penalty 1.1, 8 to 768 sequences; median error 2.2 %, 3.4 to 4.8 with a model left out). Per logit, not per
sequence: vocabularies of 128 to 262 thousand words agree; and on the device, whose board is at its limit
there. Assumed of other engines and versions."""
PENALTY_MOVED = 85.0
"""Bytes per logit that kernels of penalties read and write, counted above. Bytes beyond these are time in which kernels wait, without energy."""
EXTRAS: Mapping[str, float] = {PENALTIES: PENALTY_BYTES, MIN_P: 26.0, LOGPROBS: 29.0}
"""Bytes per logit of optional extras; a name has the form KIND+EXTRA+EXTRA."""

_SAMPLE: Mapping[str, float] = {NONE: 0.0, GREEDY: 10.0, RANDOM: 42.0, NUCLEUS: 42.0}
_SORT: Mapping[str, float] = {NONE: 0.0, GREEDY: 0.0, RANDOM: 0.0, NUCLEUS: 210.0}
FACTORS = ("repetition_penalty", "frequency_penalty", "presence_penalty")
NEUTRAL: Mapping[str, float] = {
    "temperature": 1.0, "top_p": 1.0, "top_k": 0.0, "min_p": 0.0, "repetition_penalty": 1.0,
    "frequency_penalty": 0.0, "presence_penalty": 0.0, "logprobs": 0.0,
}  # fmt: skip
"""Sampling parameters of requests, as vLLM names them, with the values that have no effect."""
RANGES: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 1e3), "top_p": (0.0, 1.0), "top_k": (-1.0, 1e9), "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 1e3), "frequency_penalty": (-1e3, 1e3),
    "presence_penalty": (-1e3, 1e3), "logprobs": (0.0, 1e3),
}  # fmt: skip


def sample_bytes(sampling: str) -> float:
    """Return the bytes per logit of sampling without the sort.

    Examples
    --------
    >>> sample_bytes("greedy"), sample_bytes("nucleus+penalties")
    (10.0, 842.0)
    """
    kind, *extras = sampling.split("+")
    return _SAMPLE[kind] + sum(EXTRAS[name] for name in extras)


def sort_bytes(sampling: str) -> float:
    """Return the bytes per logit of the sort and of the ops that use the sorted logits."""
    return _SORT[sampling.partition("+")[0]]


def moved_share(sampling: str) -> float:
    """Share of the bytes above that kernels move, which takes energy.

    Examples
    --------
    >>> moved_share("greedy"), round(moved_share("nucleus+penalties"), 2)
    (1.0, 0.32)
    """
    if PENALTIES not in sampling:
        return 1.0
    return 1.0 - (PENALTY_BYTES - PENALTY_MOVED) / (sample_bytes(sampling) + sort_bytes(sampling))


@dataclass(frozen=True, slots=True)
class Defaults:
    """The kind of sampling under vLLM for requests that set no parameters, for some checkpoints.

    Attributes
    ----------
    names : tuple of str
        Parts of the checkpoint's name on the hub, in lower case.
    sampling : str
        One of `SAMPLING`.
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
"""Known checkpoints; the first entry whose name is part of the checkpoint's name is used. By default vLLM follows a
checkpoint's ``generation_config.json``, with temperature 1 if it is not given."""


def checkpoint_sampling(name: str) -> str:
    """Return how vLLM samples from a checkpoint of this name for requests without sampling parameters.

    Examples
    --------
    >>> checkpoint_sampling("meta-llama/Llama-2-7b-hf"), checkpoint_sampling("mistralai/Mixtral-8x7B")
    ('nucleus', 'random')
    """
    lowered = name.lower()
    for known in CHECKPOINTS:
        if any(part in lowered for part in known.names):
            return known.sampling
    return RANDOM


def asked_sampling(values: Mapping[str, Any]) -> str:
    """Return the kind of sampling for a request's sampling parameters.

    Examples
    --------
    >>> asked_sampling({"temperature": 0}), asked_sampling({"top_p": 0.9}), asked_sampling({})
    ('greedy', 'nucleus', 'random')
    >>> asked_sampling({"temperature": 0, "logprobs": 5, "min_p": 0.1, "presence_penalty": 0.5})
    'greedy+penalties+logprobs'
    """
    kind = _kind(values)
    extras = []
    if any(values.get(key, NEUTRAL[key]) != NEUTRAL[key] for key in FACTORS):
        extras.append(PENALTIES)
    if values.get("min_p", 0.0) > 0.0 and kind != GREEDY:
        extras.append(MIN_P)
    if values.get("logprobs", 0.0) > 0.0:
        extras.append(LOGPROBS)
    return "+".join((kind, *extras))


def _kind(values: Mapping[str, Any]) -> str:
    if values.get("temperature", 1.0) == 0:
        return GREEDY
    nucleus = values.get("top_p", 1.0) < 1.0 or values.get("top_k", 0) not in (0, -1)
    return NUCLEUS if nucleus else RANDOM


def parse_sampling(text: str) -> str:
    """Parse a kind of sampling by name, or from a request's parameters as ``KEY=VALUE,...``.

    Raises
    ------
    InputError
        Neither a known name nor known keys with values in range.

    Examples
    --------
    >>> parse_sampling("nucleus"), parse_sampling("temperature=0.8,top_p=0.95,repetition_penalty=1.1")
    ('nucleus', 'nucleus+penalties')
    """
    if "=" not in text:
        kind, *extras = text.split("+")
        if kind not in SAMPLING or any(name not in EXTRAS for name in extras):
            kinds, more = ", ".join(SAMPLING), ", ".join(EXTRAS)
            wanted = f"one of {kinds} with +{more}, or KEY=VALUE,... of {', '.join(NEUTRAL)}"
            raise InputError("--sampling", f"must be {wanted}; it is {text[:60]!r}")
        return text
    values: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        check_known("--sampling", key, NEUTRAL, f"unknown key {key[:40]!r}")
        low, high = RANGES[key]
        values[key] = typed_number(value)
        if not low <= values[key] <= high:
            reason = f"{key} must be in [{low:g}, {high:g}], not {value[:40]!r}"
            raise InputError("--sampling", reason)
    return asked_sampling(values)


def sampling_named(text: str, model: str) -> str:
    """Return the kind of sampling that the value of option ``--sampling`` means.

    Parameters
    ----------
    text : str
        A kind, parameters, the path of a ``generation_config.json``, or "checkpoint".
    model : str
        Name of the model, by which a checkpoint's own parameters are known.

    Raises
    ------
    InputError
        If it is not one of these, or a file cannot be read.
    """
    if text == "checkpoint":
        return checkpoint_sampling(model)
    if not text.endswith(".json"):
        return parse_sampling(text)
    from .hf.json_file import read_json_object  # of no use without a file

    path = Path(text)
    values = read_json_object(path)
    for key in NEUTRAL:
        value = values.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise SpecError(path, f"{key}: must be a number, not {str(value)[:40]!r}")
    if values.get("do_sample") is False:
        values = {**values, "temperature": 0.0}
    return asked_sampling({key: values[key] for key in NEUTRAL if values.get(key) is not None})
