"""Counter-based draws of expert loads, compiled; the explicit and compiled paths share them.

A draw depends on its key alone (seed, replica, step, layer), so it can be repeated in any
order. Random bits come from SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .jit import compiled

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
MIX_2 = np.uint64(0x94D049BB133111EB)
S27, S30, S31, S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
LOW = np.uint64(0xFFFFFFFF)

EXACT_TOKENS = 256
"""Up to this many tokens each token's experts are drawn one by one."""

NORMAL_MEAN = 24.0
"""Above `EXACT_TOKENS`, loads with at least this mean per expert are drawn from the normal
distribution with the exact mean and covariance, rounded so that they add up."""


@compiled
def mix(x: np.uint64) -> np.uint64:
    """SplitMix64's output function."""
    x = (x ^ (x >> S30)) * MIX_1
    x = (x ^ (x >> S27)) * MIX_2
    return x ^ (x >> S31)


@compiled
def key_of(seed: int, replica: int, step: int, layer: int) -> np.uint64:
    """One 64-bit state from the four counters of a draw."""
    x = mix(np.uint64(seed) + GOLDEN)
    x = mix(x ^ (np.uint64(replica) + GOLDEN))
    x = mix(x ^ (np.uint64(step) * GOLDEN + GOLDEN))
    return mix(x ^ (np.uint64(layer) * MIX_1 + GOLDEN))


@compiled
def uniform01(bits: np.uint64) -> float:
    """A float in (0, 1) from 64 random bits."""
    return (np.float64(bits >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@compiled
def normal_pair(state: np.uint64) -> tuple[float, float]:
    """Two standard normals (Box-Muller) from one state; uses state + 1 and + 2."""
    radius = np.sqrt(-2.0 * np.log(uniform01(mix(state + GOLDEN))))
    angle = 2.0 * np.pi * uniform01(mix(state + GOLDEN + GOLDEN))
    return radius * np.cos(angle), radius * np.sin(angle)


@compiled
def gamma_draw(state: np.uint64, shape: float) -> float:
    """A Gamma(shape, 1) draw (Marsaglia and Tsang, ACM TOMS 2000)."""
    boost = 1.0
    if shape < 1.0:
        boost = uniform01(mix(state ^ MIX_2)) ** (1.0 / shape)
        shape += 1.0
    d = shape - 1.0 / 3.0
    c = 1.0 / np.sqrt(9.0 * d)
    while True:
        state += np.uint64(3) * GOLDEN
        x = normal_pair(state)[0]
        v = 1.0 + c * x
        if v > 0.0:
            v = v * v * v
            if np.log(uniform01(mix(state))) < 0.5 * x * x + d - d * v + d * np.log(v):
                return boost * d * v


@compiled
def draw_uniform(
    state: np.uint64, tokens: int, top_k: int, out: npt.NDArray[np.int64]
) -> np.uint64:
    """Add `tokens` tokens of a uniform router, `top_k` distinct experts each, to `out`."""
    experts = np.uint64(out.size)
    chosen = np.empty(top_k, dtype=np.int64)
    have, bits = False, np.uint64(0)
    for _ in range(tokens):
        for k in range(top_k):
            while True:
                if have:  # each 64-bit output serves two 32-bit choices
                    pick = ((bits >> S32) * experts) >> S32
                    have = False
                else:
                    state += GOLDEN
                    bits = mix(state)
                    pick = ((bits & LOW) * experts) >> S32
                    have = True
                e = np.int64(pick)
                fresh = True
                for j in range(k):
                    if chosen[j] == e:
                        fresh = False
                if fresh:
                    break
            chosen[k] = e
            out[e] += 1
    return state


@compiled
def draw_weighted(
    state: np.uint64,
    tokens: int,
    top_k: int,
    cum: npt.NDArray[np.float64],
    persist: float,
    out: npt.NDArray[np.int64],
) -> np.uint64:
    """The same with expert probabilities (`cum`: their running sum, ending in 1).

    With probability `persist` a slot keeps the previous token's expert.
    """
    experts = out.size
    chosen = np.full(top_k, -1, dtype=np.int64)
    last = np.full(top_k, -1, dtype=np.int64)
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
                    e = np.searchsorted(cum, u)
                    if e >= experts:
                        e = experts - 1
                if tries > 200:  # one expert holds nearly all probability: take the next free
                    e = (e + tries) % experts
                fresh = True
                for j in range(k):
                    if chosen[j] == e:
                        fresh = False
                if fresh:
                    break
            chosen[k] = e
            out[e] += 1
        for k in range(top_k):
            last[k] = chosen[k]
    return state


@compiled
def inclusion_of(prob: npt.NDArray[np.float64], top_k: int, out: npt.NDArray[np.float64]) -> None:
    """Probability that each expert is among a token's `top_k` distinct ones.

    Drawing one after another without repeats is the order in which exponential clocks of rates
    `prob` ring; by time t a clock rang with probability 1 - exp(-p t), and t is where these add
    up to `top_k`. Exact for equal rates; within 0.03 for power laws of exponent 1 (tested).
    """
    low, high = 0.0, 1.0
    while np.sum(-np.expm1(-prob * high)) < top_k * (1.0 - 1e-12) and high < 1e12:
        high *= 2.0
    for _ in range(60):
        t = 0.5 * (low + high)
        if np.sum(-np.expm1(-prob * t)) < top_k:
            low = t
        else:
            high = t
    total = 0.0
    for e in range(prob.size):
        out[e] = -np.expm1(-prob[e] * high)
        total += out[e]
    for e in range(prob.size):
        out[e] = min(1.0, out[e] * top_k / total)


@compiled
def draw_normal(
    state: np.uint64,
    tokens: int,
    top_k: int,
    inclusion: npt.NDArray[np.float64],
    inflate: float,
    out: npt.NDArray[np.int64],
) -> np.uint64:
    """Many tokens at once: normal loads with the draw's mean and variance, sum kept exactly.

    `inflate` multiplies the variance (repeated experts of consecutive tokens).
    """
    experts = out.size
    total = tokens * top_k
    value = np.empty(experts)
    spread = np.empty(experts)
    excess, weight = 0.0, 0.0
    for e in range(experts):
        p = inclusion[e]
        spread[e] = tokens * p * (1.0 - p) * inflate
        if e % 2 == 0:
            state += np.uint64(3) * GOLDEN
            a, b = normal_pair(state)
            z = a
        else:
            z = b
        value[e] = inclusion[e] * tokens + z * np.sqrt(spread[e])
        excess += value[e]
        weight += spread[e]
    excess -= total
    # Condition the independent normals on their sum: each gives back its share of the variance,
    # which yields exactly the covariance -p(1-p)/(E-1) of drawing without repeats.
    scale = np.sqrt(experts / max(experts - 1.0, 1.0))
    placed = 0
    for e in range(experts):
        share = excess * (spread[e] / weight if weight > 0.0 else 1.0 / experts)
        mean = inclusion[e] * tokens
        v = mean + scale * (value[e] - share - mean)
        n = np.int64(np.floor(min(max(v, 0.0), float(tokens)) + 0.5))
        value[e] = n
        placed += n
    e = 0
    while placed != total:  # rounding leaves at most a few tokens over
        if placed < total and value[e] < tokens:
            value[e] += 1
            placed += 1
        elif placed > total and value[e] > 0:
            value[e] -= 1
            placed -= 1
        e = (e + 1) % experts
    for e in range(experts):
        out[e] += np.int64(value[e])
    return state


@compiled
def draw_pool(
    state: np.uint64,
    tokens: int,
    top_k: int,
    inclusion: npt.NDArray[np.float64],
    cum: npt.NDArray[np.float64],
    uniform: bool,
    persist: float,
    out: npt.NDArray[np.int64],
) -> np.uint64:
    """Tokens that share one distribution, by the method their number asks for."""
    if tokens > EXACT_TOKENS and tokens * top_k >= NORMAL_MEAN * out.size:
        inflate = (1.0 + persist) / (1.0 - persist)
        return draw_normal(state, tokens, top_k, inclusion, inflate, out)
    if uniform:
        return draw_uniform(state, tokens, top_k, out)
    return draw_weighted(state, tokens, top_k, cum, persist, out)


@compiled
def draw_loads(
    seed: int,
    replica: int,
    step: int,
    layer: int,
    decodes: int,
    chunk_tokens: npt.NDArray[np.int64],
    chunk_seq: npt.NDArray[np.int64],
    chunks: int,
    top_k: int,
    prob: npt.NDArray[np.float64],
    inclusion: npt.NDArray[np.float64],
    cum: npt.NDArray[np.float64],
    uniform: bool,
    tilt: float,
    persist: float,
    out: npt.NDArray[np.int64],
) -> None:
    """Tokens per expert of one layer in one step.

    Decodes come from different sequences, so they are independent draws from the layer's
    distribution `prob`. With `tilt` > 0 each prompt chunk has its own distribution, drawn once
    for (sequence, layer) from a Dirichlet of total concentration `tilt` around `prob`.
    """
    out[:] = 0
    state = key_of(seed, replica, step, layer)
    pooled = decodes
    if tilt == 0.0:
        for c in range(chunks):
            pooled += chunk_tokens[c]
    state = draw_pool(state, pooled, top_k, inclusion, cum, uniform, 0.0, out)
    if tilt == 0.0:
        return
    own = np.empty(out.size)
    own_cum = np.empty(out.size)
    own_inclusion = np.empty(out.size)
    for c in range(chunks):
        base = key_of(seed ^ 0x5EED, replica, chunk_seq[c], layer)
        total = 0.0
        for e in range(out.size):
            own[e] = gamma_draw(mix(base + np.uint64(e) * GOLDEN), tilt * prob[e])
            total += own[e]
        run = 0.0
        for e in range(out.size):
            own[e] /= total
            run += own[e]
            own_cum[e] = run
        inclusion_of(own, top_k, own_inclusion)
        state = draw_pool(
            mix(state + np.uint64(c)),
            chunk_tokens[c],
            top_k,
            own_inclusion,
            own_cum,
            False,
            persist,
            out,
        )
