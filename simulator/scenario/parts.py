"""Parts of a scenario: the requests, the engine, the deployment and the fleet."""

from __future__ import annotations

from dataclasses import dataclass

from ...workloads.requests import RequestStream, open_requests
from ...workloads.requests.arrivals import MAX_CV, MIN_CV
from ...workloads.requests.classes import read_classes
from ...workloads.requests.front import MAX_TIME_S, MAX_TURNS, MIN_TIME_S
from ...workloads.requests.labelling import labelled
from ...workloads.requests.options import MAX_RATE, MIN_RATE
from ..limits import MAX_ADAPTERS, MAX_IMAGES, MAX_MICRO_BATCHES, MAX_REPLICAS, MAX_SEQUENCES, MIN_MTBF_S
from .option import CheckedOptions, described, flag, real, text, texts, whole


@described
@dataclass(frozen=True, slots=True)
class Workload(CheckedOptions):
    """Requests: a trace, generated ones, or the embedded sample; see `workloads.requests`."""

    trace: str | None = text("Request trace, file or folder.", "PATH", file=True, table=True)
    rate: float | None = real("Requests per second.", MIN_RATE, MAX_RATE)
    closed_loop: int | None = whole("Requests kept in flight.", 1)
    requests: int | None = whole("Most requests.", 1)
    input_len: int | None = whole("Mean prompt tokens.", 1)
    output_len: int | None = whole("Mean output tokens.", 1)
    lengths: str | None = text(
        "fixed, lognormal (lognormal-1024, lognormal-20000: cut there), gaussian or uniform.",
        "NAME",
        choices=("fixed", "lognormal", "lognormal-1024", "lognormal-20000", "gaussian", "uniform"),
    )
    turns: float | None = real("Mean requests of a session (generated).", 1.0, MAX_TURNS)
    think: float | None = real("Mean pause before the next of a session.", 0.0, MAX_TIME_S, unit="s")
    cv: float | None = real("Variation of arrival gaps (gamma).", MIN_CV, MAX_CV)
    rate_scale: float | None = real("Play a trace this much faster.", MIN_RATE, MAX_RATE)
    spread: float | None = real("Spread equal time stamps over this long.", MIN_TIME_S, MAX_TIME_S, unit="s")
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
        "input_len, output_len, max_waiting, max_wait, and latencies promised, such as ttft_p99=0.5.",
        "CLASSES",
    )

    @property
    def given(self) -> bool:
        """Whether anything says how many requests there are or when they come."""
        own = (self.trace, self.rate, self.closed_loop, self.requests, self.duration)
        return any(value is not None for value in own)

    def open(self, seed: int) -> RequestStream:
        """The requests themselves; see `workloads.requests.open_requests`."""
        stream = open_requests(
            self.trace, rate=self.rate, closed_loop=self.closed_loop, limit=self.requests,
            duration=self.duration, seed=seed, input_len=self.input_len,
            output_len=self.output_len, lengths=self.lengths, turns=self.turns, think=self.think,
            cv=self.cv, rate_scale=self.rate_scale, spread=self.spread,
            rate_profile=self.rate_profile, mean_rate=self.mean_rate, since=self.since,
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
        "Each sequence has room for the activations of a whole prompt of so many tokens, as in engines "
        "that do not cut prompts.",
        1, unit="tokens",
    )  # fmt: skip


@described
@dataclass(frozen=True, slots=True)
class SpeculationOptions(CheckedOptions):
    """Speculative decoding; see `workloads.speculators`."""

    speculative: str | None = text(
        "Speculative decoding with K drafts a step: mtp:K, eagle:K, ngram:K or draft:MODEL:K.", "METHOD:K"
    )
    acceptance: str | None = text(
        "Chance that each of the K drafts is accepted once those before it are, such as 0.8,0.6; "
        "without it a trace's column says.",
        "RATES",
    )


@described
@dataclass(frozen=True, slots=True)
class TierOptions(CheckedOptions):
    """Memories below the devices' that keep KV blocks; see `parts.kv_tiers.asked`."""

    kv_tiers: str | None = text(
        "Tiers below the devices' memory that keep KV blocks, from the nearest on: host, disk, shared; a "
        "size (of a replica; of shared, of all), a device's rate [GB/s] and latency [us] where the "
        "device's own do not hold.",
        "NAME[:SIZE[:RATE[:US]]],...",
    )
    kv_write: str | None = text(
        "When blocks are copied to them: through (as soon as they are computed; without it) or back (as "
        "they leave the memory above).",
        "RULE",
    )
    kv_load: str | None = text(
        "When blocks found there are loaded: always (without it) or cheaper (where that is sooner than "
        "computing them).",
        "RULE",
    )
    kv_prefetch: bool = flag("Bring what a request will find below the first tier to that one as it arrives.")


@described
@dataclass(frozen=True, slots=True)
class DeployOptions(CheckedOptions):
    """How the model lies on the system and what its ops cost; see `deploy.deployment.deploy`."""

    kernels: str | None = text("Measured kernel tables of the device.", "PATH", file=True)
    framework: str | None = text(
        "Serving framework: vllm, sglang or trtllm (engine and kernels), or whose kernels alone: "
        "typical, best, measured-blend. NAME@VERSION: rules, host and kernel rows of a version (a name alone has vLLM's rules of "
        "0.19, SGLang's of 0.5.9 and the newest rows). Without it "
        "those of --policy, vLLM's if nothing is said, on GPUs with fitted kernels; typical elsewhere.",
        "NAME",
    )
    costs: str = text("auto (fitted kernel models) or roofline.", "MODEL", default="auto", choices=("auto", "roofline"))
    memory: str = text(
        "flat (one efficiency) or derived (that of each access pattern on the DRAM).",
        "MODEL",
        "flat",
        choices=("flat", "derived"),
    )
    host: str | None = text(
        "How the GPUs of a node are connected: a name of `opbyte list hosts`, or a host's file.", "HOST", file=True
    )
    routing: str = text("uniform, measured, power_law:S, trace:FILE or modality:SHARES.", "ROUTING", "uniform")
    sampling: str | None = text(
        "How tokens are drawn from logits: greedy, random, nucleus, KEY=VALUE,... as a request says it "
        "(top_p=0.95,repetition_penalty=1.1), a generation_config.json, or checkpoint (as vLLM "
        "does unasked); an engine's default without it.",
        "SAMPLING",
    )
    dtype: str | None = text("Format of linear weights, e.g. fp8.", "FORMAT")
    kv_dtype: str | None = text("Format of the KV cache, e.g. fp8.", "FORMAT")
    tp: int | None = whole("Tensor-parallel devices per rank.")
    dp: int | None = whole("Data-parallel ranks.")
    ep: int | None = whole("Groups that experts are dealt to.")
    pp: int | None = whole("Pipeline stages of the layers.")
    all_to_all: str | None = text(
        "Exchange of tokens between ranks, instead of an engine's own: auto (the cheapest) or a name of "
        "`opbyte list exchanges`; without it all messages at once (in training auto).",
        "ALGORITHM",
    )
    placement: str | None = text("A name of `opbyte list placements`.", "RULE")
    expert_placement: str | None = text(
        "Which devices hold which experts and copies: a name of `opbyte list expert-placements`, or "
        "file:PATH; balanced where there are copies, else in order.",
        "POLICY",
    )
    redundant_experts: int | None = whole(
        "Copies of a layer's experts over all devices; with the experts a multiple of ep.", 0, 1 << 16
    )
    expert_dispatch: str | None = text(
        "Copies that a token may go to: any, node (of its node if there are some) or local (of its "
        "device, else its node); any without it.",
        "RULE",
        choices=("any", "node", "local"),
    )
    attention: str | None = text("flash or unfused.", "ALGORITHM", choices=("flash", "unfused"))
    overlap: str | None = text(
        "What of the exchanges runs beside computation: none, pipelined:N, two-batch (two-batch:D,P, "
        ":alike or :decodes as engines do) or auto; none without it.",
        "WAY",
    )
    experts_resident: str | None = text(
        "Experts of each MoE layer that a device keeps in its memory, a count or a fraction; the "
        "others lie in the host's.",
        "N",
    )
    expert_cache: str | None = text("A name of `opbyte list expert-caches`; lru without it.", "POLICY")
    expert_predictor: str | None = text(
        "Names the experts of a step ahead: share of those needed that it names, and of the others.",
        "ACCURACY[:FALSE_RATE]",
    )
    expert_horizon: str | None = text(
        "When it does: layer (as the layer before begins) or step (before the first layer).",
        "WHEN",
        choices=("layer", "step"),
    )
    adapters: int | None = whole("LoRA adapters of tenants, one of which a request uses.", 1, MAX_ADAPTERS)
    adapter_rank: int | None = whole("Their rank; 16 without it.", 1, 65_536)
    adapters_resident: int | None = whole(
        "Adapters that a device has room for; the others come from the host's memory.", 1, MAX_ADAPTERS
    )
    adapter_popularity: str | None = text("How requests that name none choose: uniform or power_law:S.", "POPULARITY")
    power_cap: float | None = real("Most that a board may draw: its clock falls for it.", 1.0, 1e5, unit="W")
    clock: float | None = real("Clock that the cores are locked at.", 1.0, 1e5, unit="MHz")
    strict: bool = flag("Refuse what is priced out of the range that its model was fitted on.")


@described
@dataclass(frozen=True, slots=True)
class FleetOptions(CheckedOptions):
    """Replicas of the system behind a router, their failures, and what runs before prompts."""

    router: str | None = text("A name of `opbyte list routers`; round-robin without it.", "NAME")
    replicas: int | None = whole("Copies of the whole system.", 1, MAX_REPLICAS)
    autoscale: str | None = text(
        "Replicas that come and go, by a rule of `opbyte list autoscalers`: 1:8,by=requests:20,start=60.",
        "MIN:MAX,KEY=VALUE,...",
    )
    fail: tuple[str, ...] = texts("A replica's failure, as often as wanted.", "REPLICA@SECONDS")
    mtbf: float | None = real("Mean time between a replica's failures.", MIN_MTBF_S, MAX_TIME_S, unit="s")
    repair: float | None = real("Time a failed replica is away.", 0.0, MAX_TIME_S, unit="s")
    encoder: str | None = text(
        "Image encoder of requests, a model of the catalog or a config.json.", "MODEL", file=True
    )
    encoder_system: str | None = text(
        "Devices of the encoder; with --encoder alone one more of the system's, without both the model's own.", "SYSTEM"
    )


@described
@dataclass(frozen=True, slots=True)
class ApartOptions(CheckedOptions):
    """Routed experts on devices of their own, of the pool that decodes where there are two; see `parts.experts_apart.asked`."""

    experts_on: str | None = text("System that holds the routed experts and nothing else.", "SYSTEM")
    micro_batches: int | None = whole(
        "Micro-batches of a step, which go to and fro; 3 without it.", 1, MAX_MICRO_BATCHES
    )
    experts_link: str | None = text(
        "What goes to the experts and back crosses: as --kv-link; the slower of both networks without it.",
        "NAME|RATE[,US]",
    )

    @property
    def given(self) -> bool:
        """Whether experts lie on devices of their own, or anything that only those have."""
        return self != ApartOptions()


@described
@dataclass(frozen=True, slots=True)
class PoolOptions(CheckedOptions):
    """Two pools instead of one system: one takes prompts, the other goes on; see `parts.two_pools.asked`."""

    prefill: str | None = text("System that takes prompts, and how many of it.", "SYSTEM[xN]")
    decode: str | None = text("System that goes on after the first token.", "SYSTEM[xN]")
    kv_link: str | None = text(
        "What KV caches cross between them: a link's name, free, or a device's rate [GB/s] and "
        "latency [us]; the slower of their networks without it.",
        "NAME|RATE[,US]",
    )
    kv_overlap: str | None = text(
        "layers (a layer's cache leaves as soon as the prompt has passed it) or none.",
        "WAY",
        choices=("layers", "none"),
    )
    prefill_tp: int | None = whole("As --tp, of the devices that prefill.")
    prefill_dp: int | None = whole("As --dp, of the devices that prefill.")
    prefill_ep: int | None = whole("As --ep, of the devices that prefill.")
    prefill_pp: int | None = whole("As --pp, of the devices that prefill.")
    prefill_policy: str | None = text("As --policy, where prompts run.", "NAME")
    prefill_engine: str | None = text("As --engine, where prompts run.", "FILE", file=True)
    prefill_token_budget: int | None = whole("As --token-budget, where prompts run.", 1)
    prefill_max_seqs: int | None = whole("As --max-seqs, where prompts run.", 1, MAX_SEQUENCES)
    prefill_autoscale: str | None = text("As --autoscale, of the systems that prefill.", "MIN:MAX,KEY=VALUE,...")
    decode_tp: int | None = whole("As --tp, of the devices that decode.")
    decode_dp: int | None = whole("As --dp, of the devices that decode.")
    decode_ep: int | None = whole("As --ep, of the devices that decode.")
    decode_pp: int | None = whole("As --pp, of the devices that decode.")
    decode_policy: str | None = text("As --policy, where decodes run.", "NAME")
    decode_engine: str | None = text("As --engine, where decodes run.", "FILE", file=True)
    decode_token_budget: int | None = whole("As --token-budget, where decodes run.", 1)
    decode_max_seqs: int | None = whole("As --max-seqs, where decodes run.", 1, MAX_SEQUENCES)
    decode_autoscale: str | None = text("As --autoscale, of the systems that decode.", "MIN:MAX,KEY=VALUE,...")

    @property
    def given(self) -> bool:
        """Whether there are two pools, or anything that only they have."""
        return self != PoolOptions()
