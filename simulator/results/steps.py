"""The steps of an engine as they were run: which requests each computed, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ...workloads.batch import Batch
from ...workloads.errors import InputError
from ...workloads.records import Records
from ..deploy.deployment import Deployment
from ..engine.engine import Engine
from ..engine.policies import Policy
from ..engine.state import LogColumn

I8 = npt.NDArray[np.int64]

MOST_STEPS = 10_000
"""Index of the last kept step: it limits the memory."""


@dataclass(frozen=True, slots=True)
class RunStep:
    """One step of a run.

    Attributes
    ----------
    number : int
        From 0; the counter of its expert samples.
    start_s, end_s : float
        From the first arrival [s].
    batch : Batch
        What it computed; ``seq_id`` are rows of the run's requests, in order of arrival.
    """

    number: int
    start_s: float
    end_s: float
    batch: Batch


def check_steps(deployment: Deployment, policy: Policy, engines: int, last: int, tiered: bool = False) -> None:
    """Refuse scenarios whose steps cannot be shown one by one.

    Raises
    ------
    InputError
        Several engines, ranks or pipeline stages, experts on separate devices, expert or KV caches elsewhere, a scheduler of an engine's own that
        keeps no plans, drafts, or steps too far into a run.
    """
    if last > MOST_STEPS:
        raise InputError("--steps", f"must end by step {MOST_STEPS:,}, not {last:,}")
    if deployment.apart is not None:
        raise InputError(
            "--steps",
            "cannot show steps with experts on separate devices; remove --experts-on, or see `opbyte compare --experts-on`",
        )
    if engines > 1 or deployment.pools or deployment.ranks > 1 or deployment.layout.pp > 1:
        raise InputError("--steps", "need one engine of one rank: remove replicas, pools, --dp and --pp")
    if deployment.parts.get("drafts") is not None:
        raise InputError("--steps", "does not support speculative decoding; remove --speculative")
    if policy.rules is not None:
        reason = f"is not available for {policy.name}'s own scheduler; take another --policy"
        raise InputError("--steps", reason)
    if tiered:
        raise InputError("--steps", "does not support KV cache tiers; remove --kv-tiers")
    if deployment.parts.get("resident-experts") is not None:
        raise InputError("--steps", "does not support expert caches; remove --experts-resident")


def steps_of(engine: Engine, last: int) -> tuple[RunStep, ...]:
    """Return the first `last` steps of an engine that recorded its plans and its log.

    A request's tokens count as decodes once its input, and all tokens that it had generated before a preemption, are
    in the KV cache; until then they are prompt chunks.
    """
    log = np.concatenate([*engine.logs, np.zeros((0, engine.state.log.shape[1]))])
    rows_of = engine.state.requests.row
    rows_of = np.maximum(rows_of, -1 - rows_of)
    targets: dict[int, int] = {}
    reached: dict[int, int] = {}
    out: list[RunStep] = []
    for rows, entry in zip(log[:last], _entries(engine), strict=False):
        ids, tokens, cached = entry.request, entry.tokens, entry.cached
        decodes = np.zeros(len(ids), dtype=np.bool_)
        for k, (i, q, c) in enumerate(zip(ids.tolist(), tokens.tolist(), cached.tolist(), strict=True)):
            target = targets.setdefault(i, int(engine.state.requests.input[i]))
            if c < reached.get(i, 0):  # preempted: what it had made is computed again
                target = targets[i] = max(target, reached[i] + 1)
            decodes[k] = c >= target
            reached[i] = c + q
        batch = Batch.of(
            cached[decodes].tolist(), list(zip(tokens[~decodes].tolist(), cached[~decodes].tolist(), strict=True))
        )
        batch = replace(batch, seq_id=rows_of[np.concatenate([ids[decodes], ids[~decodes]])])
        known = decodes.sum(), tokens[~decodes].sum(), 1
        if known != (rows[LogColumn.DECODES], rows[LogColumn.PREFILL], rows[LogColumn.STEPS]):
            raise InputError("--steps", f"are not known for policy {engine.policy.name}")
        out.append(RunStep(len(out), float(rows[LogColumn.START]), float(rows[LogColumn.END]), batch))
    return tuple(out)


def _entries(engine: Engine) -> Iterator[Records]:
    """Yield the requests of each step with their new tokens and the tokens cached before it; skip empty steps."""
    for plans, entries in engine.plans:
        start = 0
        for end in plans.end.tolist():
            plan = entries[start:end]
            start = end
            ran = plan[plan.tokens > 0]
            if len(ran):
                yield ran
