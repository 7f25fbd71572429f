"""Serve a run's requests in the simulator and measure them stage by stage, as the client did."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ....devices.hosts.catalog import placed_in
from ....devices.hosts.spec import HostSpec
from ....simulator.deploy.deployment import Deployment
from ....simulator.fleet.run import run as serve
from ....simulator.frameworks.engine_file import engine_of
from ....simulator.frameworks.keys import numbers_of
from ....simulator.frameworks.settings import EngineSettings
from ....simulator.results.record import Run
from ....simulator.scenario.load import load
from ....simulator.scenario.options import DeployOptions
from ....simulator.scenario.place import deployed
from ....workloads.requests import RequestBlock, RequestStream, open_requests
from ....workloads.sampling import checkpoint_sampling
from ...answers.error_factors import fitted_widths
from ...answers.run_interval import run_draws
from ..check import RunCheck
from ..statistics import QUANTILES, STATISTICS, client_times, figures
from .basis import run_bases
from .spec import RUN, MeasuredRun, Prompts

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


F8 = npt.NDArray[np.float64]


def replay(run: MeasuredRun, seeds: int, kernels: str, host: str | Path | None = None) -> list[RunCheck]:
    """Serve a run with several samples of its requests; return one entry per stage.

    Parameters
    ----------
    seeds : int
        Number of samples; every value is their mean. Recorded requests are not sampled.
    kernels : str
        Whose kernels cost the ops, see `DeployOptions.framework`.
    host : str or Path, optional
        How the GPUs were connected, see `devices.hosts`.

    Raises
    ------
    InputError, CapacityError
        Settings that are not simulated, or a model that does not fit.
    """
    deployment, settings = deployment_of(run, kernels, host)
    served = list(served_draws(run, deployment, settings, seeds))
    costs = f"{deployment.system.name}, {kernels} kernels"
    version = str(run.engine.get("version", ""))
    draws = run_draws(served[-1][1], True, ("vllm", numbers_of(version)))
    source = run.folder.parent.parent.name if run.folder.parent.name == "runs" else run.folder.parent.name
    labels = {"source": source, "device": run.device, "model": run.checkpoint or run.name, "engine": f"vllm {version}".strip(),
              "concurrency": "open"}  # fmt: skip
    checks = [
        RunCheck(
            run.name, s, dict(measured), {name: float(np.mean([one[s][name] for one, _ in served])) for name in measured},
            costs, basis=run_bases(draws, measured), labels=labels,
        )
        for s, measured in enumerate(run.measured)
    ]  # fmt: skip
    return [check.with_widths(fitted_widths()) for check in checks]


def served_draws(
    run: MeasuredRun, deployment: Deployment, settings: EngineSettings, seeds: int
) -> Iterator[tuple[list[dict[str, float]], Run]]:
    """Return the metrics of every stage, and the simulated run, for each sample of the requests."""
    cache = settings.cache_for(deployment)
    for seed in range(seeds if run.requests is None else 1):
        drawn = draw(run, seed, cache.block_tokens)
        result = serve(deployment, settings.policy, drawn.stream, cache=cache, seed=seed, keep_stages=True)
        yield stage_metrics(result, drawn.stage), result


def deployment_of(
    run: MeasuredRun, kernels: str, host: str | Path | HostSpec | None = None
) -> tuple[Deployment, EngineSettings]:
    """The deployment of a run, and its engine's settings."""
    settings = engine_of(run.folder / RUN, dict(run.engine))
    if "override_generation_config" not in run.engine:  # its client sends no sampling parameters
        settings = replace(settings, sampling=checkpoint_sampling(run.checkpoint))
    model, system = load(run.model, run.system, settings.dtype, settings.kv_dtype, settings.max_model_len)
    options, system = replace(DeployOptions(), framework=kernels), placed_in(system, host)
    deployment = deployed(model, system, options, settings)
    return deployment, settings.on(deployment)


def stage_metrics(result: Run, stage: npt.NDArray[np.int64]) -> list[dict[str, float]]:
    """Every metric of each stage of one simulated run [s].

    Parameters
    ----------
    stage : int64 array, shape (n,)
        In which each request was sent, by request id.
    """
    table, times = result.requests, client_times(result)
    stages = stage[table.request_id]
    starts = [float(table.arrival_s[stages == s].min()) for s in range(int(stages.max()) + 1)]
    out = []
    for s, start in enumerate(starts):
        end = starts[s + 1] if s + 1 < len(starts) else np.inf
        here = stages == s
        out.append(figures({name: every[here] for name, every in times.items()}) | _gaps(result.stages, start, end))
    return out


def _gaps(log: dict[str, F8], start: float, end: float) -> dict[str, float]:
    """Return mean and quantiles of the gaps between tokens, from the log entries that began in a time span.

    Every decode of a step gets a token at its end, after the step's time; steps of a log entry are equal.
    """
    here = (log["start_s"] >= start) & (log["start_s"] < end) & (log["decodes"] > 0)
    count = (log["decodes"] * log["steps"])[here]
    gap = ((log["end_s"] - log["start_s"]) / log["steps"])[here]
    order = np.argsort(gap, kind="stable")
    gap, running = gap[order], np.cumsum(count[order])
    if not len(gap):
        return {}
    mean = float((gap * count[order]).sum() / running[-1])
    at = np.searchsorted(running, np.array(QUANTILES) * running[-1])
    figures = [mean, *gap[np.minimum(at, len(gap) - 1)]]
    return {f"itl_{k}": float(x) for k, x in zip(STATISTICS, figures, strict=True)}
