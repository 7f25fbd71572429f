"""One training step: passes of all micro-batches, gradients, and the optimiser.

Time = the pipeline's schedule of micro-batches + what of the gradients' exchange outlasts the last
backward pass + the optimiser + what of the weights' gather outlasts the first forward pass.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

from ...workloads.batch import Moments
from ...workloads.layers import LatentAttention, SparseLatentAttention, is_routed
from ...workloads.layers.base import elementwise
from ...workloads.training import Flops, RepeatedOp, step_flops, whole_sequences
from ..deploy.deployment import Deployment
from .layers import CONTEXT, EXPERT, HOST, TENSOR, LayerPrices
from .layout import DUAL, TrainingLayout, TrainingOptions, stages_of
from .memory import OFFLOAD, Passes, TrainingMemory, check_fits, host_seconds, offloaded, stage_memory, usable_bytes
from .pipeline import Schedule, in_flight, pass_seconds, schedule
from .states import BytesPerWeight, ParameterCounts, layer_parameters, stage_parameters, states

DATA, PIPELINE, OPTIMIZER, COMPUTE = "data parallel", "pipeline", "optimizer", "compute"
"""Labels of a step's seconds in addition to `layers.TENSOR` and `layers.EXPERT`."""


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """One pipeline stage of a step.

    Attributes
    ----------
    chunks : tuple of tuple of Passes
        Of the layers of each of its parts, in order.
    embedding, head : Passes, optional
        Where it has them: before its first part, and behind its last.
    parameters : ParameterCounts
        Of one device.
    gathers, scatters : tuple of float
        Seconds of each layer's weights and gradients on the links, embedding and head with the layer beside them [s].
    """

    chunks: tuple[tuple[Passes, ...], ...]
    embedding: Passes | None
    head: Passes | None
    parameters: ParameterCounts
    gathers: tuple[float, ...]
    scatters: tuple[float, ...]
    memory: TrainingMemory

    @property
    def layers(self) -> tuple[Passes, ...]:
        return tuple(passes for chunk in self.chunks for passes in chunk)

    @property
    def ends(self) -> tuple[Passes, ...]:
        """Embedding and head."""
        return tuple(end for end in (self.embedding, self.head) if end is not None)

    def end(self, part: int) -> tuple[Passes, ...]:
        """Embedding and head of a part."""
        before = self.embedding if part == 0 else None
        behind = self.head if part == len(self.chunks) - 1 else None
        return tuple(end for end in (before, behind) if end is not None)


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """What one step takes.

    Attributes
    ----------
    by_stage : tuple of dict of str to float
        The same by what a device of each stage does or waits for; each sums to `seconds`. What gradients and
        weights add is the difference from a step without their exchange [s].
    busiest : int
        Stage that computes longest.
    hidden_s : float
        Exchanges of gradients and weights that passes hide, of the busiest stage [s].
    memory : TrainingMemory
        Of a device of the stage that needs most.
    flops : Flops
        Of all devices.
    options : TrainingOptions
        As asked, with what "auto" chose.
    joules : float
        Energy of all devices, static power included [J].
    """

    seconds: float
    by_stage: tuple[dict[str, float], ...]
    busiest: int
    hidden_s: float
    memory: TrainingMemory
    flops: Flops
    stages: tuple[TrainingStage, ...]
    options: TrainingOptions
    joules: float

    @property
    def by_stream(self) -> dict[str, float]:
        """Time of the busiest stage."""
        return self.by_stage[self.busiest]


def training_step(deployment: Deployment, layout: TrainingLayout, options: TrainingOptions) -> TrainingStep:
    """Cost one step; "auto" recomputes the modules or the entire layers that fit, whichever is faster.

    Parameters
    ----------
    deployment : Deployment
        As `training.layout.training_deployment` makes it.

    Raises
    ------
    CapacityError
        Memory that a device does not have.
    """

    @cache
    def staged(recompute: str) -> tuple[LayerPrices, tuple[TrainingStage, ...]]:
        bench = _prices(deployment, layout, replace(options, recompute=recompute))
        return bench, _stages(bench)

    def fits(recompute: str) -> bool:
        usable = usable_bytes(deployment.system, spare=1.0)
        return all(stage.memory.total <= usable for stage in staged(recompute)[1])

    if options.recompute != "auto":
        return _step(*staged(options.recompute))

    modules = next(filter(fits, least_first(deployment)), "full")
    ways = [modules]
    if modules != "none":
        most = max(len(stage.layers) for stage in deployment.stages)
        layers = [*(f"full:{n}" for n in range(1, most)), "full"]
        place = bisect_left(layers, True, key=fits)  # more layers never need more memory
        ways += layers[place : place + 1]
    return min((_step(*staged(way)) for way in ways), key=lambda step: step.seconds)


def _step(bench: LayerPrices, stages: tuple[TrainingStage, ...]) -> TrainingStep:
    deployment, options = bench.deployment, bench.options
    memory = max((stage.memory for stage in stages), key=lambda need: need.total)
    check_fits(memory, deployment.model, deployment.system, bench.layout.serving.degrees)
    one = whole_sequences(1, options.seq, deployment.model.windows)
    flops = step_flops(deployment.model, one, deployment.run, options.recompute, bench.layout.pp)
    return _timed(bench, stages, memory, flops.times(options.batch))


LATENT = (LatentAttention, SparseLatentAttention)
"""Layer kinds with the module `mla_up_proj`."""


def least_first(deployment: Deployment) -> Iterator[str]:
    """Modules to compute again, from none on: first what frees most for each second, as recipes combine them."""
    yield "none"
    chosen: list[str] = []
    layers = deployment.shard.layers
    latent = any(isinstance(part, LATENT) for layer in layers for part in layer.parts)
    dense = any(not is_routed(layer.ffn) for layer in layers if layer.ffn is not None)
    for module, there in (
        ("mla_up_proj", latent),
        ("moe_act", bool(deployment.experts)),
        ("layernorm", True),
        ("mlp", dense),
    ):
        if there:
            chosen.append(module)
            yield ",".join(chosen)


def _prices(deployment: Deployment, layout: TrainingLayout, options: TrainingOptions) -> LayerPrices:
    """Seconds of a micro-batch on one rank: of each sequence, where several share it, its part."""
    sequences = whole_sequences(options.micro_batch, options.seq, deployment.shard.windows)
    m = Moments(sequences.windows, sequences.values / layout.cp)
    numerics = deployment.run.numerics
    per_weight = BytesPerWeight.adam(numerics.act_bytes, options.moment_bits, options.gradient_bits)
    return LayerPrices(deployment, layout, options, m, per_weight.stored_as(numerics.weight_format("ffn")))


def _stages(bench: LayerPrices) -> tuple[TrainingStage, ...]:
    """Passes, exchanges and memory of each pipeline stage."""
    d, layout = bench.deployment, bench.layout
    uncut, experts = stages_of(d.model, layout), iter(d.experts)
    again = bench.options.recompute.removeprefix("full:")
    full = len(d.model.layers) if again == "full" else int(again) if again.isdecimal() else 0
    passes, offload = [], bench.options.offload
    for s, (stage, uncut_stage) in enumerate(zip(d.stages, uncut, strict=True)):
        priced = [
            bench.layer(layer, old, [next(experts) for _ in layer.expert_parts], i < full)
            for i, (layer, old) in enumerate(zip(stage.layers, uncut_stage.layers, strict=True))
        ]
        share, option = (
            (len(priced) / min(offload, len(priced)), "--offload") if offload else (1.0, "--offload-modules")
        )
        moved = [p.kept_bytes if i < offload else p.moved_bytes for i, p in enumerate(priced)]
        layers = iter(
            offloaded(p, d.system, size, share, option) if size else p for p, size in zip(priced, moved, strict=True)
        )
        passes.append([tuple(islice(layers, size)) for size in layout.chunks[s :: layout.pp]])
    embedding, head = bench.embedding(), bench.head()
    kept_bytes = [[sum(p.kept_bytes for p in chunk) for chunk in chunks] for chunks in passes]
    # As Korthikanti et al. count the embedding's mask.
    kept_bytes[0] = [chunk_bytes + embedding.kept_bytes / len(kept_bytes[0]) for chunk_bytes in kept_bytes[0]]
    waiting = list(in_flight(layout.pp, layout.microbatches, kept_bytes, bench.options.schedule == "zero-bubble"))
    waiting[-1] += head.kept_bytes  # made and used up at once
    waiting = _of_ranks(waiting, layout, bench.options)
    last = layout.pp - 1
    return tuple(
        _stage(bench, s, tuple(chunks), (embedding if s == 0 else None, head if s == last else None), waiting[s])
        for s, chunks in enumerate(passes)
    )


def _stage(
    bench: LayerPrices, index: int, chunks: tuple[tuple[Passes, ...], ...], ends: tuple[Passes | None, Passes | None], waiting: float
) -> TrainingStage:  # fmt: skip
    """A stage's passes with its exchanges and memory; `waiting` bytes of activations at most."""
    d, layout, options = bench.deployment, bench.layout, bench.options
    parameters = stage_parameters(d.stages, index, layout.tp)
    layer_counts = [layer_parameters(layer) for layer in d.stages[index].layers] or [ParameterCounts(0.0, 0.0)]
    rest = parameters.dense - sum(p.dense for p in layer_counts)
    # Embedding and head, which no layer has, come with the first or last one.
    place = 0 if index == 0 else len(layer_counts) - 1
    layer_counts[place] = ParameterCounts(layer_counts[place].dense + rest, layer_counts[place].experts)
    known = {p: _exchanges(bench, p) for p in dict.fromkeys(layer_counts)}
    gathers, scatters = zip(*(known[p] for p in layer_counts), strict=True)
    passes = [p for part in (*chunks, ends) for p in part if p is not None]
    memory = stage_memory(d.stages, _held(layout, options, index), layout, options, bench.bytes_each, passes, waiting)
    return TrainingStage(chunks, *ends, parameters, gathers, scatters, memory)


def _held(layout: TrainingLayout, options: TrainingOptions, index: int) -> tuple[int, ...]:
    """Stages of which a rank has the weights: two with DualPipe."""
    return (index, layout.pp - 1 - index) if options.schedule == DUAL else (index,)


def _of_ranks(values: Sequence[float], layout: TrainingLayout, options: TrainingOptions) -> list[float]:
    """Sums over the stages of each rank; DualPipe's are as long in flight as with 1F1B."""
    return [sum(values[i] for i in _held(layout, options, s)) for s in range(len(values))]


def _exchanges(bench: LayerPrices, counts: ParameterCounts) -> tuple[float, float]:
    """Seconds of a layer's weights and of its gradients among the ranks that hold copies."""
    layout, per_weight, system = bench.layout, bench.bytes_each, bench.deployment.system
    zero, price, scatter, gather = bench.options.zero, bench.prices.exchange, 0.0, 0.0
    kind = "all_reduce" if zero == 0 else "reduce_scatter"
    dense, experts = layout.sharing
    for count, all_ranks, ranks, stride in (
        (counts.dense, layout.copies, dense, layout.tp), (counts.experts, layout.expert_dp, experts, layout.expert_block)
    ):  # fmt: skip
        group = layout.group(system, ranks, stride)
        scatter += price(kind, count * per_weight.gradients, group)
        gather += price("all_gather", count * per_weight.weights, group)
        # Groups that share the states add up their parts of the gradients.
        others = layout.group(system, all_ranks // ranks, stride * ranks)
        scatter += price("all_reduce", count * per_weight.gradients / (ranks if zero else 1), others)
    return (gather if zero else 0.0), scatter


def _timed(bench: LayerPrices, stages: tuple[TrainingStage, ...], memory: TrainingMemory, flops: Flops) -> TrainingStep:
    """Time a step: the pipeline's schedule, then what data-parallel ranks exchange at its ends, and the optimizer."""
    layout, options = bench.layout, bench.options
    micro, send_s = layout.microbatches, _send(bench)

    late = [sum(p.weights_s for p in stage.layers) * (options.schedule != "1f1b") for stage in stages]

    def run(way: Callable[[TrainingStage, int, bool], float], before: Sequence[float] = ()) -> Schedule:
        forward, backward = (
            [[way(stage, part, back) for part in range(len(stage.chunks))] for stage in stages]
            for back in (False, True)
        )
        return schedule(
            forward, backward, micro, send_s=send_s, before=before, weights=late, dual=options.schedule == DUAL
        )

    zero = options.zero

    before = [_pass(s, None, False, gather=zero >= 1) - _usual(s, None, False, zero) for s in stages]
    after = [_pass(s, None, True, gather=zero == 3, scatter=True) - _usual(s, None, True, zero) for s in stages]
    copies = len(_held(layout, options, 0)) if zero else 1
    adam = [_update(bench, stage.parameters, copies) for stage in stages]
    before, after, updates = (
        _of_ranks(seconds, layout, options) for seconds in (before, after, [took for took, _ in adam])
    )
    alone, done = run(_pass), run(lambda stage, part, back: _usual(stage, part, back, zero), before)
    without = max(end + u for end, u in zip(alone.ends, updates, strict=True))
    step_s = max(sum(stage_times) for stage_times in zip(done.ends, after, updates, strict=True))

    busiest = max(range(len(stages)), key=lambda s: alone.busy[s] + updates[s])
    hidden = _exchanged(stages[busiest], options.zero, micro) - (step_s - without)
    by_stage = tuple(
        _streams(bench, stages, s, busy_s, updates[s], without, step_s) for s, busy_s in enumerate(alone.busy)
    )
    joules = _energy(bench, stages, by_stage, [work for _, work in adam])
    return TrainingStep(step_s, by_stage, busiest, max(hidden, 0.0), memory, flops, stages, options, joules)


def _streams(
    bench: LayerPrices, stages: Sequence[TrainingStage], rank: int, busy_s: float, update_s: float, alone_s: float, step_s: float
) -> dict[str, float]:  # fmt: skip
    """Seconds of a rank by what it does or waits for; `alone_s` of a step without the exchange of gradients and weights."""
    layout = bench.layout
    held = [stages[i] for i in _held(layout, bench.options, rank)]
    inside = {
        name: layout.microbatches * sum(_label(stage, name) for stage in held) / len(held)
        for name in (TENSOR, CONTEXT, EXPERT, HOST, OFFLOAD)
    }
    return {
        COMPUTE: busy_s - sum(inside.values()), **inside,
        PIPELINE: alone_s - busy_s - update_s if layout.pp > 1 else 0.0,  # alone, a stage waits for none
        DATA: step_s - alone_s, OPTIMIZER: update_s,
    }  # fmt: skip


def _energy(
    bench: LayerPrices, stages: Sequence[TrainingStage], times: Sequence[dict[str, float]], update_J: Sequence[float]
) -> float:
    """Energy of all devices [J]; work is under the board's limit, without bubbles and exchanges behind passes.

    A device that waits for others or for its host consumes idle and awake power: a kernel waits on it.
    """
    layout, board, total = bench.layout, bench.deployment.device.board, 0.0
    for stage, took, after in zip(stages, times, update_J, strict=True):
        step_s = sum(took.values())
        passes_J = sum(sum(p.joules.values()) for p in (*stage.layers, *stage.ends))
        total += board.work_joules(layout.microbatches * passes_J + after, step_s - took[PIPELINE] - took[DATA])
        total += board.idle_joules(step_s) + board.busy_joules(step_s)
    return total * layout.devices / layout.pp


def _label(stage: TrainingStage, name: str) -> float:
    """Seconds with one label in both passes of a micro-batch."""
    return sum(p.forward.get(name, 0.0) + p.backward.get(name, 0.0) for p in (*stage.layers, *stage.ends))


def _usual(stage: TrainingStage, part: int | None, backward: bool, zero: int) -> float:
    """A pass of a micro-batch in the middle of a step: ZeRO 2 scatters in every pass, 3 gathers too."""
    return _pass(stage, part, backward, gather=zero == 3, scatter=backward and zero >= 2)


def _pass(stage: TrainingStage, part: int | None, backward: bool, gather: bool = False, scatter: bool = False) -> float:
    """Seconds of one pass of a part, or of all, with its exchanges; embedding and head run without any."""
    order = -1 if backward else 1
    first = sum(len(chunk) for chunk in stage.chunks[:part]) if part else 0
    layers, ends = (stage.layers, stage.ends) if part is None else (stage.chunks[part], stage.end(part))
    chosen = slice(first, first + len(layers))
    work = [p.backward_s if backward else p.forward_s for p in layers][::order]
    beside = sum(p.backward_s if backward else p.forward_s for p in ends)
    gathers = stage.gathers[chosen][::order] if gather else ()
    return beside + pass_seconds(work, gathers, stage.scatters[chosen][::order] if scatter else ())


def _exchanged(stage: TrainingStage, zero: int, micro: int) -> float:
    """Seconds of gradients and weights on the links in a step."""
    gathers, scatters = sum(stage.gathers), sum(stage.scatters)
    if zero == 3:
        gathers *= 2 * micro
    return gathers + scatters * (micro if zero >= 2 else 1)


def _update(bench: LayerPrices, parameters: ParameterCounts, copies: int) -> tuple[float, float]:
    """Seconds and dynamic energy of Adam on the device's own parameters, which `copies` ranks of a pipeline share [s], [J].

    Everything of them is read, the gradient once more for the norm of all; all but it is written.
    """
    layout, per_weight = bench.layout, bench.bytes_each
    zero = min(bench.options.zero, 1)  # from stage 1 on, a rank updates its share alone
    rank_states = states(parameters, BytesPerWeight(0.0, 0.0, 1.0), zero, *layout.sharing)
    moved = rank_states.optimizer * (2 * per_weight.optimizer + 2 * per_weight.gradients + per_weight.weights)
    value = bench.deployment.run.numerics.act_bytes
    op = elementwise("adam", OPTIMIZER, 1, max(1, round(moved / value)), 1, bench.deployment.run)
    fetched_s = (
        host_seconds(bench.deployment.system, rank_states.optimizer * per_weight.optimizer, "--offload-optimizer")
        if bench.options.offload_optimizer
        else 0.0
    )
    seconds, joules = bench.prices.cost(RepeatedOp(op))
    return (seconds + fetched_s) / copies, joules / copies


def _send(bench: LayerPrices) -> float:
    """Seconds to send a micro-batch's hidden states from one stage to the next."""
    layout, d = bench.layout, bench.deployment
    if layout.pp == 1:
        return 0.0
    values = bench.m.tokens * d.shard.hidden
    values /= layout.tp if bench.options.sequence_parallel else 1
    across = layout.devices > layout.per_node  # the worst pair of neighbours
    return bench.prices.send(values * d.run.numerics.act_bytes, across)
