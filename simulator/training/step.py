"""One training step: passes of all micro-batches, gradients, and the optimiser.

Time = the pipeline's schedule of micro-batches + what of the gradients' exchange outlasts the last
backward pass + the optimiser + what of the weights' gather outlasts the first forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...workloads.layers.base import elementwise
from ...workloads.training import Flops, RepeatedOp, step_flops, whole_sequences
from ..deploy.deployment import Deployment
from ..deploy.layout import stage_models
from .layers import EXPERT, TENSOR, LayerPrices, Passes
from .layout import TrainingLayout, TrainingOptions
from .memory import TrainingMemory, check_fits, stage_memory
from .pipeline import Schedule, in_flight, schedule
from .states import BytesPerWeight, ParameterCounts, layer_parameters, stage_parameters, states
from .sync import pass_seconds

DATA, PIPELINE, OPTIMIZER, COMPUTE = "data parallel", "pipeline", "optimizer", "compute"
"""Labels of a step's seconds beside `layers.TENSOR` and `layers.EXPERT`."""


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """One pipeline stage of a step.

    Attributes
    ----------
    layers, ends : tuple of Passes
        Of its layers in order; of embedding and head where it has them.
    parameters : ParameterCounts
        Of one device.
    gathers, scatters : tuple of float
        Seconds of each layer's weights and gradients on the links, embedding and head with the layer beside them [s].
    """

    layers: tuple[Passes, ...]
    ends: tuple[Passes, ...]
    parameters: ParameterCounts
    gathers: tuple[float, ...]
    scatters: tuple[float, ...]
    memory: TrainingMemory


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """What one step takes.

    Attributes
    ----------
    by_stream : dict of str to float
        The same by what the busiest stage does or waits for; sums to `seconds`. What gradients and
        weights add is the difference from a step without their exchange [s].
    hidden_s : float
        Exchanges of gradients and weights that passes hide, of the busiest stage [s].
    memory : TrainingMemory
        Of a device of the stage that needs most.
    flops : Flops
        Of all devices.
    """

    seconds: float
    by_stream: dict[str, float]
    hidden_s: float
    memory: TrainingMemory
    flops: Flops
    stages: tuple[TrainingStage, ...]
    schedule: Schedule


def training_step(d: Deployment, layout: TrainingLayout, options: TrainingOptions) -> TrainingStep:
    """Cost one step.

    ParameterCounts
    ----------
    d : Deployment
        As `deploy.training_deployment` makes it.

    Raises
    ------
    CapacityError
        Memory that a device does not have.
    """
    m = whole_sequences(options.micro_batch, options.seq, d.shard.windows)
    each = BytesPerWeight.adam(d.run.numerics.act_bytes)
    bench = LayerPrices(d, layout, options, m, each)
    passes = _passes(bench)
    held = in_flight(len(passes), layout.microbatches, options.interleave)
    stages = tuple(_stage(bench, s, layers, ends, held[s]) for s, (layers, ends) in enumerate(passes))
    memory = max((stage.memory for stage in stages), key=lambda each: each.total)
    check_fits(memory, d.model, d.system, layout.serving.degrees)
    one = whole_sequences(1, options.seq, d.model.windows)
    flops = step_flops(d.model, one, d.run, options.recompute)
    return _timed(bench, stages, memory, flops.times(options.batch))


def _passes(bench: LayerPrices) -> list[tuple[tuple[Passes, ...], tuple[Passes, ...]]]:
    """Layers, embedding and head of each pipeline stage."""
    d = bench.deployment
    uncut = stage_models(d.model, bench.layout.pp)
    experts = iter(d.experts)
    out = []
    for s, (stage, whole) in enumerate(zip(d.stages, uncut, strict=True)):
        layers = tuple(
            bench.layer(layer, old, [next(experts) for _ in layer.expert_parts])
            for layer, old in zip(stage.layers, whole.layers, strict=True)
        )
        ends = [bench.embedding()] if s == 0 else []
        ends += [bench.head()] if s == len(d.stages) - 1 else []
        out.append((layers, tuple(ends)))
    return out


def _stage(
    bench: LayerPrices, index: int, layers: tuple[Passes, ...], ends: tuple[Passes, ...], on_way: float
) -> TrainingStage:
    """A stage's passes with its exchanges and memory; `on_way` micro-batches wait to come back."""
    d, layout, options = bench.deployment, bench.layout, bench.options
    parameters = stage_parameters(d.stages, index, layout.tp)
    own = [layer_parameters(layer) for layer in d.stages[index].layers]
    rest = parameters.dense - sum(p.dense for p in own)
    # Embedding and head, which no layer has, come with the first or last one.
    place = 0 if index == 0 else len(own) - 1
    own[place] = ParameterCounts(own[place].dense + rest, own[place].experts)
    known = {p: _exchanges(bench, p) for p in dict.fromkeys(own)}
    gathers, scatters = zip(*(known[p] for p in own), strict=True)
    memory = stage_memory(d.stages, index, layout, options, bench.bytes_each, layers, ends, on_way)
    return TrainingStage(layers, ends, parameters, gathers, scatters, memory)


def _exchanges(bench: LayerPrices, p: ParameterCounts) -> tuple[float, float]:
    """Seconds of a layer's weights and of its gradients among the ranks that hold copies."""
    layout, each, system = bench.layout, bench.bytes_each, bench.deployment.system
    groups = (
        (p.dense, layout.group(system, layout.dp, layout.tp)),
        (p.experts, layout.group(system, layout.expert_dp, layout.expert_block)),
    )
    zero = bench.options.zero
    kind = "all_reduce" if zero == 0 else "reduce_scatter"
    price = bench.prices.exchange
    scatter = sum(price(kind, count * each.gradients, group) for count, group in groups)
    gather = sum(price("all_gather", count * each.weights, group) for count, group in groups)
    return (gather if zero else 0.0), scatter


def _timed(bench: LayerPrices, stages: tuple[TrainingStage, ...], memory: TrainingMemory, flops: Flops) -> TrainingStep:
    layout, options = bench.layout, bench.options
    micro, send_s = layout.microbatches, _send(bench)

    def run(times: list[tuple[float, float]], before: Sequence[float] = ()) -> Schedule:
        forward, backward = zip(*times, strict=True)
        return schedule(forward, backward, micro, parts=options.interleave, send_s=send_s, before=before)

    bare = [(_pass(stage, False), _pass(stage, True)) for stage in stages]
    usual = [_usual(stage, options.zero) for stage in stages]
    before = [_first(s, options.zero) - u[0] for s, u in zip(stages, usual, strict=True)]
    after = [_last(s, options.zero) - u[1] for s, u in zip(stages, usual, strict=True)]
    updates = [_update(bench, stage.parameters) for stage in stages]
    alone, done = run(bare), run(usual, before)
    without = max(end + u for end, u in zip(alone.ends, updates, strict=True))
    whole = max(sum(each) for each in zip(done.ends, after, updates, strict=True))
    busiest = max(range(len(stages)), key=lambda s: alone.busy[s] + updates[s])
    stage = stages[busiest]
    inside = {name: micro * _label(stage, name) for name in (TENSOR, EXPERT)}
    rest = without - alone.busy[busiest] - updates[busiest]
    by_stream = {
        COMPUTE: alone.busy[busiest] - sum(inside.values()), **inside,
        PIPELINE: rest if layout.pp > 1 else 0.0,  # alone, a stage waits for none
        DATA: whole - without, OPTIMIZER: updates[busiest],
    }  # fmt: skip
    hidden = _exchanged(stage, options.zero, micro) - by_stream[DATA]
    return TrainingStep(whole, by_stream, max(hidden, 0.0), memory, flops, stages, done)


def _label(stage: TrainingStage, name: str) -> float:
    """Seconds of one label in both passes of a micro-batch."""
    return sum(p.forward.get(name, 0.0) + p.backward.get(name, 0.0) for p in (*stage.layers, *stage.ends))


def _usual(stage: TrainingStage, zero: int) -> tuple[float, float]:
    """Passes of a micro-batch in the middle of a step: ZeRO 2 scatters in each, 3 gathers too."""
    forward = _pass(stage, False, gather=zero == 3)
    return forward, _pass(stage, True, gather=zero == 3, scatter=zero >= 2)


def _first(stage: TrainingStage, zero: int) -> float:
    """The first forward pass, while weights that others updated arrive."""
    return _pass(stage, False, gather=zero >= 1)


def _last(stage: TrainingStage, zero: int) -> float:
    """The last backward pass, while gradients leave."""
    return _pass(stage, True, gather=zero == 3, scatter=True)


def _pass(stage: TrainingStage, backward: bool, gather: bool = False, scatter: bool = False) -> float:
    """Seconds of one pass with its exchanges; embedding and head run without any."""
    order = -1 if backward else 1
    work = [p.backward_s if backward else p.forward_s for p in stage.layers][::order]
    ends = sum(p.backward_s if backward else p.forward_s for p in stage.ends)
    gathers = stage.gathers[::order] if gather else ()
    return ends + pass_seconds(work, gathers, stage.scatters[::order] if scatter else ())


def _exchanged(stage: TrainingStage, zero: int, micro: int) -> float:
    """Seconds of gradients and weights on the links in a step."""
    gathers, scatters = sum(stage.gathers), sum(stage.scatters)
    if zero == 3:
        gathers *= 2 * micro
    return gathers + scatters * (micro if zero >= 2 else 1)


def _update(bench: LayerPrices, parameters: ParameterCounts) -> float:
    """Adam on the device's own parameters: everything of them read, all but the gradient written."""
    layout, each = bench.layout, bench.bytes_each
    zero = min(bench.options.zero, 1)  # from stage 1 on, a rank updates its share alone
    own = states(parameters, BytesPerWeight(0.0, 0.0, 1.0), zero, layout.dp, layout.expert_dp)
    moved = own.optimizer * (2 * each.optimizer + each.gradients + each.weights)
    value = bench.deployment.run.numerics.act_bytes
    op = elementwise("adam", OPTIMIZER, 1, max(1, round(moved / value)), 1, bench.deployment.run)
    return bench.prices.op(RepeatedOp(op))


def _send(bench: LayerPrices) -> float:
    """Hidden states of a micro-batch from one stage to the next."""
    layout, d = bench.layout, bench.deployment
    if layout.pp == 1:
        return 0.0
    values = bench.m.tokens * d.shard.hidden
    values /= layout.tp if bench.options.sequence_parallel else 1
    across = layout.devices > layout.per_node  # the worst pair of neighbours
    return bench.prices.send(values * d.run.numerics.act_bytes, across)
