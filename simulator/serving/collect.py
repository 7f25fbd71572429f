"""What a run leaves, measured: rates, latencies, energy, ops and stretches of all its engines."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ...devices.cost import BOUNDS
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
from ..step.books import (
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
from .record import OpTotal, Requests, Run


def collect(
    served: Served, deployment: Deployment, policy: Policy, workload: str, *,
    seed: int, warmup: int, copies: int, wall_s: float,
) -> Run:  # fmt: skip
    """Measure a run.

    Parameters
    ----------
    warmup : int
        Completions left out of latencies; rates begin with the last of them.
    copies : int
        Copies of the whole system, whose devices all draw their static power.
    wall_s : float
        Seconds of real time that it took.
    """
    engines = served.engines
    requests = served.table.finished(len(engines) > 1 or served.failures > 0)
    end = float(requests.last_token_s.max())
    interval = end - served.warm_s
    emitted, prompt = _count(engines, C_EMITTED), _count(engines, C_PROMPT)
    joules, busy_s = _work([totals(e.plan, e.books.tally) for e in engines])
    before, idled_s = _work([e.warm.totals for e in engines])
    system, board = deployment.system, deployment.device.board
    devices = system.devices_per_node * system.nodes * copies
    spent = board.work_joules(joules, busy_s)
    busy_late_s = min(busy_s - idled_s, devices * interval)
    ttft, tpot, e2e = _latencies(requests, requests.order >= warmup)
    return Run(
        deployment=deployment,
        policy=policy,
        workload=workload,
        seed=seed,
        requests=requests,
        stages=_stages(engines),
        ops=_op_totals(engines, spent / joules if spent else 1.0),
        iterations=_count(engines, C_STEPS),
        preemptions=_count(engines, C_PREEMPTIONS),
        output_tokens=emitted,
        prompt_tokens=prompt,
        cached_tokens=_count(engines, C_HITS),
        makespan_s=end,
        interval_s=interval,
        interval_output_tokens=emitted - sum(e.warm.emitted for e in engines),
        interval_prompt_tokens=prompt - sum(e.warm.prompt for e in engines),
        joules=spent,
        interval_joules=board.work_joules(joules - before, busy_late_s),
        interval_static_joules=board.idle_joules(devices * interval),
        interval_busy_joules=board.busy_joules(busy_late_s),
        devices=devices,
        ttft_s=ttft,
        tbt_s=_gaps(engines),
        tpot_s=tpot,
        e2e_s=e2e,
        kv_peak=max(float(e.state.clocks[T_KV_PEAK]) / e.kv.capacity for e in engines),
        kv_capacity=engines[-1].kv.capacity,
        wall_s=wall_s,
        failures=served.failures,
        restarts=served.restarts,
        moved_bytes=served.moved_bytes,
    )


def _count(engines: list[Engine], counter: int) -> int:
    """Sum of a counter over engines."""
    return sum(int(engine.state.counters[counter]) for engine in engines)


def _work(sums: list[F8]) -> tuple[float, float]:
    """Energy of the work and busy seconds of devices, of all ops: `compiled.totals` of engines."""
    joules = sum(float(t[:, :, T_J_DRAM : T_J_LINK + 1].sum()) for t in sums)
    return joules, sum(float(t[:, :, T_BUSY].sum()) for t in sums)


def _latencies(requests: Requests, warm: npt.NDArray[np.bool_]) -> tuple[Quantiles, ...]:
    """TTFT, TPOT and E2E of some of the requests, see `metrics`."""
    waited = requests.first_token_s - requests.arrival_s
    decode = requests.last_token_s - requests.first_token_s
    gaps = requests.output_tokens - 1
    return (
        quantiles(waited[warm]),
        quantiles((decode / np.maximum(gaps, 1))[warm & (gaps > 0)]),
        quantiles((requests.last_token_s - requests.arrival_s)[warm]),
    )


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


def _op_totals(engines: list[Engine], clock: float) -> tuple[OpTotal, ...]:
    """Sum ops of the same name over layers and engines, one row a processor that ran them.

    `clock` is what of the energy of their work is left at the clock that the power limit allows.
    """
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
            {"dram": clock * float(t[T_J_DRAM]), "compute": clock * float(t[T_J_COMPUTE]),
             "link": clock * float(t[T_J_LINK])},
            float(t[T_RUNS]), float(t[T_OUTSIDE]),
            {name: float(seconds) for name, seconds in zip(BOUNDS, t, strict=False)},
        )
        for (layer, name, kind, processor), t in rows.items()
    )  # fmt: skip
