"""Are KV blocks found again by their content, and only then?

Expected figures are counted by hand from the rules of vLLM's block pool (kv_cache_manager.py and
block_pool.py of version 0.19): a prompt's leading full blocks are reused, its last token never;
freed blocks stay findable until they are handed out, the one freed longest ago first; a sequence
frees its last block first. `test_scheduler.py` compares random workloads with a slow scheduler.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opbyte.devices.catalog import load_system
from opbyte.simulator.deploy.deployment import Deployment, deploy
from opbyte.simulator.engine.engine import Engine
from opbyte.simulator.engine.kv import MOST_BLOCKS, CacheSettings
from opbyte.simulator.engine.policies import make_policy
from opbyte.simulator.engine.prefix import Pool, find, forget, new_pool, remember
from opbyte.simulator.engine.state import LogColumn
from opbyte.simulator.fleet.run import run
from opbyte.workloads.catalog import load_model
from opbyte.workloads.errors import InputError
from opbyte.workloads.jit import compiled
from opbyte.workloads.requests import RequestBlock, open_requests

from .deployments import small

PROMPT = 512
"""Tokens of one prefix hash."""

Turn = tuple[float, int, int, tuple[int, ...]]
"""Arrival [s], prompt and output tokens, prefix hashes."""


def served(
    deployment: Deployment, turns: Sequence[Turn], blocks: int = 10_000, block: int = 16, budget: int = 8192
) -> Engine:
    """Run requests under policy ``vllm``."""
    policy = make_policy("vllm", token_budget=budget)
    return ran(Engine(deployment, policy, keep_log=True, cache=CacheSettings(block, blocks)), turns)


def ran(engine: Engine, turns: Sequence[Turn]) -> Engine:
    arrival, inputs, outputs, hashes = zip(*turns, strict=True)
    engine.submit(RequestBlock(np.arange(len(turns)), np.array(arrival), np.array(inputs), np.array(outputs), hashes))
    engine.advance(math.inf)
    return engine


def hits(engine: Engine) -> int:
    return int(engine.state.counters[0].hits)


def test_leading_blocks_are_shared() -> None:
    """1,024 of 1,300 tokens are the same; the third differs from its first block on."""
    turns = [(0.0, 1300, 2, (1, 2, 3)), (1.0, 1300, 2, (1, 2, 4)), (2.0, 1300, 2, (5, 2, 3))]
    engine = served(small("llama-3-8b"), turns)
    assert hits(engine) == 1024
    assert engine.state.counters[0].prompt_tokens == 3 * 1300 - 1024


def test_the_last_token_is_always_computed() -> None:
    """Of an equal prompt of whole blocks the last block is computed again, for its logits."""
    engine = served(small("llama-3-8b"), [(0.0, 1024, 1, (1, 2)), (1.0, 1024, 1, (1, 2))])
    assert hits(engine) == 1024 - 16


def test_half_a_block_is_not_shared() -> None:
    """Hashes cover all 1,000 tokens, full blocks of 16 only 992 of them."""
    engine = served(small("llama-3-8b"), [(0.0, 1000, 1, (1, 2)), (1.0, 1000, 1, (1, 2))])
    assert hits(engine) == 992


def test_shared_within_one_step() -> None:
    """Equal prompts admitted together: the second uses what the first is about to compute."""
    engine = served(small("llama-3-8b"), [(0.0, 600, 1, (1, 2))] * 2)
    assert hits(engine) == 592
    assert np.concatenate(engine.logs)[:, LogColumn.PREFILL].tolist() == [600 + 8]


def test_a_chunk_that_ends_with_a_block() -> None:
    """Chunks of 1,000 and 24 tokens fill the second block of 512, without taking another."""
    turns = [(0.0, 1024, 1, (1, 2)), (0.0, 1536, 1, (1, 2, 3))]
    engine = served(small("llama-3-8b"), turns, block=512, budget=1000)
    assert hits(engine) == 1024


def test_freed_longest_ago_goes_first() -> None:
    """Of two prompts of two blocks in a pool of five, three new blocks leave the second's start.

    The free queue is then: one never used, first prompt's last and first block, second's last
    and first.
    """
    base: list[Turn] = [(0.0, 1024, 1, (1, 2)), (1.0, 1024, 1, (3, 4)), (2.0, 1536, 1, (5, 6, 7))]
    asks: list[Turn] = [(3.0, 1024, 1, (1, 2)), (3.0, 1024, 1, (3, 4))]
    for ask, expected in zip(asks, (0, 512), strict=True):
        assert hits(served(small("llama-3-8b"), [*base, ask], blocks=5, block=512)) == expected


@pytest.mark.parametrize("policy", ["vllm", "sglang", "tensorrt-llm"])
@pytest.mark.parametrize("turns", [None, 3.0])
def test_a_shared_system_prompt(policy: str, turns: float | None) -> None:
    """Whole blocks of 16 of 700 tokens (688) are found by all but the first prompt of each of two starts; of a session,
    also what the request before left: its prompt and all but the last token of its output, in whole blocks."""
    stream = open_requests(rate=0.01, input_len=100, output_len=20, prefix_len=700, prefixes=2, turns=turns, limit=40)
    block = stream.read()
    found = run(small("llama-3-8b"), make_policy(policy), stream).cached_tokens
    starts = [ids[0] for ids in block.hash_ids or ()]
    known = [688 * (ids in starts[:i]) for i, ids in enumerate(starts)]
    assert block.input_tokens[0] == 800
    assert len(set(starts)) == 2
    if block.turns is not None:
        for i, before in enumerate(block.turns.follows.tolist()):
            if before >= 0:
                known[i] = (int(block.input_tokens[before]) + 19) // 16 * 16
                assert starts[i] == starts[before]
    assert found == sum(known)


def test_no_hashes_no_hits() -> None:
    """Content decides, not length: prompts without hashes are never taken for equal."""
    assert hits(served(small("llama-3-8b"), [(float(i), 640, 4, ()) for i in range(5)])) == 0


def test_preempted_requests_find_their_own() -> None:
    """Two requests outgrow the pool: the later one is preempted and does not start from nothing."""
    engine = served(small("llama-3-8b"), [(0.0, 64, 100, ())] * 2, blocks=14)
    assert engine.state.counters[0].preemptions > 0
    assert hits(engine) > 0
    recomputed = engine.state.counters[0].prompt_tokens + hits(engine) - 128
    assert recomputed > hits(engine) > 0


def test_ranks_do_not_share() -> None:
    """Two replicas' ranks have a pool each: of four equal prompts one a rank is computed."""
    deployment = small("mixtral-8x7b", "h100-2x2", "uniform")
    assert deployment.ranks == 2
    turns = [(0.0, 600, 1, (1, 2))] * 2 + [(1.0, 600, 1, (1, 2))] * 2
    assert hits(served(deployment, turns)) == 2 * 592


def test_windows_and_states_go_without() -> None:
    for name in ("windowed", "jamba-mini"):
        engine = Engine(small(name), make_policy("vllm"))
        assert not engine.kv.cached


def test_blocks_must_divide_a_hash() -> None:
    with pytest.raises(InputError, match=r"block_size.*divide the 512"):
        served(small("llama-3-8b"), [(0.0, 600, 1, (1, 2))], block=48)


def test_more_blocks_than_can_be_tracked() -> None:
    cache = CacheSettings(16, MOST_BLOCKS + 1)
    with pytest.raises(InputError, match=r"num_gpu_blocks.*at most"):
        Engine(small("llama-3-8b"), make_policy("vllm"), cache=cache)


def known_reuse(path: Path) -> tuple[int, int]:
    """Prompt blocks of a trace, and those a prefix match in an endless cache has seen before."""
    seen: set[int] = set()
    total = reused = 0
    for line in path.read_text().splitlines():
        ids = json.loads(line)["hash_ids"]
        run = next((j for j, h in enumerate(ids) if h not in seen), len(ids))
        total, reused = total + len(ids), reused + run
        seen.update(ids)
    return total, reused


def test_mooncake_reuse(data_set: Callable[[str], Path]) -> None:
    """README of $OPBYTE_DATA/traces: 35.3 % of the slice's prompt blocks were seen before.

    The engine reuses whole blocks only and computes every prompt's last token, so it finds that
    less the last blocks that the count includes.
    """
    path = data_set("traces") / "mooncake_conversation_trace.first9000.jsonl"
    total, reused = known_reuse(path)
    assert reused / total == pytest.approx(0.353, abs=5e-4)
    stream = open_requests(path)
    # Enough memory for all that ever comes, so that nothing is evicted or preempted.
    result = run(small("llama-3-8b"), make_policy("vllm"), stream, cache=CacheSettings(PROMPT, 400_000))
    assert result.preemptions == 0
    assert result.cached_tokens % PROMPT == 0
    found = result.cached_tokens // PROMPT
    assert result.prompt_tokens + result.cached_tokens == result.requests.input_tokens.sum()
    assert found / total == pytest.approx(0.353, abs=2e-3)
    assert 0 <= reused - found <= len(result.requests.request_id)


def hybrid(deployment: Deployment, turns: Sequence[Turn], *, budget: int = 8192, **cache: float) -> Engine:
    """Run requests under policy ``vllm`` with windows or states in the pool of all blocks."""
    settings = CacheSettings(16, found_again=True, **cache)  # type: ignore[arg-type]  # by name
    engine = ran(Engine(deployment, make_policy("vllm", token_budget=budget), cache=settings), turns)
    assert engine.done
    assert engine.state.ranks.blocks[0] == engine.kv.blocks  # all came back
    return engine


def test_prompts_of_models_with_windows_are_found() -> None:
    """As many tokens as without windows; and without the hybrid manager none."""
    turns = [(0.0, 1300, 2, (1, 2, 3)), (1.0, 1300, 2, (1, 2, 4)), (2.0, 1300, 2, (5, 2, 3))]
    deployment = small("gpt-oss-20b")
    engine = hybrid(deployment, turns)
    assert hits(engine) == 1024
    assert hits(served(deployment, turns)) == 0


def test_windows_take_blocks_of_the_same_pool() -> None:
    """A sequence's bytes are those of its tokens and its windows, in whole blocks; little memory preempts, and all ends."""
    deployment = small("gpt-oss-20b")
    engine = hybrid(deployment, [(0.0, 1300, 200, (1, 2, 3))])
    full, window = sorted(engine.kv.block_bytes.tolist(), reverse=True)
    kept = 128 // 16 * engine.kv.block_bytes[1]
    assert engine.kv.window.tolist() == [0, 128]
    peak = engine.state.clocks[0].kv_peak
    assert peak == (math.ceil(1499 / 16) + math.ceil(kept / engine.kv.block_bytes[0])) * engine.kv.block_bytes[0]
    assert full >= window > 0.0
    weights = deployment.memory().weights
    tight = hybrid(deployment, [(0.0, 1300, 200, ())] * 4, memory_bytes=weights + 1.9 * peak)
    assert tight.state.counters[0].preemptions > 0


def test_prompts_resume_where_a_state_is_kept() -> None:
    """A state is kept at the last multiple of 528 tokens that a step reaches: a prefix that ends before it is of no use."""
    turns = [(0.0, 1300, 2, (1, 2, 3)), (1.0, 1300, 2, (1, 2, 4))]
    model = load_model("qwen3-next-80b-a3b")
    two = replace(model, layers=model.layers[2:4])  # one with a state, one with attention
    deployment = deploy(two, load_system("h100-x1"))
    assert hits(hybrid(deployment, turns, resume_tokens=528, states_each=2)) == 0  # at 1,056, and 1,024 are alike
    assert hits(hybrid(deployment, turns, resume_tokens=528, states_each=2, budget=528)) == 528
    assert hits(hybrid(deployment, turns, resume_tokens=512, states_each=2)) == 1024
    assert hits(hybrid(deployment, turns)) == 1024


@pytest.mark.parametrize(("first", "early"), [(False, False), (True, True)])
def test_admission_by_the_first_chunk(first: bool, early: bool) -> None:
    """Of 100 blocks the first prompt has 50: the second one's 75 do not fit, its first chunk's 25 do, and its end preempts."""
    policy = replace(make_policy("vllm", token_budget=400), first_chunk=first)
    engine = Engine(small("llama-3-8b"), policy, cache=CacheSettings(16, 100))
    engine.submit(RequestBlock(np.arange(2), np.zeros(2), np.array([800, 1200]), np.array([100, 10]), ((), ())))
    engine.advance(math.inf)
    assert engine.done
    assert (engine.state.counters[0].preemptions > 0) == early


@compiled
def change(pool: Pool, adds: bool, what: int) -> int:
    """Give a block the content with key `what`, or forget the content of block `what`; return the block."""
    if adds:
        return int(remember(pool, 0, what))
    forget(pool, 0, what)
    return what


@compiled
def found(pool: Pool, key: int) -> int:
    return int(find(pool.table[0], key))


def test_a_content_is_found_until_its_last_block_is_forgotten() -> None:
    """Half of the table is in use, so keys share places; checked against lists of each content's blocks."""
    pool, blocks, rng = new_pool(1, 8, 1), {key: list[int]() for key in range(1, 42)}, np.random.default_rng(1)
    for at in rng.integers(1, 42, 2000).tolist():
        used = [(key, block) for key, of in blocks.items() for block in of]
        if len(used) < 8 and rng.random() < 0.7:
            blocks[at].append(change(pool, True, at))
        elif used:
            key, block = used[at % len(used)]
            change(pool, False, block)
            blocks[key].remove(block)
        assert [found(pool, key) for key in blocks] == [(of or [-1])[0] for of in blocks.values()]
