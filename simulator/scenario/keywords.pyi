"""Options of a scenario as keywords: what type each takes. Written by ``python -m opbyte.analysis.manual``."""

import os
from collections.abc import Sequence
from typing import Literal, TypedDict

from ...devices.spec import SystemSpec
from ...workloads.model import ModelSpec
from ...workloads.requests.frames import Table

from ..option import PartOptions
from .options import (
    DeployOptions,
    EngineOptions,
    FleetOptions,
    Workload,
)

Name = str | os.PathLike[str] | None
Several = int | str | Sequence[int | str] | None


class DeployedKeywords(TypedDict, total=False):
    """The `DeployOptions` of a server."""

    kernels: Name
    framework: str | None
    costs: Literal["auto", "roofline"]
    memory: Literal["flat", "derived"]
    routing: str
    sampling: str | None
    dtype: str | None
    kv_dtype: str | None
    tp: int | None
    dp: int | None
    ep: int | None
    pp: int | None
    all_to_all: str | None
    placement: str | None
    attention: Literal["flash", "fused-softmax", "unfused"] | None
    adapters: int | None
    adapter_rank: int | None
    adapters_resident: int | None
    adapter_popularity: str | None
    experts_resident: str | None
    expert_cache: str | None
    expert_predictor: str | None
    expert_horizon: Literal["layer", "step"] | None
    expert_placement: str | None
    redundant_experts: int | None
    expert_dispatch: Literal["any", "node", "local"] | None
    overlap: str | None
    power_cap: float | None
    clock: float | None


class WorkloadKeywords(TypedDict, total=False):
    """Those of `Workload`."""

    trace: Name | Table
    client: str | None
    rate: float | None
    closed_loop: int | None
    requests: int | None
    input_len: int | None
    output_len: int | None
    lengths: str | None
    turns: float | None
    think: float | None
    prefix_len: int | None
    prefixes: int | None
    cv: float | None
    rate_scale: float | None
    spread: float | None
    duration: float | None
    since: float | None
    mean_rate: float | None
    rate_profile: Name
    images: int | None
    image_size: str | None
    encoder_cache_hits: float | None
    classes: str | None


class EngineOptionsKeywords(TypedDict, total=False):
    """Those of `EngineOptions`."""

    policy: str | None
    engine: Name
    part: str | None
    token_budget: int | None
    max_seqs: int | None
    max_model_len: int | None
    prompt_room: int | None


class DeployOptionsKeywords(DeployedKeywords, total=False):
    """Those of `DeployOptions`."""

    host: Name
    strict: bool


class FleetOptionsKeywords(TypedDict, total=False):
    """Those of `FleetOptions`."""

    router: str | None
    replicas: int | None


class AutoscaleOptionsKeywords(TypedDict, total=False):
    """Those of `AutoscaleOptions`."""

    autoscale: str | None


class SpeculationOptionsKeywords(TypedDict, total=False):
    """Those of `SpeculationOptions`."""

    speculative: str | None
    acceptance: str | None


class EncoderOptionsKeywords(TypedDict, total=False):
    """Those of `EncoderOptions`."""

    encoder: Name
    encoder_system: str | None


class ApartOptionsKeywords(TypedDict, total=False):
    """Those of `ApartOptions`."""

    experts_on: str | None
    micro_batches: int | None
    experts_link: str | None


class FailureOptionsKeywords(TypedDict, total=False):
    """Those of `FailureOptions`."""

    fail: Sequence[str]
    mtbf: float | None
    repair: float | None


class TierOptionsKeywords(TypedDict, total=False):
    """Those of `TierOptions`."""

    kv_tiers: str | None
    kv_write: str | None
    kv_load: str | None
    kv_prefetch: bool


class PoolOptionsKeywords(TypedDict, total=False):
    """Those of `PoolOptions`."""

    prefill: str | None
    decode: str | None
    kv_link: str | None
    kv_overlap: Literal["layers", "none"] | None
    prefill_tp: int | None
    prefill_dp: int | None
    prefill_ep: int | None
    prefill_pp: int | None
    prefill_policy: str | None
    prefill_engine: Name
    prefill_token_budget: int | None
    prefill_max_seqs: int | None
    prefill_autoscale: str | None
    decode_tp: int | None
    decode_dp: int | None
    decode_ep: int | None
    decode_pp: int | None
    decode_policy: str | None
    decode_engine: Name
    decode_token_budget: int | None
    decode_max_seqs: int | None
    decode_autoscale: str | None


class ScenarioKeywords(WorkloadKeywords, EngineOptionsKeywords, DeployOptionsKeywords, FleetOptionsKeywords, AutoscaleOptionsKeywords, SpeculationOptionsKeywords, EncoderOptionsKeywords, ApartOptionsKeywords, FailureOptionsKeywords, TierOptionsKeywords, PoolOptionsKeywords, total=False):
    """All of a `Scenario`, and whole parts."""

    workload: Workload
    serving: EngineOptions
    deployment: DeployOptions
    fleet: FleetOptions
    parts: PartOptions
    warmup: int | None
    stop: int | None
    seed: int
    grid_gCO2_per_kWh: float | None
    price: str | None
    capex: str | None
    years: float | None
    usd_per_kWh: float | None
    pue: float | None


class StepKeywords(DeployOptionsKeywords, SpeculationOptionsKeywords, total=False):
    """Of one step."""


class ChangeKeywords(ScenarioKeywords, total=False):
    """The same with model and system."""

    model: Name | ModelSpec
    system: Name | SystemSpec


class TrainKeywords(DeployOptionsKeywords, total=False):
    """Of `train`."""

    batch: int
    seq: int | None
    micro_batch: int
    zero: int
    recompute: str
    sequence_parallel: bool
    interleave: int
    dropout: bool
    cp: int
    pipeline_layout: str
    overlap_experts: bool
    overlap_tp: bool | None
    graphs: str
    schedule: str
    replicas: int
    offload: int
    offload_optimizer: bool
    offload_modules: str
    cp_exchange: str
    moment_bits: int
    gradient_bits: int
    loss: str
    mtp: int | None
    bf16_first: int
    bf16_last: int


class PlanKeywords(WorkloadKeywords, FleetOptionsKeywords, SpeculationOptionsKeywords, EncoderOptionsKeywords, FailureOptionsKeywords, TierOptionsKeywords, total=False):
    """Of a plan: some options may have several values, a list or a text with commas."""

    engine: Name
    part: str | None
    max_seqs: int | None
    max_model_len: int | None
    prompt_room: int | None
    kernels: Name
    framework: str | None
    costs: Literal["auto", "roofline"]
    memory: Literal["flat", "derived"]
    host: Name
    routing: str
    sampling: str | None
    all_to_all: str | None
    placement: str | None
    attention: Literal["flash", "fused-softmax", "unfused"] | None
    strict: bool
    adapters: int | None
    adapter_rank: int | None
    adapters_resident: int | None
    adapter_popularity: str | None
    experts_resident: str | None
    expert_cache: str | None
    expert_predictor: str | None
    expert_horizon: Literal["layer", "step"] | None
    expert_placement: str | None
    redundant_experts: int | None
    expert_dispatch: Literal["any", "node", "local"] | None
    overlap: str | None
    power_cap: float | None
    clock: float | None
    warmup: int | None
    stop: int | None
    seed: int
    grid_gCO2_per_kWh: float | None
    price: str | None
    capex: str | None
    years: float | None
    usd_per_kWh: float | None
    pue: float | None
    tp: Several
    dp: Several
    ep: Several
    pp: Several
    dtype: Several
    kv_dtype: Several
    policy: Several
    token_budget: Several


class ServedKeywords(DeployedKeywords, EngineOptionsKeywords, FleetOptionsKeywords, AutoscaleOptionsKeywords, SpeculationOptionsKeywords, EncoderOptionsKeywords, FailureOptionsKeywords, total=False):
    """Of a server."""

    seed: int
