"""One simulation: requests through a deployment, and everything measured about it."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ...devices.cost import BOUNDS
from ...workloads.errors import InputError
from ...workloads.requests import RequestStream
from ..batching.kv import CacheSettings
from ..batching.policies import Policy
from ..batching.state import (
    C_COMPLETED,
    C_EMITTED,
    C_HITS,
    C_PREEMPTIONS,
    C_PROMPT,
    C_STEPS,
    F8,
    F_ARRIVAL,
    F_FIRST,
    F_LAST,
    F_SCHEDULED,
    I8,
    I_INPUT,
    I_ORDER,
    I_OUTPUT,
    I_PREEMPTED,
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
from .cluster import Served, serve_cluster
from .engine import Engine, Progress, serve
from .fleet import Fleet, pools_of
from .metrics import histogram_quantiles, quantiles
from .nodes import Job
from .record import OpTotal, Requests, Run


def run(
    deployment: Deployment,
    policy: Policy,
    stream: RequestStream,
    *,
    seed: int = 0,
    warmup: int = 0,
    keep_stages: bool = False,
    progress: Progress | None = None,
    fleet: Fleet | None = None,
    cache: CacheSettings | None = None,
    stop: int | None = None,
) -> Run:
    """Serve a stream of requests.

    Parameters
    ----------
    warmup : int
        Completions left out of rates and latencies.
    keep_stages : bool
        Keep the table of stretches.
    progress : callable, optional
        See `engine.Progress`.
    fleet : Fleet, optional
        Replicas behind a router, and their failures.
    cache : CacheSettings, optional
        How engines set up their KV caches.
    stop : int, optional
        Completions after which the run ends. Rates then are those of a full system: at the end of
        all requests it drains, and a shrinking batch is another load than the one asked for.

    Raises
    ------
    InputError
        No requests, or a warm-up that leaves none.
    CapacityError
        Weights or a single request that do not fit.
    """
    began = time.perf_counter()
    if deployment.model.front is not None:
        raise InputError(
            deployment.model.name,
            "takes images, not tokens; use opbyte compare, or opbyte frames on an FPGA",
        )
    if fleet is not None or stop is not None or deployment.pools or _has_sessions(stream):
        served = serve_cluster(
            pools_of(deployment, fleet or Fleet()), policy, stream, seed=seed, warmup=warmup,
            keep_log=keep_stages, progress=progress, router=(fleet or Fleet()).router,
            faults=(fleet or Fleet()).faults, cache=cache,
            stop=stop,
        )  # fmt: skip
        _check_count(stream, warmup, sum(job.order >= 0 for job in served.jobs))
        return _collect_cluster(served, deployment, policy, stream, seed, warmup, fleet, began)
    if stream.closed_loop is not None and stream.closed_loop < deployment.replicas:
        raise InputError(
            "--closed-loop", f"needs at least {deployment.replicas} clients, one for each replica"
        )
    engines = [
        Engine(
            deployment, policy, replica, _share(stream.closed_loop, deployment.replicas, replica),
            _share(warmup, deployment.replicas, replica) or 0, keep_stages,
            cache or CacheSettings(),
        )
        for replica in range(deployment.replicas)
    ]  # fmt: skip
    end = serve(engines, stream, progress)
    _check_count(stream, warmup, sum(int(e.state.counters[C_COMPLETED]) for e in engines))
    spans = [end - e.warm.time_s for e in engines]
    interval = max(spans)
    # Replicas end their warm-ups at different times: scale each to the common interval.
    scale = [interval / span if span > 0 else 0.0 for span in spans]
    warm = np.concatenate([_after_warmup(e) for e in engines])[np.argsort(_ids(engines))]
    return _collect(
        engines, deployment, policy, stream, seed, _requests(engines), warm, end, interval, scale,
        began,
    )  # fmt: skip


def _has_sessions(stream: RequestStream) -> bool:
    """Whether requests follow each other, so that arrivals depend on the run."""
    first = next(iter(stream), None)
    return first is not None and first.turns is not None


def _check_count(stream: RequestStream, warmup: int, completed: int) -> None:
    if completed == 0:
        raise InputError(stream.name, "has no requests")
    if warmup >= completed:
        raise InputError("--warmup", f"must be below the {completed} requests, not {warmup}")


def _collect_cluster(
    served: Served,
    deployment: Deployment,
    policy: Policy,
    stream: RequestStream,
    seed: int,
    warmup: int,
    fleet: Fleet | None,
    began: float,
) -> Run:
    requests = _jobs_table([job for job in served.jobs if job.order >= 0])
    end = float(requests.last_token_s.max())
    result = _collect(
        served.engines, deployment, policy, stream, seed, requests, requests.order >= warmup, end,
        end - served.warm_s, [1.0] * len(served.engines), began, (fleet or Fleet()).replicas,
    )  # fmt: skip
    return replace(
        result, failures=served.failures, restarts=served.restarts, moved_bytes=served.moved_bytes
    )


def _share(total: int | None, parts: int, part: int) -> int | None:
    return None if total is None else total // parts + (part < total % parts)


def _collect(
    engines: list[Engine],
    deployment: Deployment,
    policy: Policy,
    stream: RequestStream,
    seed: int,
    requests: Requests,
    warm: npt.NDArray[np.bool_],
    end: float,
    interval: float,
    scale: list[float],
    began: float,
    copies: int = 1,
) -> Run:
    states = [e.state for e in engines]
    emitted = [int(s.counters[C_EMITTED]) for s in states]
    prompt = [int(s.counters[C_PROMPT]) for s in states]
    joules = slice(T_J_DRAM, T_J_LINK + 1)
    whole = [float(totals(e.plan, e.books.tally)[:, :, joules].sum()) for e in engines]
    before = [float(e.warm.totals[:, :, joules].sum()) for e in engines]
    busy = [float(totals(e.plan, e.books.tally)[:, :, T_BUSY].sum()) for e in engines]
    idled = [float(e.warm.totals[:, :, T_BUSY].sum()) for e in engines]
    busy_s = sum((w - b) * s for w, b, s in zip(busy, idled, scale, strict=True))
    work = sum((w - b) * s for w, b, s in zip(whole, before, scale, strict=True))
    system, board = deployment.system, deployment.device.board
    devices = system.devices_per_node * system.nodes * copies
    busy_s = min(busy_s, devices * interval)
    spent = board.work_joules(sum(whole), sum(busy))
    waited = requests.first_token_s - requests.arrival_s
    decode = requests.last_token_s - requests.first_token_s
    several = requests.output_tokens > 1
    return Run(
        deployment=deployment,
        policy=policy,
        workload=stream.name,
        seed=seed,
        requests=requests,
        stages=_stages(engines),
        ops=_op_totals(engines, spent / sum(whole) if spent else 1.0),
        iterations=sum(int(s.counters[C_STEPS]) for s in states),
        preemptions=sum(int(s.counters[C_PREEMPTIONS]) for s in states),
        output_tokens=sum(emitted),
        prompt_tokens=sum(prompt),
        cached_tokens=sum(int(s.counters[C_HITS]) for s in states),
        makespan_s=end,
        interval_s=interval,
        interval_output_tokens=_scaled(emitted, [e.warm.emitted for e in engines], scale),
        interval_prompt_tokens=_scaled(prompt, [e.warm.prompt for e in engines], scale),
        joules=spent,
        interval_joules=board.work_joules(work, busy_s),
        interval_static_joules=board.idle_joules(devices * interval),
        interval_busy_joules=board.busy_joules(busy_s),
        devices=devices,
        ttft_s=quantiles(waited[warm]),
        tbt_s=histogram_quantiles(
            np.sum([s.hist for s in states], axis=0),
            sum(float(s.clocks[T_TBT_SUM]) for s in states),
            sum(float(s.clocks[T_TBT_COUNT]) for s in states),
        ),
        tpot_s=quantiles((decode / np.maximum(requests.output_tokens - 1, 1))[warm & several]),
        e2e_s=quantiles((requests.last_token_s - requests.arrival_s)[warm]),
        kv_peak=max(float(e.state.clocks[T_KV_PEAK]) / e.kv.capacity for e in engines),
        kv_capacity=engines[-1].kv.capacity,
        wall_s=time.perf_counter() - began,
    )


def _jobs_table(jobs: list[Job]) -> Requests:
    """Stamps of a cluster's requests."""

    def whole(name: str) -> I8:
        return np.array([getattr(job, name) for job in jobs], dtype=np.int64)

    def real(name: str) -> F8:
        return np.array([getattr(job, name) for job in jobs], dtype=np.float64)

    return Requests(
        whole("id"), real("arrival_s"), whole("input_tokens"), whole("output_tokens"),
        real("scheduled_s"), real("first_s"), real("last_s"), whole("preemptions"), whole("order"),
    )  # fmt: skip


def _scaled(after: list[int], before: list[int], scale: list[float]) -> int:
    """Sum over engines of what came after the warm-up, each scaled to the common interval."""
    return round(sum((t - b) * x for t, b, x in zip(after, before, scale, strict=True)))


def _ids(engines: list[Engine]) -> I8:
    return np.concatenate([i for e in engines for i in e.ids])


def _after_warmup(engine: Engine) -> npt.NDArray[np.bool_]:
    count = sum(len(i) for i in engine.ids)
    warm: npt.NDArray[np.bool_] = engine.state.ints[:count, I_ORDER] >= engine.warmup
    return warm


def _requests(engines: list[Engine]) -> Requests:
    """Requests of all engines in order of their ids, column by column."""
    ids = _ids(engines)
    order = np.argsort(ids, kind="stable")
    counts = [sum(len(i) for i in e.ids) for e in engines]

    def whole(column: int) -> I8:
        parts = [e.state.ints[:n, column] for e, n in zip(engines, counts, strict=True)]
        return np.concatenate(parts)[order]

    def real(column: int) -> F8:
        parts = [e.state.floats[:n, column] for e, n in zip(engines, counts, strict=True)]
        return np.concatenate(parts)[order]

    return Requests(
        ids[order], real(F_ARRIVAL), whole(I_INPUT), whole(I_OUTPUT), real(F_SCHEDULED),
        real(F_FIRST), real(F_LAST), whole(I_PREEMPTED), whole(I_ORDER),
    )  # fmt: skip


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
