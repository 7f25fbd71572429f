"""A training step: time, tokens per second, utilisation, memory by kind, and exposed communication."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from ...devices.catalog import describe_system
from ...devices.hosts.catalog import placed_in
from ...devices.power.cap import cap_texts, capped_system
from ...devices.spec import SystemSpec
from ...simulator.deploy.deployment import Deployment
from ...simulator.option import chosen, flag_of, options_of
from ...simulator.scenario.load import load
from ...simulator.scenario.options import DeployOptions
from ...simulator.training.layout import (
    TrainingLayout,
    TrainingOptions,
    training_deployment,
    training_layout,
    training_model,
)
from ...simulator.training.memory import usable_bytes
from ...simulator.training.step import TrainingStep, training_step
from ...workloads.batch import Batch
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ...workloads.requests.options import check_count
from ...workloads.routing import check_routing
from ..show.declared import record, text
from ..show.output import STAMPS
from ..show.result import Drawing, Result
from ..show.text import Blocks, Records, Rows, seconds
from .error_factors import TRAINING, Conditions, amounts, fitted_widths
from .evidence import entry, evidence
from .interval import Interval, KindErrors, energy_interval, interval_dict, power_interval, spoken_range

if TYPE_CHECKING:
    from ...simulator.scenario.keywords import DeployOptionsKeywords

TAKEN = ("framework", "host", "costs", "memory", "routing", "dtype", "tp", "dp", "ep", "pp", "all_to_all",
         "placement", "attention", "power_cap", "clock")  # fmt: skip
"""Deployment options that a training step also accepts."""

MAX_BATCH = 1 << 24
BACKWARD = (
    "assumed: backward kernels are predicted from forward ones, since no measured row is of a backward pass: gradients' matmuls and experts' "
    "grouped matmuls by their shapes, fused attention at 0.75 of the forward kernel's rate"
)
FITTED, CONSTANTS = Interval(0.98, 1.02), Interval(0.883, 1.133)
"""Errors of the constants fitted to training steps (`simulator.training.layers.SUSTAINED`): on `CARDS`, and on other devices. With one model left out,
80 % of 109 predictions change by less than 2.0 %. 80 % of dense rows have errors below 14.9 % with their device left out, else 8.2 %: a difference of squares."""
CARDS = frozenset({"h100", "b200", "b300", "gb200", "gb300"})
EXPOSED = (
    "Gradients leave layer by layer behind the last backward pass, weights come before the first "
    "forward one; links carry nothing else at that time. All other exchanges are waited for."
)


@dataclass(frozen=True, slots=True)
class Training(Result):
    """One training step; see `train`.

    Attributes
    ----------
    sources : mapping of str to str
        Key path of the system's description -> source of that number.
    tried, candidates : tuple of mapping, int
        Best few candidates of a search, this one first, and the number of candidates that fit.
    """

    PICTURES = ("training.png",)
    TABLES = (("parts.csv", "records", STAMPS),)

    deployment: Deployment
    layout: TrainingLayout
    options: TrainingOptions
    step: TrainingStep
    sources: Mapping[str, str]
    tried: tuple[Mapping[str, Any], ...] = ()
    candidates: int = 0

    @property
    def devices(self) -> int:
        return self.layout.devices

    @property
    def tokens_per_s(self) -> float:
        return self.options.batch * self.options.seq / self.step.seconds

    @property
    def peak_flops_per_s(self) -> float:
        """Return the nominal rate of all devices in the matmuls' number format [FLOP/s]."""
        d = self.deployment
        dtype = d.run.numerics.compute("attention")
        return self.devices * max(p.peak[dtype] for p in d.device.processors.values())

    @property
    def joules_per_token(self) -> float:
        """Return the energy of all devices per trained token, including static power [J]."""
        return self.step.joules / (self.options.batch * self.options.seq)

    @property
    def watts_per_device(self) -> float:
        """Return the mean power of a device during the step [W]."""
        return self.step.joules / (self.step.seconds * self.devices)

    @property
    def mfu(self) -> float:
        """Return the MFU: matmul FLOPs of three forward passes (attention over visible pairs only) over the peak."""
        return self.step.flops.model / self.step.seconds / self.peak_flops_per_s

    @property
    def hfu(self) -> float:
        """Return the hardware FLOPs utilisation: all FLOPs of the step, including recomputation, over the peak."""
        return self.step.flops.hardware / self.step.seconds / self.peak_flops_per_s

    def to_dict(self) -> dict[str, Any]:
        return record(self) | ({"tried": [dict(row) for row in self.tried]} if self.tried else {})

    def intervals(self) -> dict[str, Any]:
        """Return the intervals of a step's metrics."""
        power = power_interval(self.deployment)
        return {
            "step_seconds": interval_dict(self.step.seconds, self.sure),
            **{name: interval_dict(getattr(self, name), self.sure.inverse) for name in ("tokens_per_s", "mfu")},
            "watts_per_device": interval_dict(self.watts_per_device, power),
            "joules_per_token": interval_dict(self.joules_per_token, energy_interval(power, self.sure)),
            "wide_because": list(self.reasons),
        }

    @property
    def memory_bytes(self) -> dict[str, float]:
        """Return the memory of a device by kind [B]."""
        return self.step.memory.summed()

    @property
    def memory_of_stages(self) -> list[dict[str, float]]:
        """Return the memory of a device in each pipeline stage, by kind [B]."""
        return [stage.memory.summed() for stage in self.step.stages]

    @property
    def exposed(self) -> dict[str, float]:
        """Return the time of all streams except computation [s]."""
        return {k: v for k, v in self.step.by_stream.items() if k != "compute"}

    @property
    def degrees(self) -> str:
        """Return the parallel degrees as text."""
        la = self.layout
        experts = f", ep {la.ep} (copies of experts: {la.expert_dp})" if self.deployment.experts else ""
        return f"tp {la.tp}, dp {la.dp}, pp {la.pp}{experts}"

    @property
    def range(self) -> str:
        """Return the interval of the step's time as text."""
        return spoken_range(self.sure, self.reasons)

    @property
    def errors(self) -> KindErrors:
        """Return the inputs of the interval of the step's time."""
        alone = FITTED if self.deployment.system.device.name in CARDS else CONSTANTS
        return KindErrors(TRAINING, alone, amounts(Conditions(self.deployment, zero=self.options.zero)))

    @property
    def sure(self) -> Interval:
        """Return the interval of a step's time as factors, from the errors of measured training steps."""
        return self.errors.interval()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Return the factors that widen the interval."""
        return fitted_widths().reasons(self.errors.amounts, TRAINING)

    @property
    def basis(self) -> Records:
        """Return the basis of the step: evidence of the op times, and constants without a measurement."""
        typical = Batch.of(chunks=[(self.options.seq, 0)] * self.options.micro_batch)
        entries = evidence(self.deployment, self.sources, batches=(typical,), usual=())
        behind = entry("forward kernel models", "backward passes", "assumed", {"backward": BACKWARD})
        return [*entries, behind]

    @property
    def usable_bytes(self) -> float:
        return usable_bytes(self.deployment.system)

    def records(self) -> Rows:
        """Return a micro-batch's forward [s], backward [s] and dynamic [J] by model part, summed over stages."""
        sums: dict[str, list[float]] = {}
        for stage in self.step.stages:
            for passes in (*stage.layers, *stage.ends):
                for i, by_part in enumerate((passes.forward, passes.backward, passes.joules)):
                    for name, amount in by_part.items():
                        sums.setdefault(name, [0.0, 0.0, 0.0])[i] += amount
        board, nominal_J = self.deployment.device.board, sum(work for _, _, work in sums.values()) or 1.0
        static_J = self.devices * (board.idle_joules(self.step.seconds) + board.busy_joules(self.step.seconds))
        held = (self.step.joules - static_J) / self.layout.microbatches / nominal_J  # at the limited clock
        return [
            {"part": name, "forward_seconds": f, "backward_seconds": b, "joules": work * held}
            for name, (f, b, work) in sums.items()
            if f or b
        ]

    def remarks(self) -> Sequence[str]:
        return cap_texts(self.deployment.system.device)

    def headline(self) -> str:
        """Return the step time, its utilisation, and the time that does not overlap with computation."""
        others = {k: v for k, v in self.exposed.items() if v}
        said = text(self, "headline")
        if others:
            most = max(others, key=lambda name: others[name])
            said += f" Beside computation, {most} shows most: {others[most] / self.step.seconds:.1%}."
        return said

    def rows(self) -> Rows:
        """Return the step's time by stream, such as computation and exchanges, as a table."""
        step = self.step
        return [
            {"time": name, "of the step": seconds(took), "share": f"{took / step.seconds:.1%}"}
            for name, took in step.by_stream.items()
            if took or name == "compute"
        ]

    def blocks(self) -> Blocks:
        step = self.step
        how = ", sequence parallel" if self.options.sequence_parallel and self.layout.tp > 1 else ""
        stages = enumerate(self.memory_of_stages)
        return [
            text(self, "heading"), text(self, "how") + how, text(self, "time"), text(self, "energy"),
            *self._search(),
            self.rows(),
            f"{EXPOSED} Hidden: {seconds(step.hidden_s)}.",
            f"Memory of a device (GiB), {self.usable_bytes / 2**30:.1f} usable:",
            [{"stage": i, **{kind: stage[kind] / 2**30 for kind, size in self.memory_bytes.items() if size}} for i, stage in stages],
            [
                {"part": row["part"], "forward": seconds(row["forward_seconds"]),
                 "backward": seconds(row["backward_seconds"]), "dynamic energy (J)": row["joules"]}
                for row in self.records()
            ],
            "Of one micro-batch through all stages; energy of all devices. It is based on:",
            [
                {"cost model": known["cost_model"], "applies to": known["applies_to"],
                 "basis": known["basis"],
                 "error": None if known["error"] is None else f"{known['error']:.1%}"}
                for known in self.basis
            ],
            BACKWARD,
        ]  # fmt: skip

    def _search(self) -> Blocks:
        """Return the best candidates, if parallel degrees were searched."""
        if not self.tried:
            return []
        rows = [{**row, "step_seconds": seconds(row["step_seconds"]), "mfu": f"{row['mfu']:.1%}"} for row in self.tried]
        return [f"The fastest of {self.candidates:,} that fit:", rows]

    def drawings(self) -> Sequence[Drawing]:
        import pandas as pd

        from ..plots.published import stacked

        stages = self.step.by_stage
        used = [name for name in stages[0] if any(stage[name] for stage in stages)]
        rows = [{"case": f"stage {i}", **{name: stage[name] for name in used}} for i, stage in enumerate(stages)]
        title = f"A training step of {self.deployment.model.name} on {self.deployment.system.name} (s)"
        caption = "Where the step's time goes on a device of each pipeline stage: computation, exchanges that are waited for, and bubbles (pipeline)."
        return [Drawing(stacked(pd.DataFrame(rows), title), caption)]


def train(
    model: str | Path | ModelSpec, system: str | Path | SystemSpec, *, batch: int | None = None,
    seq: int | None = None, micro_batch: int = 1, zero: int = 1, recompute: str = "auto",
    sequence_parallel: bool = True, interleave: int = 1, dropout: bool = False, cp: int = 1,
    pipeline_layout: str = "", overlap_experts: bool = False, overlap_tp: bool | None = None,
    graphs: str = "auto", schedule: str = "1f1b", replicas: int = 1, offload: int = 0, offload_optimizer: bool = False, offload_modules: str = "",
    cp_exchange: str = "ring", moment_bits: int = 32, gradient_bits: int = 16, loss: str = "fused", mtp: int | None = None, bf16_first: int = 0, bf16_last: int = 0, **options: Unpack[DeployOptionsKeywords],
) -> Training:  # fmt: skip
    """Cost one training step: forward and backward passes, gradients, Adam.

    Parameters
    ----------
    model, system : str, Path or spec
        Catalog name or file.
    batch, seq : int
        Sequences of a step over all devices, and tokens of each. Default length: the model's maximum, at most 4,096.
    micro_batch : int
        Sequences in one micro-batch of a data-parallel rank.
    zero : int
        ZeRO stage, 0 to 3: the states that data-parallel ranks shard.
    recompute : str
        "none", "auto" (the least that fits), "selective" (attention scores), "full" (whole layers), "full:N" (N layers of each stage), or a comma-separated list of modules of `workloads.training.MODULES`.
    sequence_parallel : bool
        Whether tensor-parallel devices split norms, dropout and routing along the sequence.
    interleave : int
        Parts of the model on each pipeline stage.
    dropout : bool
        Whether the model has dropout; its masks are stored.
    cp : int
        Context parallel: ranks that share each sequence.
    pipeline_layout : str
        Layers of each part of each stage in Megatron's letters: ``E``, ``t``, ``m``, ``L`` and ``|``.
    overlap_experts : bool
        Whether exchanges of experts' tokens run in parallel with the passes of another micro-batch.
    overlap_tp : bool, optional
        Whether exchanges of tensor-parallel devices overlap with matmuls. Default: in dense models with sequence parallelism.
    graphs : str
        CUDA graphs of layers with experts: "none", "partial" (all but experts), "full", or "auto" (partial on Blackwell, none elsewhere).
    schedule : str
        Pipeline schedule: "1f1b", "zero-bubble" (weight gradients fill idle time) or "dualpipe" (micro-batches from both ends).
    replicas : int
        Groups of data-parallel ranks; ZeRO shards states within each group (hybrid sharding).
    offload : int
        Layers of each stage whose activations are offloaded to host memory.
    offload_optimizer : bool
        Whether the optimizer states are stored in host memory between updates.
    offload_modules : str
        Comma-separated modules whose inputs are offloaded to host memory, from `simulator.training.layout.OFFLOADS`.
    cp_exchange : str
        How context-parallel ranks exchange keys and values: "ring", "all-gather" or "all-to-all" (Ulysses).
    moment_bits, gradient_bits : int
        Bits of each of Adam's moments (8, 16 or 32), and of the gradients that micro-batches and ranks sum (16 or 32).
    loss : str
        Loss by one kernel ("fused"; "in-place": its gradient overwrites the logits), or by several ("unfused").
    mtp : int, optional
        Multi-token-prediction heads that are trained; as many as the model's file states if not given.
    bf16_first, bf16_last : int
        First and last layers of the model whose products stay in 16 bits.
    **options
        Options of `simulator.scenario.options.DeployOptions`: tp, dp, ep, pp, dtype, routing, costs, memory,
        framework, host, all_to_all, placement, attention, power_cap, clock.

    Raises
    ------
    InputError
        Unknown names, degrees or batches that do not divide.
    CapacityError
        If the step does not fit in a device's memory.

    Examples
    --------
    >>> step = train("llama-3-8b", "h100-x8", batch=16, seq=4096, costs="roofline")
    >>> step.step.flops.model == 3 * step.step.flops.forward
    True
    """
    if batch is None:
        raise InputError("--batch", "must be given: sequences of a step over all devices")
    how = chosen(DeployOptions, options)
    _refuse_others(options)
    check_routing(how.routing)  # also for dense models, which ignore it
    loaded, plain = load(model, system)
    power = how.parts["power-cap"]
    where = capped_system(placed_in(plain, how.host), power.power_cap, power.clock)
    spec = training_model(loaded, how.dtype, mtp)
    front = spec.front.tokens if spec.front is not None else None
    if seq is None:
        seq = front or min(spec.max_position or 4096, 4096)
    if front not in (None, seq):
        raise InputError(f"--seq {seq}", f"must be the {front} tokens of an image of {spec.name}")
    wanted = TrainingOptions(
        check_count(batch, "--batch", 1, MAX_BATCH), check_count(seq, "--seq", 1),
        check_count(micro_batch, "--micro-batch", 1), check_count(zero, "--zero", 0), recompute,
        sequence_parallel, check_count(interleave, "--interleave", 1), dropout,
        check_count(cp, "--cp", 1), pipeline_layout, overlap_experts, overlap_tp, graphs,
        check_count(offload, "--offload", 0), offload_optimizer, schedule, check_count(replicas, "--replicas", 1),
        offload_modules, cp_exchange, check_count(moment_bits, "--moment-bits", 1), gradient_bits, loss,
        check_count(bf16_first, "--bf16-first", 0), check_count(bf16_last, "--bf16-last", 0),
    )  # fmt: skip
    layout = training_layout(spec, where, wanted, tp=how.tp, dp=how.dp, ep=how.ep, pp=how.pp)
    deployment = training_deployment(
        spec, where, layout, placement=how.placement, attention=how.attention, routing=how.routing,
        all_to_all=how.all_to_all, costs=how.costs, memory=how.memory,
        frameworks=_kernels(how, where, layout),
    )  # fmt: skip
    if how.routing != "uniform" and not deployment.experts:
        raise InputError("--routing", f"{spec.name} has no experts; remove it")
    if how.all_to_all is not None and layout.ep == 1:
        raise InputError("--all-to-all", "no tokens are sent between devices (ep 1); remove it")
    step = training_step(deployment, layout, wanted)
    sources = {} if isinstance(system, SystemSpec) else describe_system(system)[1]
    return Training(deployment, layout, step.options, step, sources)


def _refuse_others(options: Mapping[str, Any]) -> None:
    unset = {placed.name: placed.default for placed in options_of(DeployOptions)}
    for name, value in options.items():
        if name not in TAKEN and value is not None and value != unset.get(name):
            raise InputError(flag_of(name), "is an option of serving; remove it to train")


def _kernels(how: DeployOptions, system: SystemSpec, layout: TrainingLayout) -> Mapping[str, str]:
    """Return the kernel libraries of the requested framework; empty if none is requested."""
    if how.framework is None:
        return {}
    from ...simulator.frameworks.kernels import kernels_of

    return kernels_of(how.framework, system.device, apart=layout.dp > 1)
