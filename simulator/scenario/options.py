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

    trace: str | None = text("Request trace, file or folder.", "PATH", file=True, table=True)
    client: str | None = text(
        "Command of a benchmark client that says the rest: vllm bench serve, sglang.bench_serving, guidellm benchmark "
        "or aiperf profile with its options.",
        "COMMAND",
    )
    rate: float | None = real("Requests per second.", MIN_RATE, MAX_RATE)
    closed_loop: int | None = whole("Requests kept in flight.", 1)
    requests: int | None = whole("Most requests.", 1)
    input_len: int | None = whole("Mean prompt tokens.", 1)
    output_len: int | None = whole("Mean output tokens.", 1)
    lengths: str | None = text(
        "fixed, lognormal (lognormal-1024, lognormal-20000: cut there), gaussian or uniform; or as clients sample "
        "them: vllm:R (1-R to 1+R), sglang:R (R to 1), guidellm:SIGMA:LOW:HIGH, aiperf:SIGMA, /... for outputs.",
        "NAME",
    )
    turns: float | None = real("Mean requests of a session (generated).", 1.0, MAX_TURNS)
    think: float | None = real("Mean pause before the next of a session.", 0.0, MAX_TIME_S, unit="s")
    prefix_len: int | None = whole("Tokens of a shared system prompt before each generated prompt.", 1)
    prefixes: int | None = whole("Different system prompts, equally likely; 1 without it.", 1)
    cv: float | None = real("Variation of arrival gaps (gamma).", MIN_CV, MAX_CV)
    rate_scale: float | None = real("Play a trace this much faster.", MIN_RATE, MAX_RATE)
    spread: float | None = real("Spread equal timestamps over this time.", MIN_TIME_S, MAX_TIME_S, unit="s")
    duration: float | None = real("Only arrivals before this.", MIN_TIME_S, MAX_TIME_S, unit="s")
    since: float | None = real("Only arrivals from this on, counted from there.", 0.0, MAX_TIME_S, unit="s")
    mean_rate: float | None = real("Play a trace so that all of it has this mean rate.", MIN_RATE, MAX_RATE, unit="1/s")
    rate_profile: str | None = text(
        "How --rate, the mean, changes over time: diurnal:DEPTH, a CSV of start_s and rate, or ServeGen clients.",
        "PROFILE",
        file=True,
    )
    images: int | None = whole("Images of each request, where a trace does not say how many.", 1, MAX_IMAGES)
    image_size: str | None = text(
        "Pixels of the images, such as 1920x1080, where their tokens follow from them.", "WxH"
    )
    encoder_cache_hits: float | None = real("Share of images whose tokens the encoder's cache has.", 0.0, 1.0)
    classes: str | None = text(
        "Classes of requests, NAME:KEY=VALUE,...;NAME:... or a YAML file: share, priority, tenants, "
        "input_len, output_len, max_waiting, max_wait, and latency limits, such as ttft_p99=0.5.",
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

    policy: str | None = text("A name of `opbyte list policies`; vllm without it.", "NAME")
    engine: str | None = text("Settings of a real engine (engine.json).", "FILE", file=True)
    part: str | None = text(
        "A part of the engine from outside, with its options; see docs/extending.md.", "NAME:KEY=VALUE,..."
    )
    token_budget: int | None = whole("Tokens of one step.", 1)
    max_seqs: int | None = whole("Sequences running at once.", 1, MAX_SEQUENCES)
    max_model_len: int | None = whole("Longest request accepted.", 1, unit="tokens")
    prompt_room: int | None = whole(
        "Reserve memory for the activations of a whole prompt of N tokens per sequence, as engines without chunked "
        "prefill do.",
        1, unit="tokens",
    )  # fmt: skip


@described
@dataclass(frozen=True, slots=True)
class DeployOptions(CheckedOptions):
    """Layout of the model on the system, and cost models of its ops; see `deploy.deployment.deploy`."""

    kernels: str | None = text("Measured kernel tables of the device.", "PATH", file=True)
    framework: str | None = text(
        "Serving framework: vllm, sglang or trtllm (engine and kernels), or only kernels: "
        "typical, measured-blend. NAME@VERSION: rules, host and kernel rows of a version (default: vLLM 0.19, SGLang "
        "0.5.9, the newest rows). Default: the framework of --policy (vLLM) on GPUs with fitted kernels, else typical.",
        "NAME",
    )
    costs: str = text("auto (fitted kernel models) or roofline.", "MODEL", default="auto", choices=("auto", "roofline"))
    memory: str = text(
        "flat (one efficiency) or derived (efficiency of each access pattern on the DRAM).",
        "MODEL",
        "flat",
        choices=("flat", "derived"),
    )
    host: str | None = text(
        "How the GPUs of a node are connected: a name of `opbyte list hosts`, or a host's file.", "HOST", file=True
    )
    routing: str = text("uniform, measured, power_law:S, trace:FILE or modality:SHARES.", "ROUTING", "uniform")
    sampling: str | None = text(
        "Sampling of tokens from logits: greedy, random, nucleus, KEY=VALUE,... as a request says it "
        "(top_p=0.95,repetition_penalty=1.1), a generation_config.json, or checkpoint (as vLLM "
        "does unasked); an engine's default without it.",
        "SAMPLING",
    )
    dtype: str | None = text("Format of linear weights, e.g. fp8.", "FORMAT")
    kv_dtype: str | None = text("Format of the KV cache, e.g. fp8.", "FORMAT")
    tp: int | None = whole("Tensor-parallel devices per rank.")
    dp: int | None = whole("Data-parallel ranks.")
    ep: int | None = whole("Expert-parallel groups.")
    pp: int | None = whole("Pipeline stages of the layers.")
    all_to_all: str | None = text(
        "Exchange of tokens between ranks, instead of an engine's own: auto (the cheapest) or a name of "
        "`opbyte list exchanges`; without it all messages at once (in training HybridEP where it runs).",
        "ALGORITHM",
    )
    placement: str | None = text("A name of `opbyte list placements`.", "RULE")
    attention: str | None = text(
        "flash, fused-softmax or unfused.", "ALGORITHM", choices=("flash", "fused-softmax", "unfused")
    )
    strict: bool = flag("Refuse ops outside the fitted range of their model.")
    parts: PartOptions = field(default=PartOptions(), metadata={SCOPE: "deployment"})


@described
@dataclass(frozen=True, slots=True)
class FleetOptions(CheckedOptions):
    """Replicas of the system behind a router."""

    router: str | None = text("A name of `opbyte list routers`; round-robin without it.", "NAME")
    replicas: int | None = whole("Copies of the whole system.", 1, MAX_REPLICAS)
