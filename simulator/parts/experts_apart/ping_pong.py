"""The compiled path of a step with disaggregated experts.

Micro-batches alternate in one fixed order, which `maxplus` runs. Attention is the computation; experts and both directions
of the link are streams like exchanges. Unlike `overlap.compiled` there is one way, with any number of micro-batches.
Experts are costed on the expert devices. A message takes the time of the busiest device on either side.
"""

from __future__ import annotations

import numpy as np

from ....workloads.batch import TOKENS, batch_tokens
from ....workloads.draws import step_key
from ....workloads.jit import compiled_part, int64
from ....workloads.jit_address import bring
from ...deploy.deployment import Deployment
from ...step.compiled import book_cell
from ...step.drawing import StepBatch, draw_part
from ...step.experts import book_part, clear_share, groups_seconds, on_slots
from ...step.lowering import F8, LoweredModel, Slots, lower
from ...step.step_totals import StepTotals, new_step_totals, spent
from ...step.unequal import graph_batch
from ..overlap.arrays import Streams, Workspace, streams_of
from ..overlap.chunking import micro_moments
from ..overlap.compiled import add_lane, clear, price_range
from ..overlap.maxplus import makespan
from ..overlap.splitting import deal_loads
from .side import NUM_STREAMS, Aside, Beside, Worker, beside_of

_batch_tokens = compiled_part(batch_tokens)
_micro_moments = compiled_part(micro_moments)


@compiled_part
def deal_batches(plan: LoweredModel, workspace: Workspace, aside: Aside, count: int, moments: F8) -> None:
    """Compute the sums of every rank's micro-batches; record for each the first micro-batch with the same sums."""
    for r in range(moments.shape[0]):
        for place in range(count):
            micro = workspace.moments[place, r]
            _micro_moments(moments[r], plan.windows.size, count, place, micro)
            aside.owner[place, r] = place
            if place == 0:
                continue
            first, same = aside.owner[place - 1, r], True
            for j in range(micro.size):
                same = same and micro[j] == workspace.moments[first, r, j]
            if same:
                aside.owner[place, r] = first


@compiled_part
def price_tracks(
    plan: LoweredModel,
    streams: Streams,
    workspace: Workspace,
    aside: Aside,
    section: int,
    rank: int,
    place: int,
    fresh: bool,
) -> float:
    """Return the seconds that a rank computes for a micro-batch in one layer of a section.

    The time to send is that of the rank that sends most.
    """
    total, owner = 0.0, aside.owner[place, rank]
    cells = workspace.cells[0, owner, rank]
    for t in range(streams.spans[section, 0], streams.spans[section, 1]):
        row, seconds = streams.tracks[t], 0.0
        if row.stop > row.start:
            if owner == place:
                seconds = price_range(plan, row.start, row.stop, workspace.moments[owner, rank], fresh, cells)
            else:
                for s in range(row.start, row.stop):
                    seconds += cells[s].wall
        if row.part < 0:
            total += seconds
        else:
            workspace.tracks[0, t, place] = max(workspace.tracks[0, t, place], seconds)
    return total


@compiled_part
def price_attention(
    plan: LoweredModel, streams: Streams, workspace: Workspace, aside: Aside, section: int, count: int, fresh: bool
) -> None:
    """Cost the micro-batches of a section; the slowest rank is used for each."""
    layers = plan.sections[section].layers
    for place in range(count):
        for t in range(streams.spans[section, 0], streams.spans[section, 1]):
            workspace.tracks[0, t, place] = 0.0
        slowest, longest = int64(0), -1.0
        for r in range(workspace.moments.shape[1]):
            seconds = price_tracks(plan, streams, workspace, aside, section, r, place, fresh)
            if seconds > longest:
                slowest, longest = r, seconds
        cells = workspace.cells[0, aside.owner[place, slowest], slowest]
        for t in range(streams.spans[section, 0], streams.spans[section, 1]):
            row = streams.tracks[t]
            if row.part < 0:
                for s in range(row.start, row.stop):
                    workspace.tracks[0, t, place] += cells[s].wall
                    workspace.wall[0, s] += cells[s].wall * layers
        aside.busy[Worker.ATTENTION] += longest * layers


@compiled_part
def deal_part(plan: LoweredModel, workspace: Workspace, part: int, y: int, key: np.uint64, count: int) -> None:
    """Distribute the sampled loads of an expert part to the micro-batches; `y` is the part's index in `plan`."""
    experts = plan.experts[y]
    for place in range(count):
        workspace.routed[place] = 0.0
        for r in range(workspace.moments.shape[1]):
            m = workspace.moments[place, r]
            workspace.routed[place] += experts.top_k * _batch_tokens(m, plan.windows.size)
    deal_loads(key, experts.key, workspace.drawn[part], experts.count, workspace.routed, count, workspace.loads)


@compiled_part
def price_adapters(
    plan: LoweredModel,
    workspace: Workspace,
    aside: Aside,
    part: int,
    key: np.uint64,
    count: int,
    mixed: bool,
    step_totals: StepTotals,
) -> None:
    """Cost adapters, which run on the attention devices."""
    sums, layers = 0.0, plan.experts[part].layers
    deal_part(plan, workspace, part, part, key, count)
    clear_share(step_totals.share)
    for place in range(count):
        seconds, left = groups_seconds(plan, part, workspace.loads[place], mixed, step_totals.share, step_totals.queue)
        sums += left
        workspace.experts[0, part, place] = seconds
        aside.busy[Worker.ATTENTION] += seconds * layers
        workspace.wall[0, plan.slots.shape[0] + part] += seconds * layers
    book_part(plan, part, sums, step_totals.share, step_totals.tally, step_totals.busy[0])


@compiled_part
def price_part(
    beside: Beside, workspace: Workspace, aside: Aside, part: int, key: np.uint64, count: int, mixed: bool
) -> None:
    """Cost one expert part and both its transfers, with the sampled loads."""
    plan, step_totals, y = beside.plan, aside.step_totals, beside.held[part]
    experts, sums = plan.experts[y], 0.0
    parts, layers = beside.held.size, experts.layers
    deal_part(plan, workspace, part, y, key, count)
    clear_share(step_totals.share)
    for place in range(count):
        loads = on_slots(plan, y, key, workspace.loads[place], step_totals.placed)
        seconds, left = groups_seconds(plan, y, loads, mixed, step_totals.share, step_totals.queue)
        sums += left
        most, sent = int64(0), workspace.tracks[0, beside.tracks[part], place]
        for g in range(experts.groups):
            group_tokens = int64(0)
            for e in range(g * experts.held, (g + 1) * experts.held):
                group_tokens += loads[e]
            most = max(most, group_tokens)
        if most > 0:
            sent = max(sent, beside.latency_s + most * beside.vector_s[part])
        workspace.experts[0, part, place] = seconds
        workspace.experts[0, parts + part, place] = workspace.experts[0, 2 * parts + part, place] = sent
        aside.busy[Worker.EXPERTS] += seconds * layers
        aside.busy[Worker.OUT] += sent * layers
        aside.busy[Worker.BACK] += sent * layers
    book_part(plan, y, sums, step_totals.share, step_totals.tally, step_totals.busy[0])


@compiled_part
def book_attention(
    plan: LoweredModel, streams: Streams, workspace: Workspace, aside: Aside, count: int, step_totals: StepTotals
) -> None:
    """Add the ops of all ranks to the step totals; link time does not count as busy time of the attention devices."""
    links = workspace.busy[0, 1]
    for g in range(plan.sections.shape[0]):
        times = plan.sections[g].layers * plan.tp
        for t in range(streams.spans[g, 0], streams.spans[g, 1]):
            row = streams.tracks[t]
            for r in range(workspace.moments.shape[1]):
                for place in range(count):
                    cells = workspace.cells[0, aside.owner[place, r], r]
                    for s in range(row.start, row.stop):
                        p = int(cells[s].processor)
                        if p >= 0:
                            busy = step_totals.busy[0, : links.size] if row.part < 0 else links
                            book_cell(plan, s, p, times, cells[s], step_totals.tally, busy)


@compiled_part
def book_beside(beside: Beside, aside: Aside, links: int, busy: F8) -> None:
    """Write the totals of the expert devices to the log's columns: busy seconds, then energy [J]."""
    step_totals = aside.step_totals
    for p in range(step_totals.busy.shape[1]):
        busy[links + p] = step_totals.busy[0, p]
    busy[busy.size - 1] = spent(beside.plan, step_totals.tally)


@compiled_part
def ping_pong_seconds(
    plan: LoweredModel, moments: F8, batch: StepBatch, fresh: bool, captured: int, step_totals: StepTotals
) -> float:
    """Return the seconds of a step with alternating micro-batches, as `compiled.serial_seconds` for a serial step."""
    streams, beside, workspace, aside = plan.streams, plan.apart, step_totals.workspace, step_totals.aside
    count = streams.ways[0].chunks
    for r in range(moments.shape[0]):
        moments[r, TOKENS] = graph_batch(int(moments[r, TOKENS]), captured)
    clear(plan, workspace, 0)
    deal_batches(plan, workspace, aside, count, moments)
    for g in range(plan.sections.shape[0]):
        price_attention(plan, streams, workspace, aside, g, count, fresh)
    key = step_key(plan.seed, plan.replica, batch.step)
    mixed = batch.num_chunks > 0
    for x in range(plan.experts.shape[0]):
        draw_part(plan, x, batch, 0, step_totals.scratch, workspace.drawn[x])
        if beside.held[x] < 0:
            price_adapters(plan, workspace, aside, x, key, count, mixed, step_totals)
        else:
            price_part(beside, workspace, aside, x, key, count, mixed)
    seconds = makespan(streams, workspace, 0)
    book_attention(plan, streams, workspace, aside, count, step_totals)
    add_lane(plan, workspace, 0, step_totals)
    book_beside(beside, aside, workspace.busy.shape[2], step_totals.busy[0])
    for r in range(moments.shape[0]):
        moments[r, TOKENS] = _batch_tokens(moments[r], plan.windows.size)
    return float(seconds)


def with_aside(step_totals: StepTotals, plan: LoweredModel) -> StepTotals:
    """Return the step totals of an engine, with totals of its expert devices."""
    owner = np.zeros((int(plan.streams.ways[0].chunks), plan.ranks), dtype=np.int64)
    return step_totals._replace(aside=Aside(new_step_totals(plan.apart.plan), owner, np.zeros(NUM_STREAMS)))


bring(Beside, apart_seconds=ping_pong_seconds, step_totals=with_aside)


def with_holders(
    plan: LoweredModel, slots: Slots, deployment: Deployment, replica: int, counts: int
) -> tuple[LoweredModel, Slots]:
    """Return the lowered model with its expert devices and the transfers to them and back."""
    streams = streams_of(deployment, plan.sections.start.tolist())
    assert streams is not None
    assert deployment.apart is not None
    holders, names = lower(deployment.apart.holder, replica, counts, experts_alone=True)
    apart = beside_of(deployment, holders, streams, len(plan.slots))
    return plan._replace(streams=streams, apart=apart), slots._replace(holders=names)
