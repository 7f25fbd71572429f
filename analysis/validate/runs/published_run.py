"""Simulate a published point by the options of ``opbyte simulate``, and measure it as its source did."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ....devices.catalog import load_system
from ....devices.ratios import Z
from ....simulator.frameworks.engines import ENGINES, LaunchSettings
from ....simulator.frameworks.keys import numbers_of
from ....simulator.scenario.load import load
from ....simulator.scenario.options import DeployOptions
from ....simulator.scenario.place import deployed
from ....simulator.step.explicit import explicit_stage
from ....simulator.step.launches import NO_LAUNCHES
from ....workloads.batch import Batch
from ....workloads.catalog import load_model
from ....workloads.errors import InputError
from ....workloads.latencies import latency_of
from ....workloads.requests.block import PREFIX_BLOCK_TOKENS
from ...answers.benchmarks import BENCHMARKS, OFFLINE, SERVER, Score, best_score
from ...answers.error_factors import (
    NO_FACTORS,
    TRAINING,
    Conditions,
    Widths,
    engine_of_scenario,
    fitted_widths,
    no_peers,
)
from ...answers.interval import Interval, KindErrors
from ...answers.roofline import roofline
from ...answers.run_interval import run_draws
from ...answers.simulate import Simulation, simulate
from ...answers.train import train
from ..check import IntervalBasis, Refit, RunCheck
from ..statistics import client_times
from .basis import RATES, power_basis, run_bases, step_basis
from .published import FAVOURITES, RANDOM, SAMPLED, PublishedRun
from .static import static_times

PROMPT = 250.0
"""Assumed mean prompt [tokens] if a set does not publish one: questions of GPQA have about 250 tokens and chats a
few hundred (README of the data set)."""
LEAST, FOR_EACH, MOST = 40, 14, 8_000
"""Requests of a closed loop: fourteen for each client, so that lengths that spread leave a steady part; at least 40, at most
what the source sent."""

KEPT = ("framework", "dtype", "kv_dtype", "host", "power_cap", "max_seqs")
"""Options of a point that a benchmark does not set."""
CHOSEN = 0.9
"""Share of what a system serves that nine of ten makers ask of it in scenario Server at least: ten systems of eight H100 (MLPerf v4.1)
have 20,605 to 23,700 tokens/s, the tenth percentile 0.90 of the most; all at once they are within 2 % of each other."""
BENCH_SHARE, BENCH_SEQUENCES, BENCH_TOKENS = 0.9, 4096, 32768
BENCH_BYTES = {"nvfp4": 0.5, "int4": 0.5, "fp8": 1.0, "fp8_block": 1.0, None: 2.0}
"""Share of memory, most sequences and tokens, and bytes of a weight that `_limits` counts on."""
CONTEXTS = 65
"""Contexts at which steps of a static batch are costed; between them seconds are linear."""

Answer = Simulation
Figure = Callable[[Answer, PublishedRun], float | None]


def _rate(answer: Answer, run: PublishedRun) -> float | None:
    """Rate of the whole run, if the source says how many requests it had and all of them are simulated."""
    rows, result = answer.run.requests, run.load.requests
    if result is None or len(rows) < result:
        return answer.run.output_tokens_per_s
    took = float(rows.last_token_s.max() - rows.arrival_s.min())
    return float(rows.output_tokens.sum()) / took if took > 0.0 else None


FIGURES: Mapping[str, Figure] = {
    "output_tokens_per_s": _rate, "tokens_per_s": _rate, 
    "power_all_gpus": lambda answer, run: (
        None if (watts := answer.run.watts_per_device) is None else watts * run.devices
    ),
    "energy_per_output_token": lambda answer, run: answer.run.joules_per_token,
}  # fmt: skip
"""Metrics of a whole run; others are statistics of a time, `_time`."""


def _time(answer: Answer, metric: str) -> float | None:
    """Return a mean or quantile of TTFT, TPOT, E2E or TBT, by the metric's name [s]; None if unknown."""
    latency, run = latency_of(metric.replace("itl_", "tbt_")), answer.run
    if latency is None or latency.measure.startswith("client"):
        return None
    if latency.measure == "tbt":
        return run.tbt_s.at(latency.quantile)
    times = client_times(run)[latency.measure]
    times = times[~np.isnan(times)]
    return float(np.quantile(times, latency.share) if latency.share else times.mean()) if len(times) else None


def _bases(answer: Answer, run: PublishedRun, metrics: Iterable[str]) -> dict[str, IntervalBasis]:
    """Return the inputs of the intervals of a run's values that have one."""
    made, clients = answer.run, answer.scenario.workload.closed_loop
    # an engine's own benchmark ("saturated") has no client and no front end
    burst = run.load.kind != "saturated" and clients is not None and clients >= len(made.requests)
    random = run.load.kind == "open" and run.load.requests is not None
    chance = float(np.exp(Z / np.sqrt(run.load.requests or 1))) if random else 1.0
    draws = run_draws(made, clients is None, engine_of_scenario(answer.scenario), burst)
    bases: dict[str, IntervalBasis | None] = {**run_bases(draws, metrics, chance, burst)}
    if "power_all_gpus" in metrics:
        bases["power_all_gpus"] = power_basis(made.deployment)
    return {name: basis for name, basis in bases.items() if basis is not None}


def replay_published(run: PublishedRun, host: str | None = None) -> RunCheck:
    """Simulate a point.

    Raises
    ------
    InputError
        Why it cannot be simulated.
    """
    run = replace(run, input_len=run.input_len or PROMPT)
    if run.command != "simulate":
        return _step_of(run)
    if not run.options and not run.output_len and "batch_latency" not in run.measured:
        raise InputError("osl", "the output length is not published")
    basis: Mapping[str, IntervalBasis] = {}
    factors: Mapping[str, Interval] = {}
    if run.load.kind == "batch":
        seconds, between, basis = static_seconds(run, host)
        simulated = {"batch_latency": seconds + between}
    elif run.load.kind in (OFFLINE, SERVER):
        options = tuple((name, x) for name, x in _options(run, host).items() if name in KEPT and x is not None)
        score = _scored(run.device, run.devices, run.load.kind, run.benchmark, run.layout.get("tp"), options)
        if score.output_tokens_per_s is None:
            raise InputError(run.load.kind, score.reason)
        sure, least = score.interval, CHOSEN if run.load.kind == SERVER else 1.0
        simulated = {"tokens_per_s": score.output_tokens_per_s}
        factors = {"tokens_per_s": Interval(sure.low * least, sure.high, sure.level)} if sure else {}
    else:
        simulated, basis = _served(run, host)
        if run.guess not in ({}, run.layout):
            other, also = _served(replace(run, layout=run.guess), host)
            basis = {name: _either(b, also[name], other[name] / simulated[name]) for name, b in basis.items()}
    measured = {name: run.measured[name] for name in simulated if name in run.measured}
    if not measured:
        known = ", ".join((*FIGURES, "ttft_p90", "tpot_mean", "itl_p50", "batch_latency"))
        raise InputError("metric", f"has no supported metric, such as {known}")
    return _checked(run, {name: simulated[name] for name in measured}, basis, factors)


def _checked(
    run: PublishedRun, simulated: dict[str, float], basis: Mapping[str, IntervalBasis],
    factors: Mapping[str, Interval] | None = None,
) -> RunCheck:  # fmt: skip
    """Return a point with its simulated values for the measured metrics, and intervals by the known widths."""
    measured = {name: run.measured[name] for name in simulated}
    known = fitted_widths()
    spread = {name: basis[name].refit(known) for name in simulated if name in basis} | dict(factors or {})
    engine = " ".join(filter(None, (run.framework, run.version)))
    labels = {
        "source": run.table,
        "device": run.device,
        "model": run.model,
        "engine": engine,
        "concurrency": run.load.size,
    }
    costs = f"{run.system}, {run.framework} kernels"
    return RunCheck(run.name, None, measured, simulated, costs, run.source, spread, basis, labels)


def _served(run: PublishedRun, host: str | None) -> tuple[dict[str, float], dict[str, IntervalBasis]]:
    """Return a point's simulated values, and the inputs of their intervals."""
    with _given(run, host) as options:
        answer = simulate(run.model, **options)
        if run.again and not no_peers(Conditions(answer.run.deployment)):  # as pairs of RTX 4090, see `_after_fastest`
            answer = _once_more(run.model, options, answer)
        values = {name: FIGURES[name](answer, run) if name in FIGURES else _time(answer, name) for name in run.measured}
        simulated = {name: x * (run.copies if name in RATES else 1) for name, x in values.items() if x}
        return simulated, _bases(answer, run, simulated)


def _once_more(model: str, options: Mapping[str, Any], first: Answer) -> Answer:
    """Serve a run's requests twice in sequence; return the second run, whose prompts the prefix cache may still hold."""
    rows = first.run.requests
    drawn = {"rate", "requests", "input_len", "output_len", "lengths"}  # the trace has them
    kept = {name: x for name, x in options.items() if name not in drawn}
    later = rows.last_token_s.max()
    prompts = [
        {
            "input_length": tokens,
            "output_length": new,
            "hash_ids": [*range(i << 20, (i << 20) + ceil(tokens / PREFIX_BLOCK_TOKENS))],
        }
        for i, (tokens, new) in enumerate(zip(rows.input_tokens.tolist(), rows.output_tokens.tolist(), strict=True))
    ]
    sent = zip(np.concatenate([rows.arrival_s, later + rows.arrival_s]).tolist(), [*prompts, *prompts], strict=True)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "twice.jsonl"
        path.write_text(
            "".join(json.dumps({"timestamp": 1e3 * at, **prompt}) + "\n" for at, prompt in sent), encoding="utf-8"
        )
        answer = simulate(model, trace=str(path), warmup=len(prompts), **kept)
    rows = answer.run.requests
    return replace(answer, run=replace(answer.run, requests=rows.part(rows.arrival_s >= later)))


@contextmanager
def _given(run: PublishedRun, host: str | None) -> Iterator[dict[str, Any]]:
    """Return the options of a run's command; the engine's file exists during the run."""
    if not run.options:
        yield {"system": f"{run.device}-x{run.devices}", **_options(run, host)}
    elif "engine" not in run.options:
        yield {**run.options}
    else:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "engine.json"
            path.write_text(run.engine, encoding="utf-8")
            yield {**run.options, "engine": str(path)}


def _step_of(run: PublishedRun) -> RunCheck:
    """Simulate a training step, or a verify step of speculative decoding."""
    if run.command == "train":
        made = train(run.model, **run.options)
        errors = made.errors
        basis = IntervalBasis(TRAINING, errors.alone, errors.amounts, partial(_inverse, errors))
        return _checked(run, {"training_tokens_per_s": made.tokens_per_s}, {"training_tokens_per_s": basis})
    step = roofline(run.model, **run.options)
    seconds = step.step_seconds if step.drafted is None else step.drafted.gain.verify_s
    assert step.stage is not None
    at = Conditions(step.deployment, step.stage, *step.engine)
    known = step_basis(at)
    return _checked(run, {"verify_step": seconds}, {} if known is None else {"verify_step": known})


def _inverse(errors: KindErrors, widths: Widths) -> Interval:
    return errors.interval(widths).inverse


def _either(one: IntervalBasis, other: IntervalBasis, ratio: float) -> IntervalBasis:
    """Return the value that is at `ratio` to the other: it is unknown which of two layouts ran."""
    refit = partial(_both, one.refit, other.refit, ratio)
    return IntervalBasis(one.quantity, refit(NO_FACTORS), one.amounts, refit)


def _both(one: Refit, other: Refit, ratio: float, widths: Widths) -> Interval:
    a, b = one(widths), other(widths)
    return Interval(min(a.low, b.low * ratio), max(a.high, b.high * ratio), a.level)


@cache  # submissions of many makers are the same system
def _scored(
    device: str, devices: int, kind: str, benchmark: str, size: int | None, options: tuple[tuple[str, Any], ...]
) -> Score:
    """Return a system's score in a benchmark, by the benchmark's rules."""
    rules, system = BENCHMARKS[benchmark], load_system(f"{device}-x{devices}")
    most = _scored(device, devices, OFFLINE, benchmark, size, options) if kind == SERVER else None
    return best_score(rules, rules.scenario(**dict(options)), system, kind, size=size, most=most)


def _dtype(run: PublishedRun) -> str | None:
    """Return the format to convert weights to; None for a checkpoint with 4-bit experts already."""
    if run.dtype == "nvfp4" and load_model(run.model).numerics.weight_format("experts") == "mxfp4":
        return None
    return run.dtype


def _options(run: PublishedRun, host: str | None) -> dict[str, Any]:
    """Options of ``opbyte simulate`` for a point."""
    favoured = run.source.startswith(RANDOM) and any(layer.expert_parts for layer in load_model(run.model).layers)
    exponent = next(s for name, s in FAVOURITES.items() if name in run.model.lower())
    out: dict[str, Any] = {
        "framework": _framework(run), "dtype": _dtype(run),
        "sampling": next((s for name, s in SAMPLED.items() if run.source.startswith(name)), None),
        "routing": f"power_law:{exponent}" if favoured else "uniform",
        "kv_dtype": run.kv_dtype, "host": host, "power_cap": run.power_cap, **run.layout, "lengths": run.lengths,
        "input_len": round(run.input_len), "output_len": max(round(run.output_len), 1),
    }  # fmt: skip
    level, result = run.load.level, run.load.requests
    if run.load.kind == "open":
        return out | {"rate": level, "requests": result or LEAST * FOR_EACH}
    clients = max(round(level), 1)
    requests = max(FOR_EACH * clients, LEAST)
    out |= {"closed_loop": clients, "requests": min(requests, MOST, result or MOST)}
    if run.load.limit is not None:
        out |= {"max_seqs": run.load.limit}
    return out | _limits(run) if (run.load.kind, run.framework) == ("saturated", "trtllm") else out


def _limits(run: PublishedRun) -> dict[str, int]:
    """Sequences and tokens of a step that ``trtllm-bench throughput`` starts an engine with where nobody names any.

    Sequences: the estimated number that the cache holds, divided over the pipeline stages and rounded up; tokens: the
    number that these bring per step while prompts and outputs flow; prompts are not cut (`finetune_setting` and
    `calc_engine_setting` in tensorrt_llm/bench/build/tuning.py, `get_settings` in bench/benchmark/utils/general.py,
    1.0).
    """
    model, system = load(run.model, f"{run.device}-x{run.devices}", run.dtype, run.kv_dtype)
    pp, isl, osl = run.layout.get("pp", 1), round(run.input_len), round(run.output_len)
    heads = getattr(model.layers[0].mixer, "kv_heads", 1)
    request = (isl + osl) * model.kv_bytes_per_token * max(run.devices // pp, heads) / heads
    left = run.devices * system.device.memory.capacity_bytes - model.total_params * BENCH_BYTES[run.dtype]
    resident = min(BENCH_SHARE * left / request, BENCH_SEQUENCES) / pp
    step = 32 if resident < 256 else 128 if resident < 1024 else 256
    sequences = max(step * ceil(resident / step), 64)
    flow = min(resident * (1.0 + isl / osl), BENCH_TOKENS)
    step = 256 if flow < 4096 else 512 if flow < 8192 else 1024
    return {"max_seqs": sequences, "token_budget": max(step * ceil(flow / step), 2048, isl + sequences)}


def _framework(run: PublishedRun) -> str:
    version = run.version.partition("+")[0]  # 0.4.3+rocm614
    return f"{run.framework}@{version}" if version else run.framework


def static_seconds(run: PublishedRun, host: str | None) -> tuple[float, float, dict[str, IntervalBasis]]:
    """Seconds of a whole static batch, one pass over all prompts, then steps of all sequences; what the engine's host adds; their interval."""
    degrees: dict[str, Any] = dict(run.layout)
    options = replace(DeployOptions(), framework=_framework(run), host=host, **degrees)
    model, system = load(run.model, load_system(f"{run.device}-x{run.devices}"), run.dtype)
    d = deployed(model, system, options)
    engine = ENGINES[run.framework](d, LaunchSettings(version=run.version)).policy
    host_delay = engine.host_delay(NO_LAUNCHES, 1)
    sequences, tokens = round(run.load.level), max(round(run.output_len), 1)
    times = static_times(d, [round(run.input_len)] * sequences, tokens, CONTEXTS)
    between = host_delay.gap_s if host_delay.hidden else host_delay.gap_s + host_delay.sequence_s * sequences
    middle = Batch.of([round(run.input_len) + tokens // 2] * sequences)
    stage = explicit_stage(d, [middle] * d.ranks, expected=True)
    c = Conditions(d, stage, run.framework, numbers_of(run.version))
    basis = step_basis(c, (stage.seconds, between))
    return times["total"], tokens * between, {} if basis is None else {"batch_latency": basis}
