"""What a run leaves, measured: rates, latencies, energy, ops and stretches of all its engines."""

from __future__ import annotations

import numpy as np

from ..batching.policies import Policy
from ..batching.state import (
    C_EMITTED,
    C_HITS,
    C_PREEMPTIONS,
    C_PROMPT,
    C_STEPS,
    F8,
    LOG_COLUMNS,
    T_KV_PEAK,
    T_TBT_COUNT,
    T_TBT_SUM,
)
from ..deploy.deployment import Deployment
from ..step.compiled import (
    T_ACT,
    T_BUSY,
    T_FLOPS,
    T_J_COMPUTE,
    T_J_DRAM,
    T_J_LINK,
    T_OUTSIDE,
    T_RUNS,
    T_STREAM,
    totals,
)
from .driver import Served
from .engine import Engine
from .metrics import Quantiles, histogram_quantiles, quantiles
from .record import OpTotal, Run


def collect(
    served: Served, deployment: Deployment, policy: Policy, workload: str, *,
    seed: int, warmup: int, copies: int, wall_s: float,
) -> Run:  # fmt: skip
    """Measure a run.

    Parameters
    ----------
    workload : str
        Name of the request stream.
    warmup : int
        Completions left out of latencies; rates begin with the last of them.
    copies : int
        Copies of the whole system, whose devices all draw their static power.
    wall_s : float
        Seconds of real time that it took.
    """
    engines = served.engines
    requests = served.table.finished(len(engines) > 1 or served.failures > 0)
    warm, end = requests.order >= warmup, float(requests.last_token_s.max())
    interval = end - served.warm_s
    emitted, prompt = _count(engines, C_EMITTED), _count(engines, C_PROMPT)
    joules = sum(_joules(totals(e.plan, e.books.tally)) for e in engines)
    system = deployment.system
    devices = system.devices_per_node * system.nodes * copies
    waited = requests.first_token_s - requests.arrival_s
    decode = requests.last_token_s - requests.first_token_s
    several = requests.output_tokens > 1
    return Run(
        deployment=deployment,
        policy=policy,
        workload=workload,
        seed=seed,
        requests=requests,
        stages=_stages(engines),
        ops=_op_totals(engines),
        iterations=_count(engines, C_STEPS),
        preemptions=_count(engines, C_PREEMPTIONS),
        output_tokens=emitted,
        prompt_tokens=prompt,
        cached_tokens=_count(engines, C_HITS),
        makespan_s=end,
        interval_s=interval,
        interval_output_tokens=emitted - sum(e.warm.emitted for e in engines),
        interval_prompt_tokens=prompt - sum(e.warm.prompt for e in engines),
        joules=joules,
        interval_joules=joules - sum(_joules(e.warm.totals) for e in engines),
        interval_static_joules=system.device.static_W * devices * interval,
        ttft_s=quantiles(waited[warm]),
        tbt_s=_gaps(engines),
        tpot_s=quantiles((decode / np.maximum(requests.output_tokens - 1, 1))[warm & several]),
        e2e_s=quantiles((requests.last_token_s - requests.arrival_s)[warm]),
        kv_peak=max(float(e.state.clocks[T_KV_PEAK]) / e.kv.capacity for e in engines),
        wall_s=wall_s,
        failures=served.failures,
        restarts=served.restarts,
        moved_bytes=served.moved_bytes,
    )


def _count(engines: list[Engine], counter: int) -> int:
    """Sum of a counter over engines."""
    return sum(int(engine.state.counters[counter]) for engine in engines)


def _joules(sums: F8) -> float:
    """Dynamic energy of all ops on all processors, from `compiled.totals`."""
    return float(sums[:, :, T_J_DRAM : T_J_LINK + 1].sum())


def _gaps(engines: list[Engine]) -> Quantiles:
    """Quantiles of the token gaps since the warm-up."""
    states = [engine.state for engine in engines]
    return histogram_quantiles(
        np.sum([s.hist for s in states], axis=0),
        sum(float(s.clocks[T_TBT_SUM]) for s in states),
        sum(float(s.clocks[T_TBT_COUNT]) for s in states),
    )


def _stages(engines: list[Engine]) -> dict[str, F8]:
    rows = [log for e in engines for log in e.logs]
    if not rows:
        return {}
    table = np.concatenate(rows)
    table = table[np.argsort(table[:, 0], kind="stable")]
    tracks = [f"busy_{name}_s" for name in (*engines[0].slots.processors, "links")]
    return {name: table[:, i] for i, name in enumerate([*LOG_COLUMNS, *tracks])}


def _op_totals(engines: list[Engine]) -> tuple[OpTotal, ...]:
    """Sum ops of the same name over layers and engines, one row a processor that ran them."""
    rows: dict[tuple[str, str, str, str], F8] = {}
    walls: dict[tuple[str, str, str], float] = {}
    for engine in engines:  # those of two pools may have different ops
        slots, whole = engine.slots, totals(engine.plan, engine.books.tally)
        for s, op in enumerate(zip(slots.layer, slots.name, slots.kind, strict=True)):
            walls[op] = walls.get(op, 0.0) + float(engine.books.wall[s])
            for p, processor in enumerate(slots.processors):
                if whole[s, p, T_RUNS] > 0:
                    key = (*op, slots.link[s] or processor)
                    rows[key] = rows.get(key, np.zeros(whole.shape[2])) + whole[s, p]
    return tuple(
        OpTotal(
            layer, name, kind, processor, walls[layer, name, kind], float(t[T_BUSY]),
            float(t[T_FLOPS]), float(t[T_STREAM]), float(t[T_ACT]),
            {"dram": float(t[T_J_DRAM]), "compute": float(t[T_J_COMPUTE]),
             "link": float(t[T_J_LINK])},
            float(t[T_RUNS]), float(t[T_OUTSIDE]),
        )
        for (layer, name, kind, processor), t in rows.items()
    )  # fmt: skip
