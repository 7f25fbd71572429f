"""Simulate one serving point: its deployment, its engine, its closed loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from ....devices.calibrated.libraries import BLACKWELL, generation
from ....devices.catalog import load_device, load_system
from ....simulator.deploy.deployment import Deployment, deploy
from ....simulator.engine.policies import without_front
from ....simulator.fleet.driver import RunSettings, serve
from ....simulator.fleet.pools import KvLink, Pools
from ....simulator.fleet.run import run
from ....simulator.frameworks.engines import exchange_of
from ....simulator.frameworks.kernels import formats
from ....simulator.scenario.options import Workload
from ....workloads.catalog import load_model
from ....workloads.errors import InputError
from ....workloads.requests import RequestStream
from ....workloads.sampling import GREEDY
from ...answers.error_factors import UNTOLD
from ...answers.interval import Interval
from ...answers.run_interval import RunDraws, usual_draws
from ...parallel import OnProgress
from ...parallel.local import Crew, cores
from ...show.kept import NOTHING, Kept
from ..statistics import per_token
from .engines import NAMES, settings, with_experts
from .table import ServingPoint, WorkerGroup

REQUESTS = 10
"""Requests for each client (README of $OPBYTE_DATA/serving_points)."""
MEAN = 0.9
"""Mean length over the nominal one in the public benchmark."""
FIRST_USE_S: Mapping[str, float] = {"SGLang": 0.9, "TensorRT-LLM": 0.9}
"""Seconds that the first request of every client waits for kernels that are new to its server, where the model has experts. DeepGEMM is
compiled for every shape when it is first called (github.com/deepseek-ai/DeepGEMM, called by SGLang and TensorRT-LLM), TensorRT-LLM
loads the kernels of its experts and tries them. How the seconds divide is not known; TPOT shows none of them. A server that has served
for a while has none, and `simulate` adds none. The one fitted constant of each framework: the value with the least median error of TTFT
over the rows of $OPBYTE_DATA/serving_points whose deployment is not split (`opbyte validate constants`). vLLM has no such row."""
MANY, LEAST = 1000, 3
"""Split deployments have up to thousands of clients, and their engines stop at every event of the cluster: limit of
all requests, and minimum for each client."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted times of a serving point: means over its requests.

    Attributes
    ----------
    engine_ttft_s : float
        From a request's arrival at the server until its first token is handed out [s].
    request_s : float
        What it spends outside, see `Host.request_s` [s].
    first_use_s : float or None
        What the first request of every client waits besides, see `FIRST_USE_S` [s]; None for
        models without experts, which do not.
    tpot_s : float
        (Last token - first token) / (output tokens - 1) [s].
    errors : RunDraws, optional
        Inputs of both intervals; see `answers.run_interval`.
    """

    engine_ttft_s: float
    request_s: float
    tpot_s: float
    requests: int
    preemptions: int
    errors: RunDraws | None = None
    first_use_s: float | None = None

    @property
    def sure(self) -> tuple[Interval, Interval] | None:
        """Return the intervals of factors on TPOT and on TTFT; None if unknown."""
        if self.errors is None:
            return None
        known = self.errors.intervals()
        return known.tpot, known.ttft

    @property
    def ttft_s(self) -> float:
        """From sending a request to seeing its first token [s]."""
        return self.engine_ttft_s + self.request_s + (self.first_use_s or 0.0) / REQUESTS


def predict(point: ServingPoint, folder: Path, seed: int = 0, host_times: float = 1.0) -> Prediction:
    """Simulate a point.

    Parameters
    ----------
    folder : Path
        Folder of the table; models are in ``model_configs`` in it or next to it.
    host_times : float
        What its engine's host adds, as a multiple of what is known of its version.

    Raises
    ------
    InputError, CapacityError
        A framework or number format that is not known; a layout that does not fit.
    """
    stream = requests(point, seed)
    serving = side = _deployment(point, point.workers, folder)
    engine = settings(point, serving, host_times)
    policy = engine.policy if point.prefill is None else without_front(engine.policy)
    if point.prefill is None:
        result = run(serving, policy, stream, cache=engine.cache, seed=seed).requests
    else:
        side = _deployment(point, point.prefill, folder)
        entry = settings(point, side, host_times)  # chunks and limits follow from a worker's layout
        pools = Pools((side,) * point.prefill.count, (serving,) * point.workers.count,
                      KvLink.of(serving.system.device.node_link), policy, engine.cache)  # fmt: skip
        served = serve(RunSettings(pools, without_front(entry.policy), stream, cache=entry.cache, seed=seed))
        result = served.table.finished(several=True)
    first, last, arrival = result.first_token_s, result.last_token_s, result.arrival_s
    tokens, preempted = result.output_tokens, int(result.preemptions.sum())
    tpot, ttft_s = np.nanmean(per_token(first, last, tokens)), float((first - arrival).mean())
    return Prediction(
        ttft_s, policy.host.request_s, float(tpot), len(tokens), preempted,
        _errors(point, serving, side, ttft_s + policy.host.request_s),
        FIRST_USE_S.get(point.framework, 0.0) if serving.has_experts else None,
    )  # fmt: skip


def _errors(point: ServingPoint, serving: Deployment, side: Deployment, ttft_s: float) -> RunDraws | None:
    """Return samples of the errors of TPOT and TTFT, from the decode and prefill devices; None if unknown."""
    decodes = max(round(point.clients / (serving.ranks * point.workers.count)), 1)
    isl, osl = (MEAN * n for n in longest(point))
    prompt, context = (max(round(n), 1) for n in (isl, isl + osl / 2))
    engine = NAMES.get(point.framework, ""), point.version or UNTOLD
    split = side is not serving
    decoding = usual_draws(serving, decodes, context, prompt, engine, split, 0.0 if point.scripted or split else ttft_s)
    if not split or decoding is None:
        return decoding
    prompts = usual_draws(side, 1, context, prompt, engine)
    return None if prompts is None else replace(decoding, prompt=prompts.prompt)


def requests(point: ServingPoint, seed: int) -> RequestStream:
    """Sample a point's closed loop.

    The benchmark samples lengths from 0.8 to 1.0 of the nominal ones. Other sources do not state a range (README of
    $OPBYTE_DATA/serving_points); their tool asks for nominal lengths without a spread (ai-dynamo/aiconfigurator,
    eval/benchmarks: stddev 0, random-range-ratio 1). Equal lengths would keep all clients in step for a whole run,
    which their TPOT contradicts, so they are sampled with the same width around the nominal ones.
    """
    isl, osl = longest(point)
    limit = REQUESTS * point.clients
    if point.prefill is not None:
        limit = min(limit, max(MANY, LEAST * point.clients))
    work = Workload(closed_loop=point.clients, requests=limit, input_len=isl, output_len=osl, lengths="uniform")
    return work.open(seed)


def longest(point: ServingPoint) -> tuple[int, int]:
    """Longest prompt and output that a point's requests have [tokens]; their mean is `MEAN` of them."""
    if point.scripted:
        return point.isl, point.osl
    return round(point.isl / MEAN), round(point.osl / MEAN)


def _deployment(point: ServingPoint, workers: WorkerGroup, folder: Path) -> Deployment:
    exchange = exchange_of(NAMES.get(point.framework, ""), load_device(point.device)[0], workers.dp, workers.ep)
    side = deployed(
        folder, point.device, point.model, point.weight_dtype, point.kv_dtype,
        (workers.tp, workers.dp, workers.ep), workers.pp, exchange,
    )  # fmt: skip
    return with_experts(point, side)


@lru_cache(maxsize=64)
def deployed(
    folder: Path, device: str, model: str, weights: str, kv: str, sizes: tuple[int, int, int],
    pp: int = 1, exchange: str = "all_to_all",
) -> Deployment:  # fmt: skip
    """Return the deployment of one worker of `sizes` (tp, dp, ep), cached in each process."""
    tp, dp, ep = sizes
    spec = load_model(model_file(folder, model) or model)
    one, _ = load_device(device)
    spec = replace(spec, numerics=formats(spec, weights, kv, generation(one) == BLACKWELL))
    devices = tp * dp * pp
    nodes = -(-devices // one.node_size)
    name = f"{device}-x{devices}" if nodes == 1 else f"{device}-{nodes}x{devices // nodes}"
    has_experts = spec.moe_layers > 0
    return deploy(
        spec, load_system(name), tp=tp, dp=dp, ep=ep if has_experts else None, pp=pp,
        draws="step", exchange=exchange, sampling=GREEDY,
    )  # fmt: skip


def model_file(folder: Path, name: str) -> Path | None:
    """Return the folder of a model's ``config.json`` next to a table; None for a model of the catalog."""
    places = (place / "model_configs" / name for place in (folder, folder.parent))
    return next((path for path in places if path.is_dir()), None)


Outcome = Prediction | str
"""A prediction, or why there is none."""
MOST_WORKERS = 8


def predict_all(
    points: Sequence[ServingPoint], folder: Path, progress: OnProgress | None = None, kept: Kept = NOTHING,
    host_times: float = 1.0,
) -> list[Outcome]:  # fmt: skip
    """Simulate points, see `predict`; points of one deployment run one after another in one process.

    Returns
    -------
    list of Prediction or str
        In the order of `points`; a text says why a point could not be simulated.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, p in enumerate(points):
        groups.setdefault((p.device, p.model, p.weight_dtype, p.workers, p.prefill), []).append(i)
    work = [p.osl * (100.0 if p.prefill else 1.0) for p in points]  # roughly
    jobs = sorted(groups.values(), key=lambda rows: -sum(work[i] for i in rows))
    out: dict[int, Outcome] = {}

    def lost(line: str) -> list[Outcome]:
        return [line] * len(points)

    with Crew(min(cores(), MOST_WORKERS, len(jobs))) as crew:
        tasks = [[points[i] for i in rows] for rows in jobs]
        call = partial(_several, folder=folder, kept=kept, host_times=host_times)
        for job, outcomes in crew.run(call, tasks, lost):
            out |= dict(zip(jobs[job], outcomes, strict=False))
            if progress:
                progress(len(out), len(points))
    return [out[i] for i in range(len(points))]


def _several(points: Sequence[ServingPoint], folder: Path, kept: Kept, host_times: float) -> list[Outcome]:
    out = []
    for point in points:
        known = [point, 0, model_file(folder, point.model)] if kept else None
        out.append(kept.once(known, partial(_one, point, folder, host_times)))
    return out


def _one(point: ServingPoint, folder: Path, host_times: float) -> Outcome:
    try:
        return predict(point, folder, host_times=host_times)
    except InputError as error:
        return str(error)
