"""Names of what requests' blocks hold, as an engine's prefix cache knows them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from ...workloads.errors import InputError
from ...workloads.requests import RequestBlock
from ..batching.kv import KvRules
from ..batching.prefix import ALL_TOKENS, Pool, session_key
from ..batching.state import State


def check_hashes(kv_rules: KvRules, block: RequestBlock) -> None:
    """Refuse prefix hashes that blocks of this size cut.

    Raises
    ------
    InputError
    """
    known = block.hash_ids is not None or block.turns is not None
    if kv_rules.cached and known and block.hash_tokens % kv_rules.block:
        raise InputError(
            "block_size", f"must divide the {block.hash_tokens} tokens of a prefix hash, not be {kv_rules.block}"
        )


@dataclass(slots=True)
class Contents:
    """Numbers of the hashes that a trace tells, in order of their first use."""

    numbers: dict[Hashable, int] = field(default_factory=dict)
    used: int = 0  # entries of `Pool.hashes` that are taken

    def name(self, block: RequestBlock, state: State, pool: Pool) -> State:
        """Name the content of requests just added: by a trace's hashes, or their session."""
        ids, counters = block.hash_ids, state.counters[0]
        rows = state.contents[int(counters.submitted) - len(block) : counters.submitted]
        if ids is None:
            if block.turns is not None:
                rows.hashes = session_key(block.turns.session)
                rows.hashed = block.input_tokens + block.output_tokens
            return state
        numbers = [self.numbers.setdefault(h, len(self.numbers)) for own in ids for h in own]
        counts = np.array([len(own) for own in ids], dtype=np.int64)
        first, last = self.used, self.used + len(numbers)
        rows.hashes = first + np.cumsum(counts) - counts
        shared = ALL_TOKENS if block.shared_tokens is None else block.shared_tokens
        rows.hashed = np.minimum(np.minimum(counts * block.hash_tokens, block.input_tokens), shared)
        if block.shared_tokens is not None and block.turns is not None:
            rows.hashed = block.input_tokens + block.output_tokens
        pool = pool._replace(piece=block.hash_tokens, shared=shared)
        if last > len(pool.hashes):  # doubled, so that adding is linear
            pool = pool._replace(hashes=np.resize(pool.hashes, 2 * last))
        pool.hashes[first:last] = numbers
        self.used = last
        return state._replace(pool=pool)
