"""A run's times, and how they are summed up: mean and quantiles, by the names that runs use."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from ...simulator.batching.host import FrontEnd, hand_over_all, idle_front
from ...simulator.serving.finished import Requests
from ...simulator.serving.record import Run

F8 = npt.NDArray[np.float64]
TIMES = ("ttft", "tpot", "e2e", "itl")
"""Quantities of a stage; each may have any of `STATISTICS`."""
STATISTICS = ("mean", "p50", "p90", "p99")
QUANTILES = (0.5, 0.9, 0.99)


def per_token(first: F8, last: F8, tokens: npt.NDArray[np.int64] | F8) -> F8:
    """Time per output token after the first [s]; NaN of one token."""
    return (last - first) / np.where(tokens > 1, tokens - 1.0, np.nan)


def seen_s(rows: Requests, front: FrontEnd) -> F8:
    """When clients see first tokens: not while the front end prepares requests, whose thread hands tokens out too [s].

    Python runs one thread at a time: vLLM and SGLang prepare requests in the event loop that streams, or in a thread whose
    tokenizer keeps the interpreter's lock (github.com/vllm-project/vllm/issues/19012).
    """
    order = np.argsort(rows.arrival_s, kind="stable")
    came, tokens = rows.arrival_s[order], rows.input_tokens[order]
    ends = came.copy()
    hand_over_all(idle_front(front), ends, tokens)
    idle = np.append(came[1:] >= ends[:-1], True)  # behind this request
    begins = came[np.append(True, idle[:-1])]
    until = ends[idle][np.searchsorted(begins, rows.first_token_s, side="right") - 1]
    return np.asarray(np.maximum(rows.first_token_s, until))


def client_times(run: Run) -> dict[str, F8]:
    """A request's times as its client sees them [s]."""
    rows, outside = run.requests, run.policy.host.request_s
    first, last = rows.first_token_s - rows.arrival_s, rows.last_token_s - rows.arrival_s
    seen = seen_s(rows, run.policy.host.front) - rows.arrival_s
    return {"ttft": seen + outside, "tpot": per_token(first, last, rows.output_tokens), "e2e": last + outside}


def figures(times: Mapping[str, F8]) -> dict[str, float]:
    """`statistics` of each quantity."""
    return {f"{name}_{k}": x for name, values in times.items() for k, x in statistics(values).items()}


def statistics(times: F8) -> dict[str, float]:
    """Mean and quantiles of times; of none, NaN."""
    times = times[~np.isnan(times)]
    figures = [times.mean(), *np.quantile(times, QUANTILES)] if len(times) else [np.nan] * len(STATISTICS)
    return {name: float(x) for name, x in zip(STATISTICS, figures, strict=True)}
