"""KV cache capacity of a deployment: the tokens that fit on one device, in blocks per attention window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...workloads.errors import CapacityError, InputError
from ...workloads.jit import compiled_inside
from ...workloads.jit_address import by_address
from ...workloads.model import ModelSpec
from ..deploy.deployment import Deployment

BLOCK_TOKENS = 16
"""Tokens of one KV block (vLLM's default block_size)."""

MOST_BLOCKS = 1 << 25
"""Most blocks of one rank whose content is tracked: 3 GiB of tables if all have content."""


@compiled_inside
def blocks_of(tokens: int, block: int) -> int:
    """Return the number of blocks (or pages) that a number of tokens needs."""
    return (tokens + block - 1) // block


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """How an engine sets up its KV cache.

    Attributes
    ----------
    block_tokens : int
        Tokens of one block.
    blocks : int, optional
        Blocks of one rank; default: as many as fit in the device's memory.
    memory_bytes : float, optional
        Memory of one device for weights and cache together [B]. Default: the usable fraction in the device's description.
    prompt_room : int
        Prompt tokens per sequence for whose activations memory is reserved, in engines that compute all prompts of a batch
        without chunks. 0: none; the activations of a step fit in the unusable fraction of memory.
    tiers : kv_tiers.settings.TierSettings, optional
        KV tiers below device memory, which store evicted blocks.
    window_share : float, optional
        For engines with a separate KV pool of fixed size for window layers: its tokens over the tokens of the pool of the
        other layers. None: one pool for all layers, in which each sequence stores its windows.
    state_slots : float, optional
        For engines with a separate pool of constant states: the number of states in it. None: no such pool.
    found_again : bool
        Whether prefix caching works for models with windows or constant states, which then use blocks of the same pool
        (vLLM's hybrid KV cache manager).
    states_each : int
        States of a sequence; more than one if states are kept for other requests to resume from.
    resume_tokens : int
        States are kept at multiples of this number of tokens; 0: a prompt may resume at any block.
    """

    block_tokens: int = BLOCK_TOKENS
    blocks: int | None = None
    memory_bytes: float | None = None
    prompt_room: int = 0
    tiers: Any = None
    window_share: float | None = None
    state_slots: float | None = None
    found_again: bool = False
    states_each: int = 1
    resume_tokens: int = 0


@by_address
class KvRules(NamedTuple):
    """Rules for the KV bytes of a sequence on one device: blocks of every window class, and constant state."""

    window: npt.NDArray[np.int64]  # [C] tokens that each window class caches; 0: all
    block_bytes: npt.NDArray[np.float64]  # [C] bytes of one block over the layers of the class
    constant: float  # constant state of a sequence, and memory reserved for its prompt's activations [B]
    block: int  # tokens of one block
    capacity: float  # bytes for KV and state on one device
    cached: bool = False  # prefix caching: blocks are shared and found by their content
    bare_first: bool = False  # whether freed blocks without findable content are reused first
    resume: int = 0  # tokens between states that a prompt may resume from; 0: any block
    first: int = 0  # prompt tokens for which admission requires free memory; 0: all

    @property
    def blocks(self) -> int:
        """Return the number of whole blocks that fit; with a pool, blocks of the layers that cache all tokens."""
        size = float(self.block_bytes[0] if self.cached else self.block_bytes.sum())
        return int(self.capacity / size * (1 + 1e-12))


def kv_rules(deployment: Deployment, settings: CacheSettings | None = None, caching: bool = False) -> KvRules:
    """Return the KV bytes per sequence and the KV capacity of one device of a deployment.

    - Window layers cache at most their window. The bytes of every window class are rounded up to whole blocks.
    - Prefix caching uses the blocks of layers that cache all tokens. Models with windows or constant states run without
      it, unless the settings have `found_again`.
    - With `found_again`, windows and states use blocks of the same pool, which other requests cannot find. A prompt that
      resumes needs the last window before that point. It is assumed to be cached, because it was freed last.
    - With pipeline parallelism the stage that fills up first decides: all of vLLM's workers have the number of blocks of
      the worker with the fewest.

    Raises
    ------
    CapacityError
        The weights do not fit.
    InputError
        More blocks than can be tracked by their content.
    """
    settings = settings or CacheSettings()
    memories = deployment.memories(settings.memory_bytes)
    stages = zip(deployment.stages, memories, strict=True)
    rules = _of_all(
        [
            _stage_rules(stage, memory.kv, settings, deployment, stage is deployment.stages[-1])
            for stage, memory in stages
        ]
    )
    alone = rules.window.tolist() == [0] and rules.constant == 0
    if caching and (alone or settings.found_again) and rules.window[0] == 0 and rules.block_bytes[0] > 0:
        rules = rules._replace(cached=True, resume=settings.resume_tokens)
        if rules.blocks > MOST_BLOCKS:
            raise InputError(
                "num_gpu_blocks" if settings.blocks else "block_size",
                f"gives {rules.blocks:,} blocks of {rules.block} tokens; prefix caching tracks at most {MOST_BLOCKS:,}",
            )
        rules = rules._replace(capacity=rules.blocks * float(rules.block_bytes[0]))
    return rules


def rank_rules(deployment: Deployment, settings: CacheSettings) -> KvRules:
    """Return the KV bytes per sequence, summed over one device of each pipeline stage; the capacity is infinite."""
    return _stage_rules(deployment.shard, np.inf, settings, deployment)


def _stage_rules(
    held: ModelSpec, capacity: float, settings: CacheSettings, deployment: Deployment, last: bool = True
) -> KvRules:
    """Return the KV bytes and capacity of one device of a pipeline stage.

    The draft model is on the `last` stage and caches the same tokens in blocks of the same size. With speculative
    decoding, one more constant state is kept for each draft token.
    """
    classes, block = held.kv_classes() or {0: 0.0}, settings.block_tokens
    states = held.state_bytes_per_sequence * settings.states_each
    if settings.found_again:
        classes = dict(sorted(classes.items()))
    drafts = deployment.parts.get("drafts")
    if drafts is not None:
        states += held.state_bytes_per_sequence * drafts.tokens
        for w, size in ({} if drafts.draft is None or not last else drafts.draft.shard.kv_classes()).items():
            classes[w] = classes.get(w, 0.0) + size * drafts.copies
    if settings.window_share is not None and 0 in classes:  # window layers store `window_share` of all tokens
        classes = {0: sum(size * (settings.window_share if w else 1.0) for w, size in classes.items())}
    if settings.state_slots is not None:
        capacity -= settings.state_slots * held.state_bytes_per_sequence
        states = 0.0
    sizes = np.array([size * block for size in classes.values()])
    if settings.blocks is not None:
        capacity = float(settings.blocks * sizes.sum())
    window = np.array(list(classes), dtype=np.int64)
    constant = states + settings.prompt_room * held.working_bytes_per_token
    return KvRules(window, sizes, constant, block, capacity)


def _of_all(stages: list[KvRules]) -> KvRules:
    """Return rules that no pipeline stage exceeds, in bytes of the stage that fills up first.

    Each window class and the constant state count with their largest share of a stage's capacity over all stages, so the
    rules are conservative if the stages differ in these shares.
    """
    if len(stages) == 1:
        return stages[0]
    windows = list(dict.fromkeys(int(w) for rules in stages for w in rules.window))
    shares = np.zeros((len(stages), len(windows) + 1))  # of its capacity, by block and state
    for s, rules in enumerate(stages):
        at = [windows.index(int(w)) for w in rules.window]
        shares[s, at], shares[s, -1] = rules.block_bytes, rules.constant
        shares[s] /= rules.capacity or 1.0
    first = stages[int(shares.sum(axis=1).argmax())]
    sizes = shares.max(axis=0) * first.capacity
    return KvRules(np.array(windows, dtype=np.int64), sizes[:-1], float(sizes[-1]), first.block, first.capacity)


def sequence_bytes(rules: KvRules, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the KV bytes of sequences with `tokens` cached tokens on one device, shaped as `tokens`."""
    size = np.full(tokens.shape, rules.constant)
    for window, block_bytes in zip(rules.window, rules.block_bytes, strict=True):
        kept = np.minimum(tokens, window) if window else tokens
        size = size + block_bytes * -(-kept // rules.block)
    return size


def sequences_that_fit(rules: KvRules, tokens: int) -> int:
    """Return the number of sequences with `tokens` cached tokens each whose caches fit on one device."""
    return int(rules.capacity / float(sequence_bytes(rules, np.array([tokens]))[0]) * (1 + 1e-12))


def check_fits(
    rules: KvRules,
    inputs: npt.NDArray[np.int64],
    outputs: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int64],
    where: str,
) -> None:
    """Refuse requests whose KV cache exceeds even an idle engine's capacity; they would wait forever.

    Raises
    ------
    CapacityError
        Names the first such request, with needed and available GiB per device.
    """
    need = sequence_bytes(rules, inputs + outputs - 1)
    bad = np.flatnonzero(need > rules.capacity)
    if len(bad):
        i = int(bad[0])
        raise CapacityError(
            where,
            f"request {ids[i]} ({inputs[i]} tokens in, {outputs[i]} out) needs "
            f"{need[i] / 2**30:.2f} GiB of KV cache per device, {rules.capacity / 2**30:.2f} GiB "
            "available",
        )
