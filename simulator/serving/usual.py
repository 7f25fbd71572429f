"""What the steps of a run usually are, and which of its fast-forwarded steps its rates are of."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...workloads.batch import Batch
from ..batching.state import F8
from .record import Run

FULL = 0.9
"""Share of a resource in use from which on it limits."""


def steady_stages(run: Run) -> Mapping[str, F8]:
    """Return the log entries of the window that defines a run's rates."""
    stages, window = run.stages, run.window
    within = (stages["end_s"] > window.start_s) & (stages["start_s"] < window.end_s)
    return {name: column[within] for name, column in stages.items()}


def typical(run: Run) -> tuple[Batch, Batch]:
    """Return a rank's typical decode step, and one with a prompt."""
    rows, d = run.requests, run.deployment
    context = max(round(float((rows.input_tokens + rows.output_tokens / 2).mean())), 1)
    decode_s = float((rows.last_token_s - rows.first_token_s).sum())
    span = max(float(rows.last_token_s.max() - rows.arrival_s.min()), 1e-12)
    decodes = round(decode_s / span / (d.ranks * max(run.engines, 1.0)))
    decodes = int(np.clip(decodes, 1, run.policy.max_sequences))
    prompt = min(max(round(float(rows.input_tokens.mean())), 1), run.policy.token_budget)
    return usual_batches(decodes, context, prompt, d.several)


def usual_batches(decodes: int, context: int, prompt: int, new: int = 1) -> tuple[Batch, Batch]:
    """Return a batch of decodes with `new` tokens, without and with a prompt."""
    seen = [context] * decodes
    return Batch.of(seen, new=new), Batch.of(seen, [(prompt, 0)], new)
