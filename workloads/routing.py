"""Routing of tokens to experts, sampled for each layer and step.

Kinds: ``uniform``; ``measured`` (skewed per layer and per prompt, as measured on DeepSeek-V2-Lite); ``power_law:S``
(the r-th most popular expert has probability ~ r**-S); ``trace:FILE`` (per-layer activation counts from a CSV with
columns layer, e0, e1, ...); ``modality:SHARES`` (by the kind of token: the same expert in all layers).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import numpy.typing as npt

from .batch import DECODE, Batch
from .csvfile import numbers, read_whole
from .errors import InputError, check_known, typed_number
from .ops import Loads
from .registry import Registry
from .textfile import at_line

POPULARITY_CV = 0.21
"""Spread of expert popularity within a layer: standard deviation over mean of the activation counts. Average of 26
layers of DeepSeek-V2-Lite-Chat over 170,259 prompt tokens (fitted on counts of the traces of
ngavhane/moe-beyond@4dca2ea)."""

TILT_PER_EXPERT = 110 / 64
"""Dirichlet concentration per expert of each prompt's expert distribution, and `PERSISTENCE`, the probability that a
token's choice repeats the previous token's expert. Both are fitted on the same traces."""

PERSISTENCE = 0.15

BY_REQUEST = -1.0
"""Value of `Router.tilt` if a request chooses one expert for all of its tokens; multiplied by the tokens of a decode
step."""

POOL = 1024
"""Number of samples in the pool of a router for a number of tokens, all layers together. A run computes the time of
each sample once. The mean of a pool has a standard error of 1/32 of the spread of a layer's time."""

LEAST_POOL = 64
"""Least number of samples of one layer in a pool."""

Copies = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
"""Redundant experts: for every copy the expert's number, and its share of the expert's tokens."""


@dataclass(frozen=True, slots=True)
class Router:
    """Expert probabilities of every MoE layer, and the deviation of single prompts from them.

    Attributes
    ----------
    name : str
        The routing as the user wrote it.
    prob : float64 array, shape (layers, experts)
        Probability of each expert for one slot; rows sum to 1.
    inclusion, cumulative : float64 arrays, shape (layers, experts)
        Probability that an expert is among a token's `top_k`; running sum of `prob`.
    top_k : int
        Distinct experts per token.
    tilt : float
        Total Dirichlet concentration of a prompt's own distribution; 0 = none, below 0 = all tokens of a prompt have
        one expert, as have a decode's, see `BY_REQUEST`.
    persist : float
        Probability of keeping the previous token's expert within a prompt.
    seed : int
        First counter of every sample.
    keys : tuple of int
        Layer counter of each row of `prob`; layers of one counter have equal samples.
    """

    name: str
    prob: npt.NDArray[np.float64]
    inclusion: npt.NDArray[np.float64]
    cumulative: npt.NDArray[np.float64]
    top_k: int
    tilt: float
    persist: float
    seed: int
    keys: tuple[int, ...]

    @property
    def uniform(self) -> bool:
        return bool(np.all(self.prob == self.prob[0, 0]))

    @property
    def pool(self) -> int:
        """Number of samples of a layer for each number of tokens; layers of a uniform router share one pool."""
        return POOL if self.uniform else max(POOL // len(self.prob), LEAST_POOL)

    def loads(self, step: int, layer: int, batch: Batch, replica: int = 0) -> Loads:
        """Sample the loads of one layer; equal keys give equal samples."""
        from .draws import LayerRouting, StepTokens, draw_layer

        chunk = batch.phase != DECODE
        experts = self.prob.shape[1]
        out = np.zeros(experts, dtype=np.int64)
        chunks = np.stack([batch.q_len[chunk], batch.seq_id[chunk]])
        tokens = StepTokens(int(batch.q_len[~chunk].sum()), chunks, chunks.shape[1])
        routing = LayerRouting(experts, self.top_k, self.uniform, self.table(layer), self.tilt, self.persist, self.pool)
        scratch = _scratch(experts, get_ident())
        draw_layer(self.seed, replica, step, self.keys[layer], tokens, routing, scratch, out)
        return Loads.drawn(out)

    def table(self, layer: int) -> npt.NDArray[np.float64]:
        """Return the probability tables of one layer for the compiled samplers, shape (3, experts)."""
        return np.stack([self.prob[layer], self.inclusion[layer], self.cumulative[layer]])

    def expected(self, layer: int, tokens: float, choices: float | None = None, copies: Copies | None = None) -> Loads:
        """Return the expected loads of a layer: experts are active with some probability, then equally loaded.

        Parameters
        ----------
        choices : float, optional
            Independent ones, where requests choose for all of their tokens; one a token without.
        copies : pair of arrays, optional
            The expert of every copy, and its share of the expert's tokens; the loads are then the copies'.
        """
        inclusion = self.inclusion[layer]
        if copies is not None:
            inclusion = inclusion[copies[0]] * copies[1]
        if tokens <= 0:
            return Loads(np.zeros(len(inclusion)), np.zeros(len(inclusion)))
        active = 1.0 - (1.0 - inclusion) ** (tokens if choices is None else choices)
        per_copy = np.where(inclusion > 0.0, tokens * inclusion / np.where(active > 0.0, active, 1.0), 0.0)
        return Loads(per_copy, active)


@cache
def _scratch(experts: int, thread: int) -> Any:
    """Return a thread's workspace, cached because a new one's type costs compiled code more time than a sample."""
    from .draws import new_scratch

    return new_scratch(experts)


Build = Callable[[str, int, int, int], npt.NDArray[np.float64]]
ROUTINGS: Registry[Build] = Registry("routing", described=True)
MAX_COUNT = 1e18
"""Largest count in a trace: far above any count of tokens, and small enough for finite sums over experts."""
ARGUMENTS = {"power_law": "EXPONENT", "trace": "FILE", "modality": "SHARE,SHARE"}
"""Form of the text after the colon, for routings that need one."""
ONE_CHOICE = ("modality",)
"""Routings that send a token to the same expert in all layers."""


@ROUTINGS.register("uniform")
def _uniform(argument: str, layers: int, experts: int, seed: int) -> npt.NDArray[np.float64]:
    """All experts equally likely."""
    return np.full((layers, experts), 1.0 / experts)


@ROUTINGS.register("measured")
def _measured(argument: str, layers: int, experts: int, seed: int) -> npt.NDArray[np.float64]:
    """Skewed per layer and per prompt, as measured on DeepSeek-V2-Lite."""
    rng = np.random.default_rng([seed, 0xE])
    return rng.gamma(1 / POPULARITY_CV**2, size=(layers, experts))


@ROUTINGS.register("power_law")
def _power_law(argument: str, layers: int, experts: int, seed: int) -> npt.NDArray[np.float64]:
    """power_law:S, the r-th most popular expert has probability r^-S."""
    exponent = typed_number(argument)
    if not 0 <= exponent <= 10:
        reason = "needs an exponent from 0 to 10"
        raise InputError(f"--routing 'power_law:{argument}'", reason)
    rank = np.arange(1, experts + 1) ** -exponent
    rng = np.random.default_rng([seed, 0xF])  # popular experts differ from layer to layer
    return np.stack([rng.permutation(rank) for _ in range(layers)])


@ROUTINGS.register("trace")
def _trace(argument: str, layers: int, experts: int, seed: int) -> npt.NDArray[np.float64]:
    """trace:FILE, activation counts from a CSV: layer, e0, e1, ...."""
    rows = _read_counts(Path(argument), experts)
    return np.stack([rows[i % len(rows)] for i in range(layers)])


@ROUTINGS.register("modality")
def _modality(argument: str, layers: int, experts: int, seed: int) -> npt.NDArray[np.float64]:
    """modality:SHARE,SHARE..., shares of the tokens by modality, one expert in all layers."""
    shares = [typed_number(text) for text in argument.split(",")]
    if not all(0.0 <= share <= MAX_COUNT for share in shares) or not sum(shares) > 0.0:
        reason = "needs shares from 0 on, not all 0, such as modality:0.7,0.3"
        raise InputError(f"--routing 'modality:{argument}'", reason)
    if len(shares) != experts:
        reason = f"has {len(shares)} shares, but layers of the model have {experts} experts; give a share for each"
        raise InputError(f"--routing 'modality:{argument}'", reason)
    return np.tile(np.array(shares), (layers, 1))


def _read_counts(path: Path, experts: int) -> list[npt.NDArray[np.float64]]:
    """Read the rows of activation counts, one per layer; they repeat if the model has more layers."""
    columns = read_whole(path, ("layer", "e0"))
    wanted = [f"e{i}" for i in range(experts)]
    if list(columns) != ["layer", *wanted]:
        raise InputError(path, f"columns must be layer, e0 ... e{experts - 1} ({experts} experts)")
    counts = np.column_stack([numbers(columns[name], 0.0, MAX_COUNT) for name in wanted])
    for line, row in zip(columns["e0"].lines, counts, strict=True):
        if not row.any():
            raise InputError(at_line(path, line), "needs at least one count above 0")
    return [np.maximum(row, row.sum() * 1e-9) for row in counts]  # unseen is rare, not impossible


def _inclusion(prob: npt.NDArray[np.float64], top_k: int, kind: str) -> npt.NDArray[np.float64]:
    """Return each expert's probability to be among a token's `top_k`, for every layer."""
    if kind == "uniform":
        return np.full_like(prob, top_k / prob.shape[1])
    from .draws import inclusion_of

    out = np.empty_like(prob)
    for layer, row in enumerate(prob):
        inclusion_of(row, len(row), top_k, out[layer])
    return out


def check_routing(routing: str) -> None:
    """Refuse an unknown routing, or a missing or superfluous argument; does not read files.

    Raises
    ------
    InputError
    """
    kind, colon, argument = routing.partition(":")
    check_known(f"--routing {routing!r}", kind, ROUTINGS, "unknown routing")
    wanted = ARGUMENTS.get(kind)
    if wanted is None and colon:
        raise InputError(f"--routing {routing!r}", f"{kind} has no parameter; remove the text after the name")
    if wanted is not None and not argument:
        raise InputError(f"--routing {routing!r}", f"must be {kind}:{wanted}")


def make_router(
    routing: str, *, layers: int, experts: int, top_k: int, seed: int,
    keys: tuple[int, ...] | None = None, by_request: bool = False,
) -> Router:  # fmt: skip
    """Build a router from its name, e.g. ``uniform`` or ``power_law:0.8``.

    `keys` number the layers within the model where it has layers of several expert counts. `by_request`: all tokens of
    a prompt go to one expert.

    Raises
    ------
    InputError
        Unknown routing, bad argument, or a trace that does not fit the model.
    """
    check_routing(routing)
    kind, _, argument = routing.partition(":")
    prob = ROUTINGS[kind](argument, layers, experts, seed)
    prob = np.ascontiguousarray(prob / prob.sum(axis=1, keepdims=True))
    if by_request:  # one choice, the same in every layer
        prob = np.repeat(prob[:1], layers, axis=0)
    skewed = kind == "measured" and not by_request
    counters = tuple(range(layers)) if keys is None else keys
    return Router(
        name=routing,
        prob=prob,
        inclusion=prob.copy() if by_request else _inclusion(prob, top_k, kind),
        cumulative=np.cumsum(prob, axis=1),
        top_k=top_k,
        tilt=TILT_PER_EXPERT * experts if skewed else BY_REQUEST * by_request,
        persist=PERSISTENCE if skewed else 0.0,
        seed=seed,
        keys=(counters[0],) * layers if by_request or kind in ONE_CHOICE else counters,
    )
