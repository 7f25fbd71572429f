"""Running totals of one engine's work in the compiled path; its energy is computed from them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ...devices.cost import BOUNDS, PATHS
from ...workloads.draws import Scratch, new_scratch
from ...workloads.jit import compiled_part
from ...workloads.jit_address import by_address
from ...workloads.records import Records, named, records
from .lowering import F8, I8, LoweredModel, Role
from .memo import NUM_SHARE

T_FLOPS, T_STREAM, T_ACT, T_RUNS, T_OUTSIDE = range(len(BOUNDS), len(BOUNDS) + 5)
NUM_TALLIES = len(BOUNDS) + 5
T_BUSY = NUM_TALLIES
NUM_TOTALS = NUM_TALLIES + 1 + len(PATHS)
T_JOULES = slice(T_BUSY + 1, NUM_TOTALS)
"""Columns of `StepTotals.tally` and of `totals`: sums over devices for each op and processor.

First the busy seconds by bound (`BOUNDS`), then FLOPs, streamed bytes, activation bytes, runs, and runs outside the kernel
tables in use. `totals` also has all busy seconds, and joules by path (`PATHS`).
"""

CELL = named("", "wall processor busy flops stream act outside bound")
"""The current cost of one op of one rank.

`wall`: seconds that it adds to the step, without time hidden behind a parallel op. `processor`: its index; -1 if the op has
no work. `busy`: seconds on its processor. `flops`, `stream`, `act`: FLOPs, streamed and activation bytes. `outside`: 1
outside the kernel tables, else 0. `bound`: code of the bound.
"""

SPACE = named("", "tokens active main near")
"""A memory space: its tokens and active experts, and the roofline seconds of these on the main processor and on the
processor near memory, without fixed costs."""

SPREAD = named("", "decodes step seconds")
"""The seconds added by unequal contexts, with the number of decodes and the step for which they were computed."""


@by_address
class StepTotals(NamedTuple):
    """Running totals of one engine; S ops outside the experts, X expert parts, P processors."""

    tally: F8  # [S+X, P, NUM_TALLIES]
    wall: F8  # [S+X] seconds that each op has added to the time of steps
    cells: Records  # [R, S] of `CELL`
    share: F8  # [P, NUM_SHARE]
    queue: Records  # [E] of `SPACE`
    scratch: Scratch  # work arrays of the sampling of expert loads
    loads: I8  # [E] sampled loads of one part
    placed: I8  # [J] loads of expert slots; empty without an expert map
    contexts: F8  # [B] context lengths of a rank's decodes, for `unequal`
    prompts: F8  # [2, B] new and cached tokens of a rank's prompt chunks, for `unequal`
    places: F8  # [thread blocks that run at once] work array of `unequal`
    spread: Records  # [R] of `SPREAD`, see `engine.counting.set_uneven`
    # [2, P+1] busy device-seconds of each processor and of links: now, and at the last log entry. Further columns: the
    # same for separate expert devices, and their energy [J]
    busy: F8
    stages: F8  # [pp] seconds of the latest step on each pipeline stage
    least: F8  # [1] lower bound of the seconds of a step of the latest batch, for any growth of contexts; 0: unknown
    workspace: Any = None  # of overlapping tasks; None if nothing overlaps
    aside: Any = None  # totals of separate expert devices; None without them
    cache_state: Any = None  # expert caches; None without any


def new_step_totals(plan: LoweredModel, sequences: int = 1) -> StepTotals:
    """Return empty running totals for one engine with at most `sequences` sequences per rank."""
    rows, processors = plan.can.shape
    experts = plan.router.shape[2]
    step_totals = StepTotals(
        tally=np.zeros((rows, processors, NUM_TALLIES)),
        wall=np.zeros(rows),
        cells=records((plan.ranks, len(plan.slots)), CELL),
        share=np.zeros((processors, NUM_SHARE)),
        queue=records(experts, SPACE),
        scratch=new_scratch(experts),
        loads=np.zeros(experts, dtype=np.int64),
        placed=np.zeros(0 if plan.places is None else plan.places.experts.shape[1], dtype=np.int64),
        contexts=np.zeros(sequences),
        prompts=np.zeros((2, sequences)),
        places=np.zeros(int(plan.uneven.blocks[0].places) if plan.uneven is not None else 0),
        spread=records(plan.ranks, SPREAD),
        busy=np.zeros((2, processors + 1 + beside_columns(plan))),
        stages=np.zeros(plan.stages),
        least=np.zeros(1),
    )
    for record in (plan.streams, plan.fetch, plan.apart):
        if record is not None:
            step_totals = record.brings["step_totals"](step_totals, plan)
    return step_totals


def beside_columns(plan: LoweredModel) -> int:
    """Return the number of columns of `StepTotals.busy` for separate expert devices: processors, links, energy."""
    return 0 if plan.apart is None else int(plan.apart.plan.can.shape[1]) + 2


@compiled_part
def spent(plan: LoweredModel, tally: F8) -> float:
    """Return the energy of all work so far at the nominal clock [J]; `totals` has it by op and path."""
    joules, slots, params = 0.0, plan.slots, plan.params
    for s in range(tally.shape[0]):
        link = s < slots.shape[0] and slots[s].role == Role.LINK
        for p in range(tally.shape[1]):
            row = tally[s, p]
            joules += row[T_ACT] * params[s, p].j_act + row[T_FLOPS] * params[s, p].j_flop
            if not link:
                joules += row[T_STREAM] * params[s, p].j_stream
    return float(joules)


def totals(plan: LoweredModel, tally: F8) -> F8:
    """Return the running totals with energy, which is linear in them, shape (S+X, P, NUM_TOTALS)."""
    link = np.zeros(len(tally), dtype=np.bool_)
    link[: len(plan.slots)] = plan.slots.role == Role.LINK
    out = np.zeros((*tally.shape[:2], NUM_TOTALS))
    out[:, :, :NUM_TALLIES] = tally
    out[:, :, T_BUSY] = tally[:, :, : len(BOUNDS)].sum(axis=2)
    act, params = tally[:, :, T_ACT] * plan.params["j_act"], plan.params
    through_memory = ~link[:, None]  # a collective moves its bytes over a link, not through memory
    joules = {
        "dram": through_memory * (tally[:, :, T_STREAM] * params["j_stream"] + act),
        "compute": tally[:, :, T_FLOPS] * params["j_flop"],
        "link": ~through_memory * act,
    }
    for i, path in enumerate(PATHS, T_JOULES.start):
        out[:, :, i] = joules[path]
    out[link, :, T_STREAM] = out[link, :, T_ACT] = 0.0
    return out
