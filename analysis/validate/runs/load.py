"""The requests of a run, sampled as its client sent them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....workloads.requests import RequestBlock, RequestStream, open_requests
from .spec import MeasuredRun, Prompts

I8 = npt.NDArray[np.int64]


class RunRequests(NamedTuple):
    """Requests of a whole run."""

    stream: RequestStream
    stage: I8  # [n] in which each was sent


def draw(run: MeasuredRun, seed: int, block_tokens: int) -> RunRequests:
    """Return the requests of a run: recorded, else sampled; equal seeds give equal bytes.

    Samples are the arrivals of all stages, and prompts with the content of their blocks.

    Parameters
    ----------
    block_tokens : int
        Tokens of a block of the engine's KV cache: what two prompts share is found by whole ones.
    """
    if run.requests is not None:
        block = open_requests(run.requests).read()
        stream = RequestStream(run.name, True, None, lambda: iter([block]))
        return RunRequests(stream, np.zeros(len(block), dtype=np.int64))
    rng = np.random.default_rng([seed, len(run.stages)])
    arrivals, stage, start = [], [], 0.0
    for s, load_stage in enumerate(run.stages):
        gaps = rng.exponential(size=load_stage.requests)
        times = start + np.cumsum(gaps) * (load_stage.duration_s / gaps.sum())
        arrivals.append(times)
        stage.append(np.full(load_stage.requests, s))
        start = float(times[-1]) + run.pause_s
    arrival = np.concatenate(arrivals)
    lengths = prompt_lengths(run.prompts, rng)
    contents = _contents(run.prompts, lengths, block_tokens)
    prompt = np.arange(len(arrival)) % run.prompts.distinct
    block = RequestBlock(
        np.arange(len(arrival)), arrival, lengths[prompt],
        np.full(len(arrival), run.output_tokens or 1), tuple(contents[p] for p in prompt),
        hash_tokens=block_tokens,
    )  # fmt: skip
    stream = RequestStream(run.name, True, None, lambda: iter([block]))
    return RunRequests(stream, np.concatenate(stage))


def prompt_lengths(prompts: Prompts, rng: np.random.Generator) -> I8:
    """Tokens of every distinct prompt: uniform in the range, then brought to the mean."""
    lengths = rng.integers(prompts.least, prompts.most, prompts.distinct, endpoint=True)
    left = round(prompts.mean * prompts.distinct) - int(lengths.sum())
    while left:
        step = 1 if left > 0 else -1
        room = lengths < prompts.most if left > 0 else lengths > prompts.least
        able = rng.permutation(np.flatnonzero(room))[: abs(left)]
        lengths[able] += step
        left -= step * len(able)
    return lengths


def _contents(prompts: Prompts, lengths: I8, block: int) -> list[tuple[int, ...]]:
    """Names of the content of each prompt's whole blocks; what is shared comes first."""
    shared, size = prompts.shared_tokens // block, prompts.distinct // prompts.groups
    names = [(p // size) * shared for p in range(prompts.distinct)]
    out, new = [], prompts.groups * shared
    for first, length in zip(names, lengths.tolist(), strict=True):
        new_blocks = max(length // block - shared, 0)
        out.append((*range(first, first + shared), *range(new, new + new_blocks)))
        new += new_blocks
    return out
