"""MoE router: scores of experts to the top k and their weights.

``softmax``: probabilities over all experts, the k largest taken. ``sigmoid``: of every expert by itself,
with an optional bias that counts for the choice but not for the weight (DeepSeek-V3). With
`normalise` the chosen weights are divided by their sum. Of equal scores the lower index wins.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
import numpy.typing as npt

from .check import WrongResult, require
from .jit import parallel, threads_for
from .lab import Bench, Case, Kernel, Shape, add

F4 = npt.NDArray[np.float32]
I4 = npt.NDArray[np.int32]
KINDS = ("softmax", "sigmoid")


@parallel
def _route(logits, bias, k, sigmoid, normalise, ids, weights, threads):
    """Score the experts of each token by softmax or sigmoid and take the best `k`, with their weights."""
    tokens, experts = logits.shape
    for thread in numba.prange(threads):
        score = np.empty(experts, np.float32)
        choice = np.empty(experts, np.float32)
        for t in range(tokens * thread // threads, tokens * (thread + 1) // threads):
            top = logits[t, 0]
            for e in range(experts):
                top = max(top, logits[t, e])
            total = np.float32(0.0)
            for e in range(experts):
                if sigmoid:
                    score[e] = np.float32(1.0) / (np.float32(1.0) + np.exp(-logits[t, e]))
                else:
                    score[e] = np.exp(logits[t, e] - top)
                total += score[e]
            for e in range(experts):
                if not sigmoid:
                    score[e] /= total
                # Logits order softmax scores exactly, where two probabilities may round alike.
                choice[e] = score[e] + bias[e] if sigmoid else logits[t, e]
            chosen = np.float32(0.0)
            for j in range(k):
                best = -1
                for e in range(experts):
                    if choice[e] > -np.inf and (best < 0 or choice[e] > choice[best]):
                        best = e
                ids[t, j] = best
                weights[t, j] = score[best]
                chosen += score[best]
                choice[best] = -np.inf
            if normalise:
                for j in range(k):
                    weights[t, j] /= chosen


def route(
    logits: F4, k: int, kind: str = "softmax", bias: F4 | None = None, normalise: bool = True, threads: int = 1
) -> tuple[I4, F4]:
    """Choose the experts of each token.

    Parameters
    ----------
    logits : float32 array, shape (tokens, experts)
        Finite.
    k : int
        Experts a token, at most all of them.
    bias : float32 array, shape (experts,), optional
        Only for ``sigmoid``.

    Returns
    -------
    ids : int32 array, shape (tokens, k)
        Best first.
    weights : float32 array, shape (tokens, k)
    """
    tokens, experts = logits.shape
    if not 1 <= k <= experts:
        raise ValueError(f"k is {k}: must be between 1 and the number of experts, {experts}")
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: must be one of {', '.join(KINDS)}")
    if bias is not None and kind == "softmax":
        raise ValueError("a bias belongs to the sigmoid router")
    ids, weights = np.empty((tokens, k), np.int32), np.empty((tokens, k), np.float32)
    threads = threads_for(4.0 * k * logits.nbytes, threads)  # k passes over the scores
    added = np.zeros(experts, np.float32) if bias is None else bias
    _route(logits, added, k, kind == "sigmoid", normalise, ids, weights, threads)
    return ids, weights


def reference(
    logits: F4, k: int, kind: str = "softmax", bias: F4 | None = None, normalise: bool = True
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Route in fp64, as a reference."""
    x = logits.astype(np.float64)
    if kind == "softmax":
        score = np.exp(x - x.max(1, keepdims=True))
        score /= score.sum(1, keepdims=True)
        choice = x
    else:
        score = 1.0 / (1.0 + np.exp(-x))
        choice = score + (0.0 if bias is None else bias.astype(np.float64))
    ids = np.argsort(-choice, axis=1, kind="stable")[:, :k]
    weights = np.take_along_axis(score, ids, 1)
    return ids, weights / weights.sum(1, keepdims=True) if normalise else weights


def same_choice(got: I4, want: npt.NDArray[np.int64], choice: npt.NDArray[np.float64], near: float) -> bool:
    """Return whether two choices agree except for ties: experts that differ must have scores within `near`.

    Parameters
    ----------
    choice : float64 array, shape (tokens, experts)
        What the experts were chosen by.
    """
    for t in range(len(got)):
        mine, theirs = set(got[t].tolist()), set(want[t].tolist())
        if len(mine) != got.shape[1]:
            return False
        differing = [choice[t, e] for e in mine ^ theirs]
        if differing and max(differing) - min(differing) > near:
            return False
    return True


def shapes(quick: bool) -> Sequence[Shape]:
    """Return shapes of Mixtral's and DeepSeek's routers."""
    tokens = (1, 64) if quick else (1, 16, 64, 256, 2048)
    return [
        {"tokens": t, "experts": experts, "topk": k, "kind": kind}
        for t in tokens
        for experts, k, kind in ((8, 2, "softmax"), (128, 8, "softmax"), (256, 8, "sigmoid"))
    ]


def case(shape: Shape, bench: Bench) -> Case:
    """Return the case of one shape."""
    tokens, experts, k, kind = (shape[n] for n in ("tokens", "experts", "topk", "kind"))
    moved = 4.0 * tokens * (experts + 2 * k)
    copies = bench.copies(moved)
    logits = [bench.take((tokens, experts)) for _ in range(copies)]

    def check() -> None:
        ids, weights = route(logits[0], k, kind, threads=bench.threads)
        want_ids, want = reference(logits[0], k, kind)
        if not same_choice(ids, want_ids, logits[0].astype(np.float64), 1e-6):
            raise WrongResult(f"router {dict(shape)}: other experts than the reference's")
        require(np.sort(weights), np.sort(want), "fp32", f"router {dict(shape)}")

    return Case(
        {"kernel": "router", "dtype": "fp32", **shape}, 0.0, moved, copies,
        lambda i: route(logits[i % copies], k, kind, threads=bench.threads), check,
    )  # fmt: skip


CPU = add(Kernel("router", "numba", None, shapes, case))
