"""Resource that limits the throughput of a run or of its pools: KV capacity, sequence limit, or the bound of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...simulator.parts.drafts.explicit import speculative_stage
from ...simulator.parts.two_pools.run import PoolRun, TwoPools, limiting_pool
from ...simulator.results.record import FULL, Run, steady_stages
from ...simulator.step.explicit import dealt, explicit_stage
from ..show.text import seconds

F8 = npt.NDArray[np.float64]
Stages = Mapping[str, F8]
RESOURCES = {
    "compute": "arithmetic of {}",
    "memory": "memory bandwidth of {}",
    "link": "bandwidth of {}",
    "latency": "launch and kernel overheads of {}",
}


@dataclass(frozen=True, slots=True)
class Limit:
    """A resource that is used up.

    Attributes
    ----------
    resource : str
        "KV capacity", "sequence limit", or the bound of the steps: a processor's arithmetic or
        memory bandwidth, a link, or fixed costs.
    share : float
        Share of the waiting time, or of the steps' time, that this resource accounts for.
    why : str
        The reason as a sentence.
    """

    resource: str
    share: float
    why: str

    def to_dict(self) -> dict[str, Any]:
        return {"resource": self.resource, "share": self.share, "why": self.why}


def limit_of(run: Run, missed: Mapping[str, float]) -> Limit:
    """Find the cause of latency in a run that exceeds its SLO.

    Parameters
    ----------
    run : Run
        Run whose stages were kept.
    missed : mapping of str to float
        Exceeded limits [s], such as ``ttft_p99``; empty if only the load is too high.

    Returns
    -------
    Limit
        If TTFT exceeds its limit because requests wait: the resource they wait for. Otherwise: the bound of the steps
        that are too long.
    """
    stages = steady_stages(run)
    late = [name for name in missed if name.startswith(("tbt", "tpot"))]
    if late and not any(name.startswith("ttft") for name in missed):
        return _long_steps(run, stages, min(missed[name] for name in late))
    if _waiting_share(run, missed) >= 0.5 or not missed:
        limit = _queue(run, stages)
        if limit is not None:
            return limit
        busy = stages["waiting"] > 0
        chosen = busy if busy.any() else np.ones_like(busy)
        return _bound(run, stages, chosen, "requests wait for steps; a typical one")
    prompts = stages["prefill_tokens"] > 0
    return _bound(run, stages, prompts if prompts.any() else ~prompts, "prompts take long; a typical step")


def _waiting_share(run: Run, missed: Mapping[str, float]) -> float:
    """Return the part of TTFT that the slowest requests spend in the queue."""
    table = run.requests
    ttft = table.first_token_s - table.arrival_s
    most = [x for name, x in missed.items() if name.startswith("ttft")]
    slow = ttft >= (min(most) if most else np.quantile(ttft, 0.99))
    if not slow.any() or not ttft[slow].sum():
        return 0.0
    return float((table.scheduled_s - table.arrival_s)[slow].sum() / ttft[slow].sum())


def _queue(run: Run, stages: Stages) -> Limit | None:
    """Return the KV capacity or the sequence limit, if it is exhausted for most of the time in which requests wait."""
    length = (stages["end_s"] - stages["start_s"]) * (stages["waiting"] > 0)
    total = float(length.sum())
    if total <= 0:
        return None
    ranks = run.deployment.ranks
    kv = float(length[stages["kv_bytes"] >= FULL * run.kv_capacity].sum()) / total
    most = run.policy.max_sequences * ranks
    sequences = float(length[stages["running"] >= most].sum()) / total
    if max(kv, sequences) < 0.5:
        return None
    if kv >= sequences:
        return Limit("KV capacity", kv, f"the KV cache is full for {kv:.0%} of the queue's time")
    text = f"{most:,} sequences run, the policy's most, for {sequences:.0%} of the queue's time"
    return Limit("sequence limit", sequences, text)


def _long_steps(run: Run, stages: Stages, most_s: float) -> Limit:
    """Return the bound of the steps that are longer than allowed."""
    step_s = (stages["end_s"] - stages["start_s"]) / np.maximum(stages["steps"], 1)
    long = (step_s > most_s) & (stages["decodes"] > 0)
    return _bound(run, stages, long if long.any() else step_s >= step_s.max(), "steps are too long; a typical one")


def _bound(run: Run, stages: Stages, chosen: npt.NDArray[np.bool_], why: str) -> Limit:
    """Return the resource that takes most time in the chosen stages, from the ops of their median step."""
    stages = {name: column[chosen] for name, column in stages.items()}
    length = stages["end_s"] - stages["start_s"]
    steps = np.maximum(stages["steps"], 1)
    middle = int(np.argsort(length / steps, kind="stable")[len(length) // 2])
    decodes = round(float(stages["decodes"][middle]))
    prompt = round(float(stages["prefill_tokens"][middle] / steps[middle]))
    prompts = max(round(float(stages["prompts"][middle])), 1) if prompt else 0
    parts = _parts(run, decodes, prompt, prompts)
    (processor, bound), share = max(parts.items(), key=lambda item: item[1])
    step = f"{decodes:,} decodes" + (f" and {prompt:,} prompt tokens" if prompt else "")
    took = seconds(float(length[middle] / steps[middle]))
    resource = RESOURCES[bound].format(processor)
    text = f"{why}, {step}, takes {took}, {share:.0%} of it bound by {resource}"
    return Limit(resource, share, text)


def _parts(run: Run, decodes: int, prompt: int, prompts: int) -> dict[tuple[str, str], float]:
    """Return the share of a step's time by processor and bound; parallel ops count in full."""
    deployment, table = run.deployment, run.requests
    context = round(float((table.input_tokens + table.output_tokens / 2).mean()))
    chunks = [(max(prompt // max(prompts, 1), 1), 0)] * prompts
    batches = dealt(deployment, decodes, context, chunks)
    if deployment.parts.get("drafts") is None:
        stage = explicit_stage(deployment, batches, expected=True)
    else:
        stage = speculative_stage(deployment, batches, expected=True).whole
    parts = stage.times(lambda p: (p.processor, p.cost.bound))
    total = max(stage.seconds, 1e-12)
    return {key: min(part / total, 1.0) for key, part in parts.items()}


LINK = "KV link"


def pool_limit(run: Run, missed: Mapping[str, float]) -> Limit:
    """Return the resource of the limiting pool that limits throughput; see `limits.limit_of`."""
    left: TwoPools = run.parts["two-pools"]
    name = limiting_pool(run, left, tuple(missed))
    if name == "link":
        busy = max(p.sending for p in left.pools)
        why = f"the KV link limits: a port is busy for {busy:.0%} of the run"
        return Limit(LINK, busy, why)
    pool = left.pools[name == "decode"]
    nodes = run.stages["node"] >= left.pools[0].replicas
    mine = nodes if name == "decode" else ~nodes
    alone = replace(
        run, deployment=pool.deployment, policy=pool.policy, kv_capacity=pool.kv_capacity,
        parts={k: v for k, v in run.parts.items() if k != "two-pools"},
        stages={key: column[mine] for key, column in run.stages.items()},
    )  # fmt: skip
    full = _full(alone, pool) if name == "decode" else None
    limit = full or limit_of(alone, missed)
    return Limit(f"{name} pool: {limit.resource}", limit.share, f"the {name} pool limits: {limit.why}")


def _full(run: Run, pool: PoolRun) -> Limit | None:
    """Return the decode pool's sequence limit or KV memory, if it is exhausted for most of its steps' time."""
    stages = steady_stages(run)
    length = stages["end_s"] - stages["start_s"]
    total = float(length.sum())
    if total <= 0:
        return None
    most = pool.policy.max_sequences * pool.deployment.ranks
    for used, total_all, name in (
        (stages["running"], float(most), "sequence limit"),
        (stages["kv_bytes"], pool.kv_capacity * pool.deployment.ranks, "KV capacity"),
    ):
        share = float(length[used >= FULL * total_all].sum()) / total
        if share >= 0.5:
            why = f"over {FULL:.0%} of its {name} is in use for {share:.0%} of its steps' time"
            return Limit(name, share, why)
    return None
