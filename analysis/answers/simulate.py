"""Simulations as answers: one run, one run over several seeds, or the built-in comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...devices.catalog import describe_system
from ...devices.spec import SystemSpec
from ...simulator.batching.policies import MAX_SEQUENCES, Policy, limited, make_policy
from ...simulator.deploy.deployment import Deployment, deploy
from ...simulator.frameworks.vllm_file import EngineFile, read_engine
from ...simulator.serving.engine import Progress
from ...simulator.serving.fleet import Fleet
from ...simulator.serving.record import OpTotal, Run
from ...simulator.serving.run import run
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ...workloads.requests import RequestStream, open_requests
from ...workloads.requests.options import MAX_SIZE, check_count, check_seed, check_whole
from ..show.result import Result, seconds, show
from .coverage import coverage, coverage_blocks
from .evidence import evidence
from .load import load
from .summary import (
    LATENCIES,
    QUANTILES,
    comparison_rows,
    evidence_text,
    figure_rows,
    figures,
    flat,
    heading,
    latency_rows,
    ratio,
    text_of,
    where_rows,
)

if TYPE_CHECKING:
    import pandas as pd

    from ..report import Section

DEMO_MODEL = "mixtral-8x7b"
DEMO_SYSTEMS = ("duplex-x4", "duplex-gpu-x4")
DEMO_CLIENTS, DEMO_REQUESTS, DEMO_WARMUP = 64, 512, 128
"""The run without arguments: 64 requests in flight, as in the middle of the Duplex paper's
batches (32, 64, 128); two batches of completions are left out as warm-up, as there."""

MAX_SEEDS = 1000


@dataclass(frozen=True, slots=True)
class Simulation(Result):
    """One simulation with everything measured; see `simulate`.

    Attributes
    ----------
    run : Run
        The simulator's result: per-request stamps, op totals, metrics.
    evidence : list of dict
        Cost models and assumptions behind it.
    warnings : tuple of str
        What a reader should know before trusting it.
    sources : mapping of str to str
        Key path of the system's description -> source of that number.
    """

    run: Run
    evidence: list[dict[str, Any]]
    warnings: tuple[str, ...]
    sources: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        r = self.run
        return {
            "model": r.deployment.model.name,
            "system": r.deployment.system.name,
            "policy": r.policy.name,
            "placement": r.deployment.placement,
            "workload": r.workload,
            "seed": r.seed,
            "requests": len(r.requests.request_id),
            "iterations": r.iterations,
            "preemptions": r.preemptions,
            "output_tokens": r.output_tokens,
            "prompt_tokens": r.prompt_tokens,
            "cached_tokens": r.cached_tokens,
            "makespan_s": r.makespan_s,
            "interval_s": r.interval_s,
            "interval_output_tokens": r.interval_output_tokens,
            "output_tokens_per_s": r.output_tokens_per_s,
            "total_tokens_per_s": r.total_tokens_per_s,
            "joules_per_token": r.joules_per_token,
            "dynamic_joules": r.joules,
            "static_joules_per_token": ratio(r.interval_static_joules, r.interval_output_tokens),
            "busy_joules_per_token": ratio(r.interval_busy_joules, r.interval_output_tokens),
            "watts_per_device": r.watts_per_device,
            "kv_peak_fraction": r.kv_peak,
            "failures": r.failures,
            "restarts": r.restarts,
            "moved_kv_bytes": r.moved_bytes,
            **{name: getattr(r, name).as_dict() for name in LATENCIES},
            "layers": [_op_dict(op) for op in layer_totals(r)],
            "evidence": self.evidence,
            "kernel_tables": coverage(r),
            "warnings": list(self.warnings),
            "wall_s": r.wall_s,
        }

    def rows(self) -> Sequence[Mapping[str, Any]]:
        latencies = latency_rows(self.run)
        return [
            *({"metric": label, "value": text_of(x, unit)} for label, x, unit in figures(self.run)),
            *({"metric": f"{row['latency']}, {q}", "value": row[q]}
              for row in latencies for q in QUANTILES),
        ]  # fmt: skip

    def records(self) -> Sequence[Mapping[str, Any]]:
        return [{"metric": name, "value": value} for name, value in flat(self.run).items()]

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        return [
            heading(self.run), figure_rows(self.run), latency_rows(self.run),
            where_rows(self.run), *self.outside_tables(), self.rests_on(),
        ]  # fmt: skip

    def outside_tables(self) -> list[str | Sequence[Mapping[str, Any]]]:
        """How often ops lay outside the kernel tables; nothing where none are in use."""
        return coverage_blocks(coverage(self.run))

    def sections(self) -> Sequence[Section]:
        from ..report.simulation import run_sections

        return run_sections(self)

    def rests_on(self) -> str:
        """The cost models behind the figures, and the constants they assume."""
        return evidence_text(self.evidence, self.run.deployment.system.name)

    def requests(self) -> pd.DataFrame:
        """One row per finished request: lengths and stamps [s]."""
        import pandas as pd

        return pd.DataFrame(self.run.requests.columns())

    def stages(self) -> pd.DataFrame:
        """Stretches of equal batches, in order (empty unless they were kept)."""
        import pandas as pd

        return pd.DataFrame(self.run.stages)

    def ops(self) -> pd.DataFrame:
        """Totals of every op by processor: time, work and energy of all devices."""
        import pandas as pd

        name = self.run.deployment.system.name
        return pd.DataFrame([{"run": name, **_op_dict(op)} for op in self.run.ops])


def _op_dict(op: OpTotal) -> dict[str, Any]:
    return {
        "layer": op.layer,
        "name": op.name,
        "kind": op.kind,
        "processor": op.processor,
        "wall_s": op.wall_s,
        "busy_s": op.busy_s,
        "flops": op.flops,
        "bytes": op.bytes,
        "op_per_byte": op.op_per_byte,
        **{f"{path}_joules": op.joules[path] for path in ("dram", "compute", "link")},
    }


def layer_totals(r: Run) -> list[OpTotal]:
    """Op totals, the longest on the clock first."""
    return sorted(r.ops, key=lambda op: (-op.wall_s, op.name, op.processor))


@dataclass(frozen=True, slots=True)
class Comparison(Result):
    """The same requests on several systems, and what follows from it."""

    runs: tuple[Simulation, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of all runs, each once."""
        return tuple(dict.fromkeys(w for r in self.runs for w in r.warnings))

    def to_dict(self) -> dict[str, Any]:
        return {"runs": [r.to_dict() for r in self.runs], "verdict": self.verdict()}

    def rows(self) -> Sequence[Mapping[str, Any]]:
        return comparison_rows([r.run for r in self.runs])

    def records(self) -> Sequence[Mapping[str, Any]]:
        return [{"system": r.run.deployment.system.name, **flat(r.run)} for r in self.runs]

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        out: list[str | Sequence[Mapping[str, Any]]] = []
        for each in self.runs:
            out += [heading(each.run), where_rows(each.run)]
        return [*out, self.rows(), self.verdict(), *(r.rests_on() for r in self.runs)]

    def report_title(self) -> str:
        systems = " and ".join(r.run.deployment.system.name for r in self.runs)
        return f"{self.runs[0].run.deployment.model.name} on {systems}"

    def sections(self) -> Sequence[Section]:
        from ..report.simulation import comparison_sections

        return comparison_sections(self)

    def verdict(self) -> str:
        """Say which is better by how much, and which layers moved and why."""
        best, base = self.runs[0].run, self.runs[-1].run
        ratios = {
            "the output tokens per second": ratio(
                best.output_tokens_per_s, base.output_tokens_per_s
            ),
            "the median time between tokens": ratio(best.tbt_s.p50, base.tbt_s.p50),
            "the energy per token": ratio(best.joules_per_token, base.joules_per_token),
        }
        known = ", ".join(f"{x:.2f}x {what}" for what, x in ratios.items() if x is not None)
        text = (
            f"{best.deployment.system.name} against {base.deployment.system.name} on "
            f"{best.deployment.model.name}: {known}."
        )
        moved = [
            f"{m['name']} ({m['op_per_byte']:.1f} Op/B, {m['share']:.0%} of its memory traffic)"
            for m in moved_layers(best, base)
        ]
        if moved:
            text += f" Memory-bound on the xPU and moved to {self._near()}: {', '.join(moved)}."
        return text

    def _near(self) -> str:
        processors = self.runs[0].run.deployment.device.processors.values()
        return ", ".join(p.name for p in processors if p.kind != "xpu") or "no processor"


def moved_layers(best: Run, base: Run) -> list[dict[str, Any]]:
    """Ops that are memory-bound on `base` and ran beside the main processor in `best`.

    Returns
    -------
    list of dict
        ``name``, ``op_per_byte`` of what moved, ``share`` of its memory traffic that moved.
    """
    main = {p.name: p for p in base.deployment.device.processors.values() if p.kind == "xpu"}
    dtype = base.deployment.model.numerics.default
    bound = {
        op.name
        for op in base.ops
        if op.processor in main
        and op.op_per_byte is not None
        and op.op_per_byte < main[op.processor].ridge(dtype)
    }
    out = []
    near = [p.name for p in best.deployment.device.processors.values() if p.kind != "xpu"]
    for op in layer_totals(best):
        if op.processor in near and op.name in bound:
            traffic = sum(o.bytes for o in best.ops if o.name == op.name)
            share = op.bytes / traffic if traffic else 0.0
            out.append({"name": op.name, "op_per_byte": op.op_per_byte, "share": share})
    return out


@dataclass(frozen=True, slots=True)
class Seeds(Result):
    """The same simulation over several seeds: means and 95 % confidence intervals."""

    runs: tuple[Simulation, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings of all runs, each once."""
        return tuple(dict.fromkeys(w for r in self.runs for w in r.warnings))

    def to_dict(self) -> dict[str, Any]:
        first = self.runs[0].to_dict()
        tables = [r.to_dict() for r in self.runs]
        out = dict(first)
        out["seeds"] = [r.run.seed for r in self.runs]
        for key, value in first.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and key != "seed":
                out[key], _ = mean_ci95([t[key] for t in tables])
        for key in LATENCIES:
            stats = {q: mean_ci95([t[key][q] for t in tables]) for q in first[key]}
            out[key] = {q: m for q, (m, _) in stats.items()}
            out[key]["ci95"] = {q: half for q, (_, half) in stats.items()}
        rates = ("output_tokens_per_s", "total_tokens_per_s", "joules_per_token")
        out["ci95"] = {key: mean_ci95([t[key] for t in tables])[1] for key in rates}
        out["warnings"] = list(self.warnings)
        out.pop("layers")
        return out

    def records(self) -> Sequence[Mapping[str, Any]]:
        tables = [flat(r.run) for r in self.runs]
        return [
            {"metric": name, "mean": mean, "ci95": half}
            for name in tables[0]
            for mean, half in [mean_ci95([t[name] for t in tables])]
        ]

    def blocks(self) -> list[str | Sequence[Mapping[str, Any]]]:
        first = self.runs[0]
        seeds = f"{len(self.runs)} seeds from {first.run.seed} on"
        return [f"{heading(first.run)}; {seeds}", self.rows(), first.rests_on()]

    def sections(self) -> Sequence[Section]:
        from ..report.simulation import seeds_sections

        return seeds_sections(self)

    def rows(self) -> Sequence[Mapping[str, Any]]:
        data = self.to_dict()
        out = [
            {"metric": key, "mean": show(data[key]), "95 % interval": f"+- {show(half)}"}
            for key, half in data["ci95"].items()
        ]
        for key in LATENCIES:
            for q, half in data[key]["ci95"].items():
                row = {"metric": f"{key} {q}", "mean": seconds(data[key][q])}
                out.append(row | {"95 % interval": f"+- {seconds(half)}"})
        return out


def mean_ci95(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and half width of its 95 % interval (Student's t); None where any is undefined."""
    known = [v for v in values if v is not None]
    if len(known) < len(values):
        return None, None
    mean = sum(known) / len(known)
    if len(known) < 2:
        return mean, None
    from scipy.stats import t

    variance = sum((v - mean) ** 2 for v in known) / (len(known) - 1)
    return mean, float(t.ppf(0.975, len(known) - 1)) * (variance / len(known)) ** 0.5


def simulate(
    model: str | Path | ModelSpec | None = None,
    system: str | Path | SystemSpec | None = None,
    *,
    trace: str | Path | None = None,
    rate: float | None = None,
    closed_loop: int | None = None,
    requests: int | None = None,
    input_len: int | None = None,
    output_len: int | None = None,
    lengths: str | None = None,
    turns: float | None = None,
    think: float | None = None,
    cv: float | None = None,
    rate_scale: float | None = None,
    spread: float | None = None,
    duration: float | None = None,
    policy: str | None = None,
    token_budget: int | None = None,
    max_seqs: int | None = None,
    max_model_len: int | None = None,
    engine: str | Path | None = None,
    kernels: str | Path | None = None,
    costs: str = "auto",
    placement: str | None = None,
    attention: str | None = None,
    routing: str = "uniform",
    dtype: str | None = None,
    kv_dtype: str | None = None,
    tp: int | None = None,
    dp: int | None = None,
    ep: int | None = None,
    pp: int | None = None,
    warmup: int | None = None,
    seed: int = 0,
    seeds: int | None = None,
    fleet: Fleet | None = None,
    stop: int | None = None,
    keep_stages: bool = False,
    progress: Progress | None = None,
) -> Simulation | Seeds | Comparison:
    """Serve requests with a model on a system.

    Without a model and a system: Mixtral-8x7B on four Duplex devices against four GPUs, over
    the embedded sample.

    Parameters
    ----------
    model, system : str, Path or spec
        Catalog name or file.
    trace : str or Path, optional
        Request trace; see `workloads.requests.open_requests` for formats and for `rate`,
        `closed_loop`, lengths, `turns`, `think`, `cv`, `rate_scale`, `spread` and `duration`.
    requests : int, optional
        Most requests.
    policy : str, optional
        A registered policy, "chunked" if not given, with `token_budget` and `max_seqs` to change
        its limits.
    max_model_len : int, optional
        Longest prompt plus output accepted [tokens].
    engine : str or Path, optional
        Settings of a real engine (``engine.json``): its limits, policy, parallel degrees, formats
        and KV blocks; options given beside it come first.
    kernels : str or Path, optional
        Measured kernel tables of the device.
    costs, placement, attention, routing, dtype, kv_dtype, tp, dp, ep, pp
        See `simulator.deploy.deployment.deploy`.
    warmup : int, optional
        Completions left out of rates and latencies; none by default.
    seed : int
        Seed of requests and expert draws.
    seeds : int, optional
        Run that many seeds from `seed` on, and give means with 95 % intervals.
    fleet : Fleet, optional
        Replicas of the system behind a router, and their failures.
    stop : int, optional
        Completions after which the run ends, with the system still full; see `simulator.run`.
    keep_stages : bool
        Keep the table of stages.
    progress : callable, optional
        Called now and then with (requests completed, requests known, simulated seconds).

    Returns
    -------
    Simulation, Seeds or Comparison

    Raises
    ------
    InputError
        Anything that cannot be used; the message says what would be right.
    """
    degrees = {"tp": tp, "dp": dp, "ep": ep, "pp": pp}
    degrees = {name: check_whole(x, f"--{name}") for name, x in degrees.items()}
    work: dict[str, Any] = {
        "source": trace, "rate": rate, "closed_loop": closed_loop, "limit": requests,
        "input_len": input_len, "output_len": output_len, "lengths": lengths, "cv": cv,
        "turns": turns, "think": think,
        "rate_scale": rate_scale, "spread": spread, "duration": duration,
    }  # fmt: skip
    check_seed(seed)
    setup = read_engine(engine) if engine is not None else None
    if setup is not None:
        degrees = {name: x or getattr(setup, name) for name, x in degrees.items()}
        dtype, kv_dtype = dtype or setup.dtype, kv_dtype or setup.kv_dtype
        max_model_len = max_model_len or setup.max_model_len
    where: dict[str, Any] = {
        **degrees, "placement": placement, "attention": attention,
        "routing": routing, "costs": costs, "kernels": () if kernels is None else (str(kernels),),
        "exchange": "all_to_all" if setup is None else setup.exchange,
    }  # fmt: skip
    limits = Batching(
        policy, check_whole(token_budget, "--token-budget"), check_whole(max_seqs, "--max-seqs"),
        setup,
    )  # fmt: skip
    limits.policy()  # refuses wrong limits before any file is read
    for option, value, most in (
        ("--warmup", warmup, MAX_SIZE), ("--max-model-len", max_model_len, MAX_SIZE),
        ("--seeds", seeds, MAX_SEEDS),
    ):  # fmt: skip
        if value is not None:
            check_count(value, option, 0 if option == "--warmup" else 1, most)
    rest = {"warmup": warmup, "keep_stages": keep_stages, "progress": progress, "fleet": fleet,
            "stop": stop}  # fmt: skip
    if model is None and system is None:
        if seeds is not None:
            raise InputError("--seeds", "needs MODEL and --system, for example mixtral-8x7b")
        return _demo(work, where, limits, rest, dtype, kv_dtype, seed, max_model_len)
    if model is None or system is None:
        missing, example = ("MODEL", "mixtral-8x7b") if model is None else ("--system", "h100-x4")
        raise InputError(missing, f"is needed too, for example {example}")
    spec, target = load(model, system, dtype, kv_dtype)
    sources = {} if isinstance(system, SystemSpec) else describe_system(system)[1]
    results = []
    for each in range(seed, seed + (seeds or 1)):
        stream = open_requests(**work, seed=each)
        deployment = deploy(spec, target, **where, seed=each)
        results.append(_simulate(deployment, limits, stream, sources, each, max_model_len, rest))
    return Seeds(tuple(results)) if seeds is not None else results[0]


@dataclass(frozen=True, slots=True)
class Batching:
    """The policy that options ask for, by name and limits or by an engine's settings."""

    name: str | None
    token_budget: int | None
    max_seqs: int | None
    engine: EngineFile | None

    def policy(self, clients: int | None = None) -> Policy:
        """The policy; in a closed loop of `clients` with room for all of them unless limited."""
        if self.engine is not None and self.name is None:
            base = self.engine.policy
            return limited(base, self.token_budget, self.max_seqs)
        sequences = self.max_seqs
        if clients is not None and sequences is None:
            sequences = min(max(256, clients), MAX_SEQUENCES)
        return make_policy(self.name or "chunked", self.token_budget, sequences)


def _simulate(
    deployment: Deployment,
    limits: Batching,
    stream: RequestStream,
    sources: Mapping[str, str],
    seed: int,
    max_model_len: int | None,
    rest: Mapping[str, Any],
) -> Simulation:
    policy = limits.policy(stream.closed_loop)
    cache = None
    if limits.engine is not None:
        cache = limits.engine.cache_on(deployment.system.device)
    if max_model_len is not None:
        stream = _checked_lengths(stream, max_model_len)
    options = {**rest, "warmup": rest["warmup"] or 0}
    result = run(deployment, policy, stream, seed=seed, cache=cache, **options)
    warnings = (*(limits.engine.warnings if limits.engine else ()), *_warnings(result))
    return Simulation(result, evidence(deployment, sources, policy), warnings, sources)


def _checked_lengths(stream: RequestStream, longest: int) -> RequestStream:
    """The same stream, refusing a request longer than the engine accepts."""

    def blocks() -> Any:
        for block in stream:
            length = block.input_tokens + block.output_tokens
            if (length > longest).any():
                i = int((length > longest).argmax())
                raise InputError(
                    "--max-model-len",
                    f"request {block.request_id[i]} of {stream.name} has {length[i]} tokens, "
                    f"more than {longest}",
                )
            yield block

    return RequestStream(stream.name, stream.has_arrivals, stream.closed_loop, blocks)


def _warnings(r: Run) -> tuple[str, ...]:
    longest = r.deployment.model.max_position
    lengths = r.requests.input_tokens + r.requests.output_tokens
    beyond = 0 if longest is None else int((lengths > longest).sum())
    if not beyond:
        return ()
    text = (
        f"{beyond:,} of {len(lengths):,} requests are longer than the {longest:,} positions "
        f"{r.deployment.model.name} was made for (longest: {int(lengths.max()):,})"
    )
    return (text,)


def _demo(
    work: Mapping[str, Any],
    where: Mapping[str, Any],
    limits: Batching,
    rest: Mapping[str, Any],
    dtype: str | None,
    kv_dtype: str | None,
    seed: int,
    max_model_len: int | None,
) -> Comparison:
    """Mixtral-8x7B on four Duplex devices against four GPUs; options still apply."""
    work, rest = dict(work), dict(rest)
    if all(work[key] is None for key in ("source", "rate", "closed_loop", "limit", "duration")):
        work["closed_loop"], work["limit"] = DEMO_CLIENTS, DEMO_REQUESTS
        rest["warmup"] = DEMO_WARMUP if rest["warmup"] is None else rest["warmup"]
    runs = []
    for name in DEMO_SYSTEMS:
        spec, target = load(DEMO_MODEL, name, dtype, kv_dtype)
        deployment = deploy(spec, target, **where, seed=seed)
        stream = open_requests(**work, seed=seed)
        sources = describe_system(name)[1]
        runs.append(_simulate(deployment, limits, stream, sources, seed, max_model_len, rest))
    return Comparison(tuple(runs))
