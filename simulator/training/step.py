"""One training step: passes of all micro-batches, gradients, and the optimizer.

The time of a step is the pipeline schedule of its micro-batches, plus the gradient exchange after the last backward pass, the
optimizer, and the part of the weights' gather that is not hidden by the first forward pass.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice

from ...workloads.batch import Moments
from ...workloads.layers.base import elementwise
from ...workloads.training import RepeatedOp, whole_sequences
from ...workloads.training_parts import Flops, step_flops
from ..deploy.deployment import Deployment
from .activations import least_first
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
        Passes of the layers of each of its parts, in order.
    embedding, head : Passes, optional
        Passes before its first part and after its last part, if the stage has them.
    parameters : ParameterCounts
        Parameters of one device.
    gathers, scatters : tuple of float
        Time to gather each layer's weights and to scatter its gradients [s]; the outer layers include embedding and head.
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
        """Passes of embedding and head."""
        return tuple(end for end in (self.embedding, self.head) if end is not None)

    def end(self, part: int) -> tuple[Passes, ...]:
        """Return the passes of embedding and head that run with a part."""
        before = self.embedding if part == 0 else None
        behind = self.head if part == len(self.chunks) - 1 else None
        return tuple(end for end in (before, behind) if end is not None)


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """Results of one training step.

    Attributes
    ----------
    by_stage : tuple of dict of str to float
        Time of each stage by activity [s]: computation, exchanges, waiting, optimizer. Each stage's sum is `seconds`. The
        time of data parallelism is the difference from a step without the exchange of gradients and weights.
    busiest : int
        Stage with the longest computation.
    hidden_s : float
        Hidden time of the exchange of gradients and weights, on the busiest stage [s].
    memory : TrainingMemory
        Memory of a device of the stage that needs most.
    flops : Flops
        FLOPs of all devices.
    options : TrainingOptions
        The given options, with the choices of "auto".
    joules : float
        Energy of all devices, including static power [J].
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
        """Time of the busiest stage by activity, as in `by_stage` [s]."""
        return self.by_stage[self.busiest]


def training_step(deployment: Deployment, layout: TrainingLayout, options: TrainingOptions) -> TrainingStep:
    """Predict one training step; "auto" recomputes the fewest modules or the fewest layers that fit, whichever is faster.

    Parameters
    ----------
    deployment : Deployment
        Result of `training.layout.training_deployment`.

    Raises
    ------
    CapacityError
        The step needs more memory than a device has.
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


def _prices(deployment: Deployment, layout: TrainingLayout, options: TrainingOptions) -> LayerPrices:
    """Return the cost model of a micro-batch on one rank; context-parallel ranks have a part of each sequence."""
    sequences = whole_sequences(options.micro_batch, options.seq, deployment.shard.windows)
    m = Moments(sequences.windows, sequences.values / layout.cp)
    numerics = deployment.run.numerics
    per_weight = BytesPerWeight.adam(numerics.act_bytes, options.moment_bits, options.gradient_bits)
    return LayerPrices(deployment, layout, options, m, per_weight.stored_as(numerics.weight_format("ffn")))


def _stages(bench: LayerPrices) -> tuple[TrainingStage, ...]:
    """Return the passes, exchanges and memory of each pipeline stage."""
    d, layout = bench.deployment, bench.layout
    uncut, experts = stages_of(d.model, layout), iter(d.experts)
    again = bench.options.recompute.removeprefix("full:")
    full = len(d.model.layers) if again == "full" else int(again) if again.isdecimal() else 0
    passes, offload = list[list[tuple[Passes, ...]]](), bench.options.offload
    benches = _benches(bench)
    for stage, uncut_stage, own in zip(d.stages, uncut, benches, strict=True):
        priced = [
            at.layer(layer, old, [next(experts) for _ in layer.expert_parts], i < full)
            for i, (at, layer, old) in enumerate(zip(own, stage.layers, uncut_stage.layers, strict=True))
        ]
        share, option = (
            (len(priced) / min(offload, len(priced)), "--offload") if offload else (1.0, "--offload-modules")
        )
        moved = [p.kept_bytes if i < offload else p.moved_bytes for i, p in enumerate(priced)]
        layers = iter(
            offloaded(p, d.system, size, share, option) if size else p for p, size in zip(priced, moved, strict=True)
        )
        passes.append([tuple(islice(layers, size)) for size in layout.chunks[len(passes) :: layout.pp]])
    embedding, head = bench.embedding(), bench.head()
    kept_bytes = [[sum(p.kept_bytes for p in chunk) for chunk in chunks] for chunks in passes]
    # The embedding's dropout mask counts as in Korthikanti et al.
    kept_bytes[0] = [chunk_bytes + embedding.kept_bytes / len(kept_bytes[0]) for chunk_bytes in kept_bytes[0]]
    waiting = list(in_flight(layout.pp, layout.microbatches, kept_bytes, bench.options.schedule == "zero-bubble"))
    waiting[-1] += head.kept_bytes  # stored and used at once
    waiting = _of_ranks(waiting, layout, bench.options)
    last, formats = layout.pp - 1, [[at.bytes_each.weights for at in own] for own in benches]
    return tuple(
        _stage(
            bench, s, tuple(chunks), (embedding if s == 0 else None, head if s == last else None), waiting[s], formats
        )
        for s, chunks in enumerate(passes)
    )


def _benches(bench: LayerPrices) -> list[list[LayerPrices]]:
    """Return the cost models of each stage's layers: the first and the last may stay in 16 bits, those of MTP do not (Megatron-LM, fp8_utils.py)."""
    d, o = bench.deployment, bench.options
    plain = replace(d.run.numerics, weights=())
    wide = replace(
        bench, deployment=replace(d, run=replace(d.run, numerics=plain)), options=replace(o, overlap_tp=bench.overlaps),
        bytes_each=replace(bench.bytes_each, weights=plain.act_bytes), _known={},
    )  # fmt: skip
    layers = len(d.model.layers) - d.model.mtp_heads * len(d.model.mtp)
    ends = {*range(o.bf16_first), *range(layers - o.bf16_last, layers)}
    return [[wide if n in ends else bench for n in bench.layout.numbers(s)] for s in range(bench.layout.pp)]


def _stage(
    bench: LayerPrices, index: int, chunks: tuple[tuple[Passes, ...], ...], ends: tuple[Passes | None, Passes | None], waiting: float,
    formats: Sequence[Sequence[float]],
) -> TrainingStage:  # fmt: skip
    """Return a stage's passes with its exchanges and memory.

    `waiting` is the peak of stored activations [B], `formats` has the bytes of a weight in each layer of all stages.
    """
    d, layout, options = bench.deployment, bench.layout, bench.options
    parameters = stage_parameters(d.stages, index, layout.tp)
    layer_counts = [layer_parameters(layer) for layer in d.stages[index].layers] or [ParameterCounts(0.0, 0.0)]
    rest = parameters.dense - sum(p.dense for p in layer_counts)
    # Embedding and head are added to the first or last layer.
    place = 0 if index == 0 else len(layer_counts) - 1
    layer_counts[place] = ParameterCounts(layer_counts[place].dense + rest, layer_counts[place].experts)
    keys = list(zip(layer_counts, formats[index] or [bench.bytes_each.weights], strict=True))
    known = {key: _exchanges(bench, *key) for key in dict.fromkeys(keys)}
    gathers, scatters = zip(*(known[key] for key in keys), strict=True)
    passes = [p for part in (*chunks, ends) for p in part if p is not None]
    memory = stage_memory(
        d.stages, _held(layout, options, index), layout, options, bench.bytes_each, passes, waiting, formats
    )
    return TrainingStage(chunks, *ends, parameters, gathers, scatters, memory)


def _held(layout: TrainingLayout, options: TrainingOptions, index: int) -> tuple[int, ...]:
    """Return the stages whose weights a rank stores: two with DualPipe."""
    return (index, layout.pp - 1 - index) if options.schedule == DUAL else (index,)


def _of_ranks(values: Sequence[float], layout: TrainingLayout, options: TrainingOptions) -> list[float]:
    """Return the sums over the stages of each rank; DualPipe keeps as many micro-batches in flight as 1F1B."""
    return [sum(values[i] for i in _held(layout, options, s)) for s in range(len(values))]


def _exchanges(bench: LayerPrices, counts: ParameterCounts, stored: float) -> tuple[float, float]:
    """Return the gather time of a layer's weights of `stored` bytes, and the scatter time of its gradients, among the replicas [s]."""
    layout, per_weight, system = bench.layout, bench.bytes_each, bench.deployment.system
    zero, price, scatter, gather = bench.options.zero, bench.prices.exchange, 0.0, 0.0
    kind = "all_reduce" if zero == 0 else "reduce_scatter"
    dense, experts = layout.sharing
    for count, all_ranks, ranks, stride in (
        (counts.dense, layout.copies, dense, layout.tp), (counts.experts, layout.expert_dp, experts, layout.expert_block)
    ):  # fmt: skip
        group = layout.group(system, ranks, stride)
        scatter += price(kind, count * per_weight.gradients, group)
        gather += price("all_gather", count * stored, group)
        # Groups that share the states sum their parts of the gradients.
        others = layout.group(system, all_ranks // ranks, stride * ranks)
        scatter += price("all_reduce", count * per_weight.gradients / (ranks if zero else 1), others)
    return (gather if zero else 0.0), scatter


def _timed(bench: LayerPrices, stages: tuple[TrainingStage, ...], memory: TrainingMemory, flops: Flops) -> TrainingStep:
    """Return the results of a step: its pipeline schedule, the data-parallel exchange at its ends, and the optimizer."""
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
    """Return the time of a rank by activity [s]; `alone_s` is the step's time without the exchange of gradients and weights."""
    layout = bench.layout
    held = [stages[i] for i in _held(layout, bench.options, rank)]
    inside = {
        name: layout.microbatches * sum(_label(stage, name) for stage in held) / len(held)
        for name in (TENSOR, CONTEXT, EXPERT, HOST, OFFLOAD)
    }
    return {
        COMPUTE: busy_s - sum(inside.values()), **inside,
        PIPELINE: alone_s - busy_s - update_s if layout.pp > 1 else 0.0,  # a single stage waits for no other
        DATA: step_s - alone_s, OPTIMIZER: update_s,
    }  # fmt: skip


def _energy(
    bench: LayerPrices, stages: Sequence[TrainingStage], times: Sequence[dict[str, float]], update_J: Sequence[float]
) -> float:
    """Return the energy of all devices [J].

    Outside pipeline bubbles and data-parallel exchanges, the work stays below the board's power limit. A device that waits for
    others or for its host consumes idle and awake power, because a waiting kernel runs on it.
    """
    layout, board, total = bench.layout, bench.deployment.device.board, 0.0
    for stage, took, after in zip(stages, times, update_J, strict=True):
        step_s = sum(took.values())
        passes_J = sum(sum(p.joules.values()) for p in (*stage.layers, *stage.ends))
        total += board.work_joules(layout.microbatches * passes_J + after, step_s - took[PIPELINE] - took[DATA])
        total += board.idle_joules(step_s) + board.busy_joules(step_s)
    return total * layout.devices / layout.pp


def _label(stage: TrainingStage, name: str) -> float:
    """Return the time with one label in both passes of a micro-batch [s]."""
    return sum(p.forward.get(name, 0.0) + p.backward.get(name, 0.0) for p in (*stage.layers, *stage.ends))


def _usual(stage: TrainingStage, part: int | None, backward: bool, zero: int) -> float:
    """Return the time of a pass in the middle of a step [s]: ZeRO 2 scatters in every pass, ZeRO 3 also gathers."""
    return _pass(stage, part, backward, gather=zero == 3, scatter=backward and zero >= 2)


def _pass(stage: TrainingStage, part: int | None, backward: bool, gather: bool = False, scatter: bool = False) -> float:
    """Return the time of one pass of a part, or of all parts, with its exchanges [s]; embedding and head have none."""
    order = -1 if backward else 1
    first = sum(len(chunk) for chunk in stage.chunks[:part]) if part else 0
    layers, ends = (stage.layers, stage.ends) if part is None else (stage.chunks[part], stage.end(part))
    chosen = slice(first, first + len(layers))
    work = [p.backward_s if backward else p.forward_s for p in layers][::order]
    beside = sum(p.backward_s if backward else p.forward_s for p in ends)
    gathers = stage.gathers[chosen][::order] if gather else ()
    return beside + pass_seconds(work, gathers, stage.scatters[chosen][::order] if scatter else ())


def _exchanged(stage: TrainingStage, zero: int, micro: int) -> float:
    """Return the exchange time of gradients and weights in a step [s]."""
    gathers, scatters = sum(stage.gathers), sum(stage.scatters)
    if zero == 3:
        gathers *= 2 * micro
    return gathers + scatters * (micro if zero >= 2 else 1)


def _update(bench: LayerPrices, parameters: ParameterCounts, copies: int) -> tuple[float, float]:
    """Return time [s] and dynamic energy [J] of Adam on the device's parameters, which `copies` pipeline ranks share.

    Optimizer states are read and written, gradients are read twice (the first time for the global norm), and weights are
    written.
    """
    layout, per_weight = bench.layout, bench.bytes_each
    zero = min(bench.options.zero, 1)  # from stage 1 on, a rank updates only its share
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
    """Return the time to send a micro-batch's hidden states from one stage to the next [s]."""
    layout, d = bench.layout, bench.deployment
    if layout.pp == 1:
        return 0.0
    values = bench.m.tokens * d.shard.hidden
    values /= layout.tp if bench.options.sequence_parallel else 1
    across = layout.devices > layout.per_node  # the slowest pair of neighbours
    return bench.prices.send(values * d.run.numerics.act_bytes, across)
