"""Options of the core: the requests, the engine, the deployment and the fleet. A part has its own (`parts/*/options.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ...workloads.requests.options import MAX_CV, MAX_RATE, MAX_TIME_S, MAX_TURNS, MIN_CV, MIN_RATE, MIN_TIME_S
from ..limits import MAX_IMAGES, MAX_REPLICAS, MAX_SEQUENCES
from ..option import SCOPE, CheckedOptions, PartOptions, described, flag, real, text, whole

if TYPE_CHECKING:
    from ...workloads.requests import RequestStream


@described
@dataclass(frozen=True, slots=True)
class Workload(CheckedOptions):
    """Requests: a trace, generated ones, or the embedded sample; see `workloads.requests`."""

    trace: str | None = text(
        "Request trace: a file or folder. Default: generated requests, or the embedded sample of a chat workload.",
        "PATH",
        file=True,
        table=True,
    )
    client: str | None = text(
        "Command of a benchmark client with its options, which set the workload: vllm bench serve, "
        "sglang.bench_serving, guidellm benchmark or aiperf profile.",
        "COMMAND",
    )
    rate: float | None = real(
        "Mean arrival rate in requests per second (open loop). Default: arrivals of the trace or of the sample.",
        MIN_RATE,
        MAX_RATE,
    )
    closed_loop: int | None = whole(
        "Number of requests kept in flight (closed loop). With --rate: the most in flight.", 1
    )
    requests: int | None = whole("Largest number of requests. Default: all of a trace; 1000 generated ones.", 1)
    input_len: int | None = whole("Mean length of generated prompts [tokens]; needs --output-len.", 1)
    output_len: int | None = whole("Mean length of generated outputs [tokens]; needs --input-len.", 1)
    lengths: str | None = text(
        "Distribution of generated lengths: fixed (default), gaussian, uniform, lognormal (lognormal-1024, "
        "lognormal-20000: cut there). As clients sample: vllm:R (1-R to 1+R), sglang:R (R to 1), "
        "guidellm:SIGMA:LOW:HIGH, aiperf:SIGMA; another after / for outputs.",
        "NAME",
    )
    turns: float | None = real(
        "Mean number of requests in a generated session. Each prompt contains the earlier turns.", 1.0, MAX_TURNS
    )
    think: float | None = real(
        "Mean pause between the end of a request and the next request of its session; 0 by default.",
        0.0,
        MAX_TIME_S,
        unit="s",
    )
    prefix_len: int | None = whole("Length of the shared system prompt before each generated prompt [tokens].", 1)
    prefixes: int | None = whole("Number of different system prompts, equally likely; 1 by default.", 1)
    cv: float | None = real(
        "Coefficient of variation of the gaps between arrivals (Gamma); 1 is Poisson.", MIN_CV, MAX_CV
    )
    rate_scale: float | None = real("Speed-up of a trace's arrivals: 2 doubles the rate.", MIN_RATE, MAX_RATE)
    spread: float | None = real(
        "Width of a trace's time bins: requests with one timestamp are spaced evenly inside it.",
        MIN_TIME_S,
        MAX_TIME_S,
        unit="s",
    )
    duration: float | None = real("Use only requests that arrive before this time.", MIN_TIME_S, MAX_TIME_S, unit="s")
    since: float | None = real(
        "Use only requests that arrive from this time on; times then count from it.", 0.0, MAX_TIME_S, unit="s"
    )
    mean_rate: float | None = real("Scale a trace's arrivals to this mean rate.", MIN_RATE, MAX_RATE, unit="1/s")
    rate_profile: str | None = text(
        "Change of the rate over time, with --rate as its mean: diurnal:DEPTH, a CSV with columns start_s "
        "and rate, or ServeGen clients.",
        "PROFILE",
        file=True,
    )
    images: int | None = whole("Images of each request, if a trace does not state them.", 1, MAX_IMAGES)
    image_size: str | None = text(
        "Size of the images in pixels, such as 1920x1080, for models whose image tokens depend on it.", "WxH"
    )
    encoder_cache_hits: float | None = real(
        "Share of images, 0 to 1, whose tokens are in the encoder cache; 0 by default.", 0.0, 1.0
    )
    classes: str | None = text(
        "Request classes as NAME:KEY=VALUE,...;NAME:... or a YAML file. Keys: share, priority, tenants, "
        "input_len, output_len, max_waiting, max_wait, and latency limits [s] such as ttft_p99=0.5.",
        "CLASSES",
    )

    @property
    def given(self) -> bool:
        """Whether anything says how many requests there are or when they come."""
        values = (self.trace, self.rate, self.closed_loop, self.requests, self.duration)
        return any(value is not None for value in values)

    def changed(self, **options: Any) -> Self:
        """Return a copy with options replaced, including the options of a client's command except its seed."""
        from .clients import spelled_out  # which finds out what options there are

        return CheckedOptions.changed(self, **spelled_out(options, Workload))

    def open(self, seed: int) -> RequestStream:
        """The requests themselves; see `workloads.requests.open_requests`."""
        from ...workloads.requests import open_requests  # numpy, which ``--help`` can do without
        from ...workloads.requests.classes import read_classes
        from ...workloads.requests.labelling import labelled

        stream = open_requests(
            self.trace, rate=self.rate, closed_loop=self.closed_loop, limit=self.requests,
            duration=self.duration, seed=seed, input_len=self.input_len,
            output_len=self.output_len, lengths=self.lengths, turns=self.turns, think=self.think,
            cv=self.cv, rate_scale=self.rate_scale, spread=self.spread,
            rate_profile=self.rate_profile, mean_rate=self.mean_rate, since=self.since,
            prefix_len=self.prefix_len, prefixes=self.prefixes,
        )  # fmt: skip
        if self.classes is None and self.trace is None:
            return stream
        known = read_classes(self.classes) if self.classes is not None else ()
        drawn = self.trace is None and self.turns is None
        return labelled(stream, known, seed, (self.lengths or "fixed") if drawn else None)


@described
@dataclass(frozen=True, slots=True)
class EngineOptions(CheckedOptions):
    """How the serving engine batches; what is given comes before what `engine` says."""

    policy: str | None = text("Batching policy: a name of `opbyte list policies`; default: vllm.", "NAME")
    engine: str | None = text(
        "Settings file of a real engine (engine.json). Other options given here have priority.", "FILE", file=True
    )
    part: str | None = text(
        "Part of the engine that a plug-in defines, with its options; see docs/extending.md.", "NAME:KEY=VALUE,..."
    )
    token_budget: int | None = whole(
        "Most tokens computed in one step of a data-parallel rank. Default: as in the policy or engine file.", 1
    )
    max_seqs: int | None = whole(
        "Most sequences that run at once on a data-parallel rank. Default: as in the policy or engine file.",
        1,
        MAX_SEQUENCES,
    )
    max_model_len: int | None = whole(
        "Longest accepted request, prompt and output. Default: as in the engine file, else no limit.", 1, unit="tokens"
    )
    prompt_room: int | None = whole(
        "Reserve memory for the activations of a whole prompt of N tokens per sequence, as engines without chunked "
        "prefill do.",
        1, unit="tokens",
    )  # fmt: skip


@described
@dataclass(frozen=True, slots=True)
class DeployOptions(CheckedOptions):
    """Layout of the model on the system, and cost models of its ops; see `deploy.deployment.deploy`."""

    kernels: str | None = text(
        "Measured kernel tables of the device: a CSV file or a folder. They replace its fitted models.",
        "PATH",
        file=True,
    )
    framework: str | None = text(
        "Serving framework: vllm, sglang or trtllm (engine and kernels), or only kernels: typical, "
        "measured-blend. NAME@VERSION selects a version; default: vLLM 0.19, SGLang 0.5.9. Default: the "
        "framework of --policy (vLLM) on GPUs with fitted kernels, else typical.",
        "NAME",
    )
    costs: str = text(
        "Cost models of ops: auto (fitted kernel models, else the roofline) or roofline.",
        "MODEL",
        default="auto",
        choices=("auto", "roofline"),
    )
    memory: str = text(
        "DRAM efficiency: flat (one value for all accesses) or derived (simulated for each access pattern).",
        "MODEL",
        "flat",
        choices=("flat", "derived"),
    )
    host: str | None = text(
        "How the host connects the GPUs of a node: a name of `opbyte list hosts`, or a host's YAML file.",
        "HOST",
        file=True,
    )
    routing: str = text(
        "Popularity of experts: uniform, measured, power_law:S, trace:FILE or modality:SHARES.", "ROUTING", "uniform"
    )
    sampling: str | None = text(
        "Sampling of tokens from logits: greedy, random, nucleus, KEY=VALUE,... such as top_p=0.95, a "
        "generation_config.json, or checkpoint (the model's own file). Default: the engine's.",
        "SAMPLING",
    )
    dtype: str | None = text("Number format of linear weights, such as fp8. Default: the model's.", "FORMAT")
    kv_dtype: str | None = text("Number format of the KV cache, such as fp8. Default: the model's.", "FORMAT")
    tp: int | None = whole("Tensor-parallel degree: devices that share one data-parallel rank.")
    dp: int | None = whole("Number of data-parallel ranks.")
    ep: int | None = whole("Expert-parallel degree: groups over which the experts are distributed.")
    pp: int | None = whole("Number of pipeline stages.")
    all_to_all: str | None = text(
        "Algorithm of the token exchange between expert-parallel ranks: a name of `opbyte list exchanges`, "
        "or auto (the fastest). Default: the engine's, else flat; in training HybridEP where it runs.",
        "ALGORITHM",
    )
    placement: str | None = text(
        "Rule that assigns ops to a device's processors: a name of `opbyte list placements`. Default: the system's.",
        "RULE",
    )
    attention: str | None = text(
        "Attention algorithm: flash, fused-softmax or unfused. Default: the system's.",
        "ALGORITHM",
        choices=("flash", "fused-softmax", "unfused"),
    )
    strict: bool = flag(
        "Stop with an error if an op is outside the range of measurements that its model was fitted to."
    )
    parts: PartOptions = field(default=PartOptions(), metadata={SCOPE: "deployment"})


@described
@dataclass(frozen=True, slots=True)
class FleetOptions(CheckedOptions):
    """Replicas of the system behind a router."""

    router: str | None = text(
        "Rule that chooses the replica of a request: a name of `opbyte list routers`; default: round-robin.", "NAME"
    )
    replicas: int | None = whole("Number of replicas of the system; default: 1.", 1, MAX_REPLICAS)
