"""Compiled random samples of expert loads, used by both the explicit and the compiled simulation.

A sample depends only on its key (seed, replica, step, layer), so it can be repeated in any order. Random bits come from
SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .jit import compiled, compiled_part, int64
from .jit_address import by_address

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
THRICE = np.uint64(3 * 0x9E3779B97F4A7C15 % 2**64)
S11, S27, S30, S31, S32 = (np.uint64(n) for n in (11, 27, 30, 31, 32))
LOW = np.uint64(0xFFFFFFFF)
PAIRS, FOURS, BYTES, SUM = (np.uint64((2**64 - 1) // n) for n in (3, 5, 17, 255))
S1, S2, S4, S56 = (np.uint64(n) for n in (1, 2, 4, 56))

(R_PROB, R_INCLUSION, R_CUMULATIVE) = range(3)
"""Row indices of a router's table for one layer: probability of each expert for one of a token's choices, probability
that it is among a token's distinct experts, cumulative sum of the probabilities."""


@by_address
class Scratch(NamedTuple):
    """Workspace of the samplers, allocated by the caller because the compiled samplers allocate no memory."""

    own: F8  # [3, E] the table of one prompt's own router
    value: F8  # [E] loads of many tokens at once
    spread: F8  # [E] their variance
    mark: I8  # [E] the token that an expert was last chosen for
    chosen: I8  # [E] experts of a token
    last: I8  # [E] experts of the token before


class StepTokens(NamedTuple):
    """Tokens of a step: of all decodes, and tokens and sequence of each prompt chunk (first `num_chunks` columns)."""

    decodes: int
    chunks: I8  # [2, n]
    num_chunks: int


class LayerRouting(NamedTuple):
    """Settings of a layer's routing of tokens to experts; see `routing.Routing`."""

    experts: int
    top_k: int
    uniform: bool
    router: F8  # [3, E] the layer's `R_` rows
    tilt: float
    persist: float
    pool: int


class SampleKeys(NamedTuple):
    """Random states from which the samples of a step are derived."""

    step: np.uint64
    prompts: np.uint64  # of prompts' own distributions: the same in every step
    pool: np.uint64  # of the samples that steps share: the same for all replicas


PROMPT_SEED = 0x5EED
"""Seed of each prompt's expert distribution, separate from the seed of the loads sampled from it."""

EXACT_TOKENS = 256
"""Largest number of tokens whose experts are sampled token by token."""

NORMAL_MEAN = 24.0
"""Mean load above which more than `EXACT_TOKENS` tokens are sampled as rounded normal loads of exact covariance and
sum."""


@compiled_part
def mix(x: np.uint64) -> np.uint64:
    """Apply SplitMix64's output function to a 64-bit state."""
    x = (x ^ (x >> S30)) * MIX_1
    x = (x ^ (x >> S27)) * MIX_2
    return x ^ (x >> S31)


@compiled_part
def count_ones(x: np.uint64) -> int:
    """Count the set bits (Hacker's Delight, section 5-1)."""
    x -= (x >> S1) & PAIRS
    x = (x & FOURS) + ((x >> S2) & FOURS)
    x = (x + (x >> S4)) & BYTES
    return int(np.int64((x * SUM) >> S56))


@compiled_part
def step_key(seed: int, replica: int, step: int) -> np.uint64:
    """Return the random state of one step; `layer_key` derives the state of each layer from it."""
    x = mix(np.uint64(seed) + GOLDEN)
    x = mix(x ^ (np.uint64(replica) + GOLDEN))
    return mix(x ^ (np.uint64(step) * GOLDEN + GOLDEN))


@compiled_part
def layer_key(key: np.uint64, layer: int) -> np.uint64:
    """Return the random state of a layer from the state of its step."""
    return mix(key ^ (np.uint64(layer) * MIX_1 + GOLDEN))


@compiled_part
def keys_of(seed: int, replica: int, step: int) -> SampleKeys:
    """Return the random states of one step: for its loads, its prompts and its pools of samples."""
    prompts = step_key(seed ^ PROMPT_SEED, replica, replica)
    return SampleKeys(step_key(seed, replica, step), prompts, mix(np.uint64(seed) ^ MIX_2))


@compiled_part
def pool_place(keys: SampleKeys, layer: int, pool: int) -> np.uint64:
    """Return the index of the pool's sample that a layer uses in this step."""
    return layer_key(keys.step, layer) % np.uint64(pool)


@compiled_part
def pool_state(keys: SampleKeys, layer: int, routing: LayerRouting, tokens: int) -> np.uint64:
    """Return the random state of the layer's sample in its pool; all layers of a uniform router share one pool."""
    state = layer_key(keys.pool + np.uint64(tokens) * GOLDEN, int64(0) if routing.uniform else layer)
    return mix(state ^ (pool_place(keys, layer, routing.pool) * MIX_1 + GOLDEN))


@compiled_part
def uniform01(bits: np.uint64) -> float:
    """Return a float in (0, 1) from 64 random bits."""
    return float((np.float64(bits >> S11) + 0.5) * (1.0 / 9007199254740992.0))


@compiled_part
def normal(state: np.uint64) -> float:
    """Return a standard normal number from one state (Box-Muller); uses the states + 1 and + 2."""
    radius = np.sqrt(-2.0 * np.log(uniform01(mix(state + GOLDEN))))
    return float(radius * np.cos(2.0 * np.pi * uniform01(mix(state + GOLDEN + GOLDEN))))


@compiled_part
def coins(bits: np.uint64) -> float:
    """Return a nearly normal number from the number of set bits (its distribution differs by less than 0.002)."""
    return float((count_ones(bits) - 32.5 + uniform01(mix(bits))) / np.sqrt(16.0 + 1.0 / 12.0))


@compiled_part
def gamma_draw(state: np.uint64, shape: float) -> float:
    """Sample from Gamma(shape, 1) (Marsaglia and Tsang, ACM TOMS 2000)."""
    boost = 1.0
    if shape < 1.0:
        boost = uniform01(mix(state ^ MIX_2)) ** (1.0 / shape)
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    while True:
        state += THRICE
        x = normal(state)
        v = 1.0 + c * x
        if v > 0.0:
            v = v * v * v
            if np.log(uniform01(mix(state))) < 0.5 * x * x + d - d * v + d * np.log(v):
                return float(boost * d * v)


@compiled_part
def draw_uniform(state: np.uint64, tokens: int, experts: int, top_k: int, mark: I8, out: I8) -> None:
    """Sample `tokens` tokens of a uniform router, each with `top_k` distinct experts, and add their loads to `out`."""
    wide = np.uint64(experts)
    for e in range(experts):
        mark[e] = -1  # the last token that chose this expert
    have, bits = False, np.uint64(0)
    for t in range(tokens):
        placed = 0
        while placed < top_k:
            if have:  # each 64-bit output serves two 32-bit choices
                bits = bits >> S32
            else:
                state += GOLDEN
                bits = mix(state)
            have = not have
            pick = np.int64(((bits & LOW) * wide) >> S32)
            if mark[pick] != t:
                mark[pick] = t
                out[pick] += 1
                placed += 1


@compiled_part
def search(cumulative: F8, experts: int, u: float) -> int:
    """Return the first expert whose cumulative probability reaches `u`, by a sum without branches."""
    below = int64(0)
    for e in range(experts - 1):
        below += int64(cumulative[e] < u)
    return below


@compiled_part
def draw_weighted(
    state: np.uint64, tokens: int, experts: int, top_k: int, cumulative: F8, persist: float, scratch: Scratch, out: I8
) -> None:
    """Sample `tokens` tokens of a router with the cumulative probabilities `cumulative`, and add their loads to `out`.

    With probability `persist` each of a token's choices repeats the expert of the previous token.
    """
    mark, chosen, last = scratch.mark, scratch.chosen, scratch.last
    for e in range(experts):
        mark[e] = -1
    for t in range(tokens):
        for k in range(top_k):
            tries = 0
            while True:
                state += GOLDEN
                u = uniform01(mix(state))
                tries += 1
                if t > 0 and tries == 1 and u < persist:
                    e = last[k]
                else:
                    if t > 0 and tries == 1:
                        u = (u - persist) / (1.0 - persist)
                    e = search(cumulative, experts, u)
                if tries > 200:  # one expert holds nearly all probability: take the next free
                    e = (e + tries) % experts
                if mark[e] != t:
                    break
            mark[e] = t
            chosen[k] = e
            out[e] += 1
        for k in range(top_k):
            last[k] = chosen[k]


@compiled_part
def fill_inclusion(prob: F8, experts: int, top_k: int, out: F8) -> None:
    """Compute the probability that each expert is among a token's `top_k` distinct experts.

    Sampling without replacement is the order in which exponential clocks of rates `prob` ring. A clock has rung by time
    t with probability 1 - exp(-p t); t is chosen such that these probabilities add up to `top_k`. Exact for equal
    rates; within 0.03 for power laws of exponent 1 (tested).
    """
    t, total = float(top_k), 0.0
    for _ in range(200):  # Newton's method: the sum is concave in t, so this climbs to the root
        total, slope = 0.0, 0.0
        for e in range(experts):
            still = np.exp(-prob[e] * t)
            out[e] = 1.0 - still
            total += out[e]
            slope += prob[e] * still
        short = top_k - total
        if short < 1e-12 * top_k or not slope > 1e-300:
            break
        t += short / slope
    for e in range(experts):
        out[e] = min(1.0, out[e] * top_k / total)


@compiled
def inclusion_of(prob: F8, experts: int, top_k: int, out: F8) -> None:
    """Call `fill_inclusion` from Python code."""
    fill_inclusion(prob, experts, top_k, out)


@compiled_part
def draw_normal(
    state: np.uint64, tokens: int, experts: int, top_k: int, inclusion: F8, inflate: float, scratch: Scratch, out: I8
) -> None:
    """Add normally distributed loads of many tokens to `out`, with the exact mean, variance and sum.

    `inflate` multiplies the variance (repeated experts of consecutive tokens).
    """
    value, spread = scratch.value, scratch.spread
    excess, weight = 0.0, 0.0
    for e in range(experts):
        p = inclusion[e]
        spread[e] = tokens * p * (1.0 - p) * inflate
        state += GOLDEN
        value[e] = p * tokens + coins(mix(state)) * np.sqrt(spread[e])
        excess += value[e]
        weight += spread[e]
    excess -= tokens * top_k
    # Condition the independent normals on their sum: each gives back its share of the variance,
    # which yields exactly the covariance -p(1-p)/(E-1) of drawing without repeats.
    scale = np.sqrt(experts / max(experts - 1.0, 1.0))
    left = tokens * top_k
    for e in range(experts):
        share = excess * (spread[e] / weight if weight > 0.0 else 1.0 / experts)
        mean = inclusion[e] * tokens
        v = mean + scale * (value[e] - share - mean)
        value[e] = np.floor(min(max(v, 0.0), float(tokens)) + 0.5)
        left -= int(value[e])
    e = 0
    while left != 0:  # rounding leaves at most a few tokens over
        if left > 0 and value[e] < tokens:
            value[e] += 1.0
            left -= 1
        elif left < 0 and value[e] > 0.0:
            value[e] -= 1.0
            left += 1
        e = (e + 1) % experts
    for e in range(experts):
        out[e] += int(value[e])


@compiled_part
def draw_own(key: np.uint64, experts: int, router: F8, tilt: float, table: F8) -> None:
    """Sample a prompt's distribution over experts around its layer's distribution; write it as a router's table."""
    total, run = 0.0, 0.0
    for e in range(experts):
        table[R_PROB, e] = gamma_draw(mix(key + np.uint64(e) * GOLDEN), tilt * router[R_PROB, e])
        total += table[R_PROB, e]
    for e in range(experts):
        table[R_PROB, e] /= total
        run += table[R_PROB, e]
        table[R_CUMULATIVE, e] = run


@compiled_part
def draw_loads(
    keys: SampleKeys, layer: int, tokens_of: StepTokens, routing: LayerRouting, scratch: Scratch, out: I8
) -> None:
    """Sample the tokens per expert of one layer in one step into the first `experts` entries of `out`.

    Decodes come from different sequences, so they are independent samples from the layer's distribution. With `tilt` >
    0 each prompt chunk has its own distribution, sampled once for (sequence, layer) from a Dirichlet of total
    concentration `tilt` around the layer's. With `tilt` < 0 all tokens of a prompt have one expert, sampled for its
    sequence, as have the -`tilt` tokens of a decode; a remainder of the latter counts as one more. Samples from the
    layer's distribution come from a pool (`Router.pool`).
    """
    decodes, chunks, num_chunks = tokens_of.decodes, tokens_of.chunks, tokens_of.num_chunks
    experts, top_k, uniform, router = routing.experts, routing.top_k, routing.uniform, routing.router
    tilt, persist = routing.tilt, routing.persist
    for e in range(experts):
        out[e] = 0
    tokens, pools, tokens_each = decodes, int64(1), int64(1)
    if tilt < 0.0:
        tokens_each = int64(int(-tilt))
        tokens = (decodes + tokens_each - 1) // tokens_each
    if tilt == 0.0:
        for c in range(num_chunks):
            tokens += chunks[0, c]
    elif tilt > 0.0:
        pools += num_chunks
    table, keep, state = router, 0.0, layer_key(keys.step, layer)
    if tilt >= 0.0:
        state = pool_state(keys, layer, routing, tokens)
    for pool in range(pools):
        if pool > 0:
            table, keep, tokens = scratch.own, persist, chunks[0, pool - 1]
            state = mix(state + np.uint64(pool) * GOLDEN)
            prompt = layer_key(keys.prompts ^ mix(np.uint64(chunks[1, pool - 1])), layer)
            draw_own(prompt, experts, router, tilt, table)
        if tokens > EXACT_TOKENS and tokens * top_k >= NORMAL_MEAN * experts:
            if pool > 0:
                fill_inclusion(table[R_PROB], experts, top_k, table[R_INCLUSION])
            inflate = (1.0 + keep) / (1.0 - keep)
            draw_normal(state, tokens, experts, top_k, table[R_INCLUSION], inflate, scratch, out)
        elif uniform and pool == 0:
            draw_uniform(state, tokens, experts, top_k, scratch.mark, out)
        else:
            draw_weighted(state, tokens, experts, top_k, table[R_CUMULATIVE], keep, scratch, out)
    if tilt < 0.0:
        over = -decodes % tokens_each
        for e in range(experts):
            taken = over if out[e] > 0 else 0
            out[e] = out[e] * tokens_each - taken
            over -= taken
        for c in range(num_chunks):
            prompt = mix(keys.prompts ^ mix(np.uint64(chunks[1, c])))
            out[search(router[R_CUMULATIVE], experts, uniform01(prompt))] += chunks[0, c]


@compiled
def draw_layer(
    seed: int, replica: int, step: int, layer: int, tokens: StepTokens, routing: LayerRouting, scratch: Scratch, out: I8
) -> None:
    """Call `draw_loads` from Python code."""
    draw_loads(keys_of(seed, replica, step), layer, tokens, routing, scratch, out)


def new_scratch(experts: int) -> Scratch:
    """Return the workspace for samples among at most `experts` experts."""
    return Scratch(
        own=np.zeros((3, experts)),
        value=np.zeros(experts),
        spread=np.zeros(experts),
        mark=np.zeros(experts, dtype=np.int64),
        chosen=np.zeros(experts, dtype=np.int64),
        last=np.zeros(experts, dtype=np.int64),
    )
