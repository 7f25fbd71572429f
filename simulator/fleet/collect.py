"""Measurements of a run: rates, latencies, energy, ops and fast-forwarded steps of all its engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ...devices.cost import BOUNDS, PATHS
from ...workloads.requests import RequestStream
from ..deploy.deployment import Deployment
from ..engine.engine import Engine
from ..engine.policies import Policy
from ..engine.state import F8, LOG_COLUMNS, NUM_LOG, LogColumn
from ..engine.work_log import Total, totals_at
from ..registry import PARTS
from ..results.metrics import Quantiles, histogram_quantiles, quantiles
from ..results.record import OpTotal, Requests, Run
from ..results.steady import Window, find_window
from ..step.lowering import LoweredModel, Slots
from ..step.step_totals import T_ACT, T_BUSY, T_FLOPS, T_JOULES, T_OUTSIDE, T_RUNS, T_STREAM, StepTotals, totals
from .draining import Drained
from .run_state import RunState, boards_of, busy_joules, joules_half_width, static_joules


def collect(
    served: RunState, deployment: Deployment, policy: Policy, workload: str, *,
    seed: int, warmup: int, copies: int, clients: int | None, stop: bool, wall_s: float,
) -> Run:  # fmt: skip
    """Return the measurements of a finished run.

    Parameters
    ----------
    warmup : int
        First completions, which are excluded from latencies; the window of rates begins after the last of them.
    copies : int
        Replicas of the whole system; all their devices consume static power.
    clients : int or None
        Clients of a closed loop; None for open-loop arrivals.
    stop : bool
        Whether the run was ended at a number of completions.
    wall_s : float
        Wall-clock time of the simulation [s].
    """
    engines, requests = served.engines, _finished(served)
    end = served.end_s(requests)
    ended = end if stop else served.ended_s(end)
    presence = [scaling and scaling.until(ended, _ttft(requests)) for scaling in served.presence]
    boards = boards_of(served, deployment, copies, presence)
    curves = [curve for group in boards for curve in group.curves]
    window = find_window(
        lambda times: totals_at(curves, times)[:, Total.EMITTED], served.stamps(),
        begin=served.warm_s, end=end, clients=clients, asked=stop and warmup > 0,
    )  # fmt: skip
    devices = sum(group.devices for group in boards)
    ends = window.start_s, window.end_s if window.end_s < end else np.inf  # open if the window ends with the run
    within = np.diff(totals_at(curves, ends), axis=0)[0]
    spent = sum(engine.work_log.joules for engine in engines)
    spent += sum(engine.expert_side.work_log.joules for engine in engines if engine.expert_side is not None)
    ttft, tpot, e2e = _latencies(requests, requests.order >= warmup, served.drained)
    return Run(
        deployment=deployment,
        policy=served.pools.policy or policy,
        workload=workload,
        seed=seed, requests=requests,
        stages=_stages(engines, bool(served.pools.decode)),
        ops=_op_totals(engines, _clock(engines, spent)) + _ops_of_parts(served),
        iterations=_count(engines, "steps"),
        preemptions=_count(engines, "preemptions"),
        output_tokens=_count(engines, "emitted"),
        prompt_tokens=_count(engines, "prompt_tokens"),
        cached_tokens=_count(engines, "hits"), cached=any(engine.kv.cached for engine in engines),
        makespan_s=ended, window=window,
        interval_output_tokens=float(within[Total.EMITTED]),
        interval_prompt_tokens=float(within[Total.PROMPT]),
        joules=spent,
        interval_joules=float(within[Total.JOULES]),
        interval_static_joules=static_joules(boards, window),
        interval_busy_joules=sum(busy_joules(group, ends, window.length_s) for group in boards),
        joules_half_width=joules_half_width(boards, curves, window),
        devices=devices,
        ttft_s=ttft,
        tbt_s=_gaps(engines),
        tpot_s=tpot,
        e2e_s=e2e,
        kv_peak=max(float(e.state.clocks[0].kv_peak) / e.kv.capacity for e in engines),
        kv_capacity=engines[-1].kv.capacity,
        wall_s=wall_s,
        failures=served.failures, restarts=served.restarts,
        engines=_decoding(served, presence, window, devices), groups=served.groups, every=served.every,
    )  # fmt: skip


def _finished(served: RunState) -> Requests:
    """Return the completed requests with their order of completion."""
    if served.drained is not None:
        return served.drained.sampled()
    scaled = any(own is not None and own.changes for own in served.presence)
    return served.table.finished(len(served.engines) > 1 or served.failures > 0 or scaled)


def _decoding(served: RunState, presence: Sequence[Any], window: Window, devices: int) -> float:
    """Return the number of engines that decode; with autoscaling the mean number."""
    if served.pools.decode:
        return len(served.pools.decode)
    there = devices if presence[0] is None else presence[0].mean_devices(window)
    return len(served.engines) * there / devices


def _clock(engines: list[Engine], spent: float) -> float:
    """Return the energy at the clock that power limits allow over the energy at the nominal clock."""
    joules = sum(
        float(totals(plan, step_totals.tally)[:, :, T_JOULES].sum()) for _, _, plan, step_totals in _programs(engines)
    )
    return spent / joules if spent else 1.0


def _count(engines: list[Engine], counter: str) -> int:
    """Return the sum of a counter over engines."""
    return sum(int(engine.state.counters[0][counter]) for engine in engines)


def _ops_of_parts(served: RunState) -> tuple[OpTotal, ...]:
    """Return the ops that parts run in addition to the model's."""
    hooks = [PARTS[name].hook("ops") for name in served.parts]
    return tuple(op for hook in hooks if hook is not None for op in hook(served.engines))


def left_of_parts(run: Run, served: RunState, stream: RequestStream, warmup: int) -> Run:
    """Return a run with the results of each part added."""
    parts: dict[str, Any] = {}
    run = replace(run, parts=parts)  # set here, because later hooks may read them
    for name, part in PARTS.items():
        hook = part.hook("collect") if name in served.parts or part.left(served) else None
        left = None if hook is None else hook(run, served, stream, warmup)
        if left is not None:
            parts[name] = left
    return run


def _latencies(requests: Requests, warm: npt.NDArray[np.bool_], drained: Drained | None) -> tuple[Quantiles, ...]:
    """Return the TTFT, TPOT and E2E latency of warm requests (`metrics`); from histograms if requests were released."""
    if drained is not None:
        return tuple(own.quantiles() for own in (drained.ttft, drained.tpot, drained.e2e))
    waited = _ttft(requests)
    decode = requests.last_token_s - requests.first_token_s
    gaps = requests.output_tokens - 1
    return (
        quantiles(waited[warm]),
        quantiles((decode / np.maximum(gaps, 1))[warm & (gaps > 0)]),
        quantiles((requests.last_token_s - requests.arrival_s)[warm]),
    )


def _ttft(requests: Requests) -> F8:
    """Return the times to first token of requests [s]."""
    return requests.first_token_s - requests.arrival_s


def _gaps(engines: list[Engine]) -> Quantiles:
    """Return quantiles of the gaps between tokens since the warm-up."""
    states = [engine.state for engine in engines]
    return histogram_quantiles(
        np.sum(list({id(s.hist): s.hist for s in states}.values()), axis=0),
        sum(float(s.clocks[0].gap_sum) for s in states),
        sum(float(s.clocks[0].gap_count) for s in states),
    )


def _stages(engines: list[Engine], numbered: bool) -> dict[str, F8]:
    """Return the fast-forwarded steps of all engines in order of time; `numbered` by engine if that matters."""
    tracks = list(dict.fromkeys(name for e in engines for name in _tracks(e)))
    rows = [
        np.column_stack([_aligned(log, e, tracks), _watts(log, e), np.full(len(log), i)])
        for i, e in enumerate(engines)
        if e.logs
        for log in [_whole(_by_fast_forward(np.concatenate(e.logs)), e)]
    ]
    if not rows:
        return {}
    table = np.concatenate(rows)
    table = table[np.argsort(table[:, 0], kind="stable")]
    names = [*LOG_COLUMNS, *(f"busy_{name}_s" for name in (*tracks, "links")), "watts"]
    names += ["node"] if numbered else []
    return {name: table[:, i] for i, name in enumerate(names)}


def _tracks(engine: Engine) -> list[str]:
    """Return the processors of an engine, including devices with its experts."""
    return [*engine.slots.processors, *(engine.expert_side.tracks if engine.expert_side else ())]


def _whole(log: F8, engine: Engine) -> F8:
    """Return an engine's log with the energy and busy time of separate devices that store its experts."""
    if engine.expert_side is None:
        return log
    more = np.concatenate(engine.expert_side.logs)
    log[:, LogColumn.JOULES] += more[:, 0]
    return np.column_stack([log[:, :-1], more[:, 1:], log[:, -1]])


def _aligned(log: F8, engine: Engine, tracks: list[str]) -> F8:
    """Return a log with one column for each processor in `tracks`, including those of other engines."""
    engine_tracks = _tracks(engine)
    if engine_tracks == tracks:
        return log
    out = np.zeros((len(log), NUM_LOG + len(tracks) + 1))
    at = [*range(NUM_LOG), *(NUM_LOG + tracks.index(name) for name in engine_tracks), out.shape[1] - 1]
    out[:, at] = log
    return out


def _watts(log: F8, engine: Engine) -> F8:
    """Return the mean power of a device of an engine in each group of steps [W]."""
    d = engine.deployment
    board, devices = d.device.board, d.layout.all_devices / d.replicas
    length = np.maximum(log[:, LogColumn.END] - log[:, LogColumn.START], 1e-12)
    busy, side = log[:, NUM_LOG:], engine.expert_side
    if side is not None:
        more = range(len(engine.slots.processors), len(_tracks(engine)))
        theirs, other = busy[:, more].sum(axis=1), side.work_log.board
        here, there = devices, side.devices
        busy_s = np.minimum(busy.sum(axis=1) - theirs, here * length)
        drawn = log[:, LogColumn.JOULES] + board.busy_joules(1.0) * busy_s
        drawn = drawn + other.busy_joules(1.0) * np.minimum(theirs, there * length)
        idle_W = (board.idle_W * here + other.idle_W * there) / (here + there)
        both: F8 = idle_W + drawn / (length * (here + there))
        return both
    busy_s = np.minimum(busy.sum(axis=1), devices * length)
    drawn = log[:, LogColumn.JOULES] + board.busy_joules(1.0) * busy_s
    out: F8 = board.idle_W + drawn / (length * devices)
    return out


def _by_fast_forward(log: F8) -> F8:
    """Return an engine's log with the tokens of each group of steps instead of the running total."""
    log[:, LogColumn.EMITTED] = np.diff(log[:, LogColumn.EMITTED], prepend=0.0)
    return log


def _programs(engines: list[Engine]) -> Iterator[tuple[str, Slots, LoweredModel, StepTotals]]:
    """Return the programs of engines with their device and totals: models, draft models, separate experts."""
    for engine in engines:
        device = engine.deployment.system.device.name
        yield device, engine.slots, engine.plan, engine.step_totals
        for part in engine.does.values():
            yield from part.programs(engine)


def _op_totals(engines: list[Engine], clock: float) -> tuple[OpTotal, ...]:
    """Sum ops of the same name over layers and engines, one row for each processor that ran them.

    `clock` is the factor on the energy of their work at the clock that the power limit allows.
    """
    rows: dict[tuple[str, str, str, str], F8] = {}
    walls: dict[tuple[str, str, str], float] = {}
    several = len({device for device, *_ in _programs(engines)}) > 1
    for device, slots, plan, step_totals in _programs(engines):  # pools may have different ops
        of = f" of {device}" if several else ""
        sums = totals(plan, step_totals.tally)
        for s, op in enumerate(zip(slots.layer, slots.name, slots.kind, strict=True)):
            walls[op] = walls.get(op, 0.0) + float(step_totals.wall[s])
            for p, processor in enumerate(slots.processors):
                if sums[s, p, T_RUNS] > 0:
                    key = (*op, (slots.link[s] or processor) + of)
                    rows[key] = rows.get(key, np.zeros(sums.shape[2])) + sums[s, p]
    return tuple(
        OpTotal(
            layer, name, kind, processor, walls[layer, name, kind], float(t[T_BUSY]),
            float(t[T_FLOPS]), float(t[T_STREAM]), float(t[T_ACT]),
            {path: clock * float(joules) for path, joules in zip(PATHS, t[T_JOULES], strict=True)},
            float(t[T_RUNS]), float(t[T_OUTSIDE]),
            {name: float(seconds) for name, seconds in zip(BOUNDS, t, strict=False)},
        )
        for (layer, name, kind, processor), t in rows.items()
    )  # fmt: skip
