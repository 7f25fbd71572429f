"""A part that stores KV somewhere else: blocks that a device evicts stay in a far memory, and prompts bring them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from opbyte.extend import CheckedOptions, Figures, InputError, Part, Quantity, add, described, real, whole
from opbyte.extend import engine as core

FAR = core.named("stored loaded", "ready_s link_s")
"""Blocks stored and loaded; when the last load ends, and seconds of all loads."""


@described
@dataclass(frozen=True, slots=True)
class FarOptions(CheckedOptions):
    """A memory outside the device that keeps KV blocks."""

    far_blocks: int | None = whole("Keep this number of evicted KV blocks in a far memory.", 1, 1 << 24, unit="blocks")
    far_rate: float | None = real("Bandwidth of loads from it; 10 GB/s unless given.", 1e-3, 1e5, unit="GB/s")


@core.by_address
class Far(NamedTuple):
    """State of the part in one engine: an entry holds one content, and a later one replaces it."""

    keys: Any  # [R, N] contents; 0: none
    bytes_per_s: float
    totals: Any  # [1] of `FAR`


@core.compiled_code
def on_evict(far: Far, state: Any, rank: int, block: int) -> None:
    """Store a block whose content other requests may have: keys of such contents are odd."""
    key = state.pool.blocks[rank, block].key
    if key & 1:
        far.keys[rank, core.place(key, far.keys.shape[1] - 1)] = key
        far.totals[0].stored += 1


@core.compiled_code
def on_arrival(far: Far, state: Any, limits: Any, kv_rules: Any, rank: int, index: int) -> None:
    """Load the blocks of a new prompt that the device has lost, as far as free blocks go."""
    content, pool, loaded = state.contents[index], state.pool, 0
    for j in range(min(content.hashed, state.requests[index].target - 1) // kv_rules.block):
        key = core.content_key(pool, content.hashes, content.hashed, index, j, kv_rules.block)
        if core.find(pool.table[rank], key) >= 0:
            continue
        if far.keys[rank, core.place(key, far.keys.shape[1] - 1)] != key or state.ranks[rank].blocks <= loaded:
            break
        core.take(state, rank, 1)
        core.give_back(pool, rank, core.remember(pool, rank, key), False)
        loaded += 1
    if loaded > 0:
        row, seconds = far.totals[0], loaded * core.kv_bytes(kv_rules, kv_rules.block) / far.bytes_per_s
        row.loaded += loaded
        row.link_s += seconds
        row.ready_s = max(row.ready_s, state.clocks[0].now) + seconds


@core.compiled_code
def begins(far: Far, state: Any, start: float) -> float:
    """Wait for loads before the next step."""
    return max(start, far.totals[0].ready_s)


class FarMemory(core.EnginePart):
    """The part in one engine."""

    hooks = ({"on_evict": on_evict, "on_arrival": on_arrival, "begins": begins},)

    def start(self, engine: Any) -> Far:
        if not engine.kv.cached:
            raise InputError("--far-blocks", "needs a policy with prefix caching, such as --policy vllm")
        blocks, rate = engine.deployment.parts["far-memory"]
        room = 1 << max(blocks.bit_length() - 1, 0)  # `place` needs a power of two
        return Far(np.zeros((engine.deployment.ranks, room), dtype=np.int64), rate * 1e9, core.records(1, FAR))


def collect(run: Any, served: Any, stream: Any, warmup: Any) -> tuple[int, int, float]:
    rows = [engine.parts["far-memory"].totals[0] for engine in served.engines]
    return int(sum(r.stored for r in rows)), int(sum(r.loaded for r in rows)), float(sum(r.link_s for r in rows))


FIGURES = Figures("far_memory", "Far memory", (
    Quantity("stored", "Blocks stored.", lambda left: left[0], label="blocks stored"),
    Quantity("loaded", "Blocks loaded.", lambda left: left[1], label="loaded"),
    Quantity("link_s", "Seconds of loads.", lambda left: left[2], "s", "of loads"),
))  # fmt: skip
add(
    Part(
        "far-memory", "--far-blocks", "a far memory of KV blocks", options=FarOptions, scope="deployment",
        asked=lambda a: a.part("far-memory") is not None,
        hooks={
            "value": lambda options, said: options.far_blocks and (options.far_blocks, options.far_rate or 10.0),
            "engine": FarMemory, "collect": collect, "figures": FIGURES,
        },
        cannot={"kv-tiers": "both store what a device evicts"}
        | dict.fromkeys(("sglang", "tensorrt-llm"), "its tree of prefixes has other blocks"),
    )
)  # fmt: skip

if __name__ == "__main__":
    from opbyte import simulate

    load = {
        "rate": 3.0,
        "requests": 600,
        "input_len": 3000,
        "output_len": 200,
        "turns": 5,
        "think": 60.0,
        "policy": "vllm",
    }
    for blocks in (None, 1 << 15, 1 << 18):
        run = simulate("llama-3-8b", "h100-x1", **load, far_blocks=blocks)
        print(blocks, f"{run.run.ttft_s.mean * 1e3:.1f} ms to the first token", run.to_dict().get("far_memory"))
