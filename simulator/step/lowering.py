"""Lowering: convert the ops of the layer code to arrays that the compiled path evaluates.

The FLOPs and bytes of every op outside the experts are affine in the batch's moments. So their coefficients follow from
evaluating the layer code at a base point, and at this point with one moment raised by 1. Expert ops are affine in each
expert's tokens. No formula is written twice.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ...devices.collectives.plans import BY_STEP
from ...devices.device import Processor
from ...devices.prices import ALONE, ROOFLINE, PriceRow, Probe
from ...workloads.batch import BASE_MOMENTS, DECODE_KV, WINDOW_MOMENTS, Moments, num_moments
from ...workloads.errors import InputError
from ...workloads.jit_address import by_address
from ...workloads.ops import OP_KINDS, Loads, Op
from ...workloads.records import Records, filled, named
from ..deploy.deployment import AnyLink, Deployment
from ..deploy.expert_parts import ExpertPart
from ..deploy.placement import (
    PLACEMENTS,
    able,
    alone_in_cache,
    kind_code,
    phase_code,
    processors_of,
    sum_bytes,
    sums_op,
)
from ..part import Combination
from ..registry import all_hooks, parts_of
from .memo import new_memo
from .prices import Kernels, gather
from .rules import Custom, custom_rule, rule_code
from .sections import Build, sections_of
from .unequal import Uneven, uneven_of

Role = IntEnum("Role", "PLAIN LINK PAIR_DECODE DECODE", start=0)
"""Roles of ops for placement rules. `PAIR_DECODE`: decode attention that follows the prefill attention of the same layer, with
which it may run in parallel. `DECODE`: other decode attention. `LINK`: a collective."""

Form = IntEnum("Form", "FLOPS STREAM ACT", start=0)

SECTION = named("start stop layers stage", "")
"""A section: its range of slots, the number of layers that run them, and the pipeline stage of these layers."""

SLOT = named("role varies several kind phase", "")
"""An op: role, whether it depends on the contexts of decodes, whether more than one processor can run it, and its
kind and phase as numbers for placement rules."""

EXPERTS = named("count groups top_k uniform near table layers stage key held alike pool", "")
"""Fields of an expert part (`deploy.expert_parts.ExpertPart`).

`count`: number of routed experts. `groups`: number of expert-parallel groups. `top_k`: experts of a token. `uniform`: whether
the router is uniform. `near`: processor that shares the experts with the main one (0: none). `table`: index of their times in
`LoweredModel.expert_table`. `layers`: number of layers that share a sample of loads. `stage`: their pipeline stage. `key`:
counter of their samples.
`held`: expert slots of each group, with redundant experts. `alike`: first part with equal costs at equal loads. `pool`:
`Router.pool`.
"""

EXPERT_WORK = named("", "flops weights act tilt persist")
"""FLOPs per routed token, weight bytes per active expert, activation bytes per routed token; `Router.tilt` and
`Router.persist`."""

MOST_TOKENS = 8192
"""Largest number of tokens of a step for which kernel models are tabulated by default."""

TABLE_SIZE = 256
"""Number of token counts for which the seconds of an expert are tabulated."""

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
B1 = npt.NDArray[np.bool_]


@by_address
class Modes(NamedTuple):
    """Costs of L exchanges whose algorithm depends on the kind of step."""

    slots: I8  # [L] slots of the exchanges
    params: Records  # [2, L] of ROOFLINE: for steps without prompts on any rank, and with prompts


@by_address
class LoweredModel(NamedTuple):
    """A deployment as arrays. S slots (ops outside experts), X expert parts, P processors.

    The last of the M moments is not a sum over the batch: it is the time that unequal contexts add to a layer's decode
    attention [s], 0 if the kernel's thread blocks are unknown (see `unequal`). Slots are ordered by section. A section's
    slots run once for each of its layers, followed by a barrier over ranks. There are few arrays, with two or three
    dimensions, because each array costs compile time in every function that takes a plan.
    """

    windows: I8  # [W] attention windows
    sections: Records  # [G] of `SECTION`
    slots: Records  # [S] of `SLOT`
    forms: F8  # [S, 3, M+1] FLOPs, streamed bytes, activation bytes by moment; then the constant
    params: Records  # [S+X, P] of ROOFLINE
    can: B1  # [S+X, P] whether a processor can run an op
    moe: int | None  # expert parts; None for a model without experts
    experts: Records  # [X] of `EXPERTS`
    expert_work: Records  # [X] of `EXPERT_WORK`
    expert_table: F8  # [C, P, TABLE_SIZE + 3] see `experts.expert_seconds`
    router: F8  # [X, 3, E] see `workloads.draws.LayerRouting`
    seed: int  # of the expert samples
    replica: int  # counter of the expert samples
    rule: int  # code of a built-in placement rule
    custom: Custom  # a compiled user-defined placement rule; None: built in
    priced: bool  # whether the rule needs the predicted time and energy of an op
    shares: bool  # whether the rule runs prefill and decode attention in parallel, and splits experts over processors
    spaces: int  # memory spaces of a device
    optimal: bool  # whether co-processing tries every subset of the memory spaces
    ranks: int
    stages: int  # pipeline stages
    tp: int  # devices of a rank and stage
    expert_devices: int  # devices of all expert groups together
    kernels: Kernels | None  # cost rows that are not rooflines; None if all are
    uneven: Uneven | Any  # decode attention of unequal contexts; None if the kernel's thread blocks are unknown
    streams: Any = None  # overlap of ops; None if a step's ops run one after another
    fetch: Any = None  # the expert cache; None without one
    places: Any = None  # the expert map; None if experts are in order, without redundant experts
    modes: Modes | Any = None  # None if exchanges have the same cost in every step
    apart: Any = None  # separate devices of disaggregated experts; None without them
    memo: Any = None  # `memo.Memo`; None if a part needs the loads of each step


class Slots(NamedTuple):
    """Names of the rows and processors of a lowered plan, for tables of results."""

    name: tuple[str, ...]
    layer: tuple[str, ...]
    kind: tuple[str, ...]
    processors: tuple[str, ...]
    link: tuple[str | None, ...]  # None for ops that are not collectives
    holders: Slots | None = None  # the same for the devices of disaggregated experts


def lower(
    deployment: Deployment, replica: int = 0, counts: int = MOST_TOKENS, experts_alone: bool = False
) -> tuple[LoweredModel, Slots]:
    """Convert a deployment to the arrays of the compiled path.

    Parameters
    ----------
    replica : int
        Counter of its expert samples.
    counts : int
        Largest number of tokens of a step for which kernel models are tabulated.
    experts_alone : bool
        Whether the devices only run the experts of another deployment: then only the first section is lowered.

    Raises
    ------
    InputError
        FLOPs or bytes of a layer kind are not affine in the batch's moments, or its access pattern changes with the batch.
    """
    d = deployment
    processors = processors_of(d.device)
    sections = sections_of(d)[: 1 if experts_alone else None]
    probed = [_probe(d, section.build, counts) for section in sections]
    ends = np.cumsum([len(ops) for ops, _, _ in probed])
    form = np.ascontiguousarray(np.concatenate([forms for _, forms, _ in probed]))
    ops = [op for chain, _, _ in probed for op in chain]
    links = [_link(d, op) for op in ops]
    roles = [_role(op, before) for chain, _, _ in probed for op, before in zip(chain, [None, *chain[:-1]], strict=True)]
    probes = [probe for _, _, section_probes in probed for probe in section_probes]
    experts = [part.spec.expert_op(Loads(np.ones(1), np.ones(1)), d.run) for part in d.experts]
    ops, links = ops + experts, [*links, *(None for _ in experts)]
    probes += [Probe((), counts) for _ in experts]
    rows = _price_rows(ops, links, probes, processors)
    shape = (len(ops), len(processors))
    params, can = _params(rows, shape, experts, processors)
    work = filled(EXPERT_WORK, [_expert_work(part, d) for part in d.experts])
    tables, classes = _expert_tables(work, params[len(form) :])
    rule = PLACEMENTS[d.placement]
    plan = LoweredModel(
        windows=np.array(d.shard.windows, dtype=np.int64),
        sections=filled(
            SECTION,
            [(end - len(ops), end, s.layers, s.stage) for end, s, (ops, _, _) in zip(ends, sections, probed, strict=True)],
        ),
        slots=_slots(ops, roles, _varies(form, d.shard.windows), can[: len(form)]),
        forms=form,
        params=params,
        can=can,
        moe=len(d.experts) or None,
        experts=_experts(d, rule.shares, can[len(form) :], classes),
        expert_work=work,
        expert_table=tables,
        router=_padded([p.router.table(p.row) for p in d.experts]),
        seed=d.experts[0].router.seed if d.experts else 0, replica=replica,
        rule=rule_code(d.placement),
        custom=custom_rule(d.placement),
        priced=rule.priced, shares=rule.shares,
        spaces=d.device.spec.memory.spaces,
        optimal=d.system.mapping.splitter == "optimal",
        ranks=d.ranks, stages=d.layout.pp, tp=d.layout.tp,
        expert_devices=d.layout.devices if d.ranks > 1 else d.layout.tp,
        kernels=gather(rows, shape, form.shape[2] - 1),
        uneven=uneven_of(d), modes=_modes(d, ops),
    )  # fmt: skip
    slots = Slots(
        name=tuple(op.name for op in ops),
        layer=tuple(op.layer for op in ops),
        kind=tuple(op.kind for op in ops),
        processors=tuple(p.name for p in processors),
        link=tuple(link.spec.name if link else None for link in links),
    )
    for hook in all_hooks("lower", parts_of(Combination(d))):
        plan, slots = hook(plan, slots, d, replica, counts)
    needs_loads = any(part is not None for part in (plan.streams, plan.fetch, plan.places, plan.apart))
    return plan._replace(memo=None if needs_loads or plan.moe is None else new_memo(len(processors))), slots


def _slots(ops: Sequence[Op], roles: Sequence[int], varies: B1, can: B1) -> Records:
    """Return `LoweredModel.slots`; exchanges, which placement rules do not place, have kind -1."""
    kinds = [kind_code(op.kind) if op.kind in OP_KINDS else -1 for op in ops[: len(can)]]
    phases = [phase_code(op.phase) for op in ops[: len(can)]]
    return filled(SLOT, zip(roles, varies, can.sum(1) > 1, kinds, phases, strict=True))


def _probe(deployment: Deployment, build: Build, counts: int) -> tuple[list[Op], F8, list[Probe]]:
    """Return the ops of a section at unit moments, their affine forms, and the op at each raised moment."""
    unit = Moments(
        deployment.shard.windows, np.ones(num_moments(len(deployment.shard.windows), deployment.several > 1))
    )
    ops = build(unit)
    affine = _affine(build, unit, len(ops))
    raised = [build(_raised(unit, j)) for j in range(affine.shape[2] - 1)]
    probes = [Probe(tuple(other[i] for other in raised), counts) for i in range(len(ops))]
    return ops, np.insert(affine, -1, 0.0, axis=2), probes


def _varies(form: F8, windows: tuple[int, ...]) -> B1:
    """Return which ops depend on the contexts of decodes."""
    contexts = [BASE_MOMENTS + WINDOW_MOMENTS * w + DECODE_KV for w in range(len(windows))]
    return np.asarray((form[:, :, contexts] != 0.0).any(axis=(1, 2)))


def _price_rows(
    ops: Sequence[Op], links: Sequence[AnyLink | None], probes: Sequence[Probe], processors: Sequence[Processor]
) -> dict[tuple[int, int], PriceRow]:
    """Return the cost rows by op and processor; a collective uses the main processor's column."""
    rows: dict[tuple[int, int], PriceRow] = {}
    for i, (op, link, probe) in enumerate(zip(ops, links, probes, strict=True)):
        if link is not None:
            rows[i, 0] = link.row(op, probe)
            continue
        can = able(processors, op.kind)
        rows |= {(i, p): processor.model.row(op, probe) for p, processor in enumerate(processors) if processor in can}
    return rows


def _params(
    rows: dict[tuple[int, int], PriceRow],
    shape: tuple[int, int],
    experts: Sequence[Op],
    processors: Sequence[Processor],
) -> tuple[F8, B1]:
    """Return the roofline terms of every op on every processor, and which processors can run it."""
    params, can = np.zeros(shape, ROOFLINE), np.zeros(shape, dtype=np.bool_)
    for (i, p), row in rows.items():
        params[i, p], can[i, p] = row.params, True
    for i, op in enumerate(experts, shape[0] - len(experts)):
        if not can[i, 0]:  # the main processor adds partial sums even where it runs no experts
            params[i, 0] = processors[0].model.row(sums_op(op, 1.0), ALONE).params
        params["sum_bytes"][i] = [sum_bytes(op, p) for p in processors]
    return params, can


def _raised(unit: Moments, which: int) -> Moments:
    """Return the moments with the one at index `which` raised by 1."""
    values = unit.values.copy()
    values[which] += 1.0
    return Moments(unit.windows, values)


def _affine(build: Build, unit: Moments, count: int) -> F8:
    """Return the coefficients of every op's three forms, shape (ops, 3, moments + 1)."""
    ops = build(unit)
    base = _forms(ops)
    moments = len(unit.values)
    out = np.empty((count, 3, moments + 1))
    for j in range(moments):
        out[:, :, j] = _forms(build(_raised(unit, j))) - base
    out[:, :, -1] = base - out[:, :, :-1].sum(axis=2)
    scale = np.abs(base)
    out[:, :, -1][np.abs(out[:, :, -1]) < 1e-9 * scale] = 0.0  # rounding of the subtraction
    _check_affine(build, unit.windows, out, ops)
    return out


def _check_affine(build: Build, windows: tuple[int, ...], forms: F8, ops: Sequence[Op]) -> None:
    """Refuse a layer kind whose ops are not affine in the moments (a bug in that kind)."""
    values = np.random.default_rng(1).integers(2, 999, forms.shape[2] - 1).astype(np.float64)
    rebuilt = build(Moments(windows, values))
    if not np.allclose(forms[:, :, :-1] @ values + forms[:, :, -1], _forms(rebuilt), rtol=1e-9):
        raise InputError("a layer kind", "has FLOPs or bytes that are not affine in a batch's moments")
    for op, other in zip(ops, rebuilt, strict=True):
        if op.access != other.access:
            raise InputError(f"op {op.name!r}", "has an access pattern that changes with the batch")


def _forms(ops: list[Op]) -> F8:
    return np.array([[op.flops, op.stream_bytes, op.act_bytes] for op in ops])


def _link(deployment: Deployment, op: Op) -> AnyLink | None:
    return deployment.link(op) if op.exchange else None


def _modes(deployment: Deployment, ops: Sequence[Op]) -> Modes | None:
    """Return the exchanges whose algorithm depends on the kind of step; None if there are none."""
    slots = [i for i, op in enumerate(ops) if op.kind == "all_to_all"]
    if deployment.all_to_all not in BY_STEP or not slots:
        return None
    rows = [[deployment.link(ops[i], prompts).row(ops[i], ALONE).params for i in slots] for prompts in (False, True)]
    return Modes(np.array(slots, dtype=np.int64), np.array(rows, dtype=ROOFLINE))


def _role(op: Op, before: Op | None) -> int:
    if op.exchange:
        return Role.LINK
    if alone_in_cache(op):
        paired = before is not None and before.phase == "prefill" and before.layer == op.layer
        return Role.PAIR_DECODE if paired else Role.DECODE
    return Role.PLAIN


def _expert_work(part: ExpertPart, deployment: Deployment) -> tuple[float, ...]:
    """Return one row of `LoweredModel.expert_work`."""
    op = part.spec.expert_op(Loads(np.ones(1), np.ones(1)), deployment.run)
    return op.flops, op.weight_bytes, op.act_bytes, part.router.tilt, part.router.persist


def _experts(deployment: Deployment, shares: bool, can: B1, classes: Sequence[int]) -> Records:
    """Return `LoweredModel.experts`: the constants of each expert part."""
    first: dict[Hashable, int] = {}
    rows = [
        (part.router.prob.shape[1], part.ep, part.router.top_k, int(part.router.uniform),
         _near(shares, can[x]), classes[x], part.layers, part.stage, part.router.keys[part.row],
         part.held, first.setdefault((part.spec, part.ep, id(part.router), 0 if part.router.uniform else part.row), x), part.router.pool)
        for x, part in enumerate(deployment.experts)
    ]  # fmt: skip
    return filled(EXPERTS, rows)


def _near(shares: bool, can: B1) -> int:
    """Return the processor that shares experts with the main one, if the placement rule shares them; 0: none."""
    others = np.flatnonzero(can[1:])
    return int(others[0]) + 1 if shares and can[0] and len(others) else 0


def _expert_tables(work: Records, params: Records) -> tuple[F8, list[int]]:
    """Return the seconds of one expert by token count, and the table index of each part; equal parts share a table.

    The last three entries of a table are the terms of the roofline, for more tokens.
    """
    tables: dict[bytes, int] = {}
    classes: list[int] = []
    out: list[F8] = []
    tokens = np.arange(TABLE_SIZE)
    for expert_work, rows in zip(work, params, strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):  # rates are 0 on a processor that cannot run experts
            arithmetic = expert_work.flops / rows["flops"][:, None]
            weights = expert_work.weights / rows["bytes"][:, None]
            traffic = expert_work.act / rows["bytes"][:, None]
            seconds = np.maximum(tokens * arithmetic, weights + tokens * traffic)
        seconds[:, 0] = 0.0
        table = np.concatenate([seconds, arithmetic, weights, traffic], axis=1)
        classes.append(tables.setdefault(table.tobytes(), len(tables)))
        if classes[-1] == len(out):
            out.append(table)
    return np.stack(out) if out else np.zeros((0, 0, TABLE_SIZE + 3)), classes


def _padded(tables: Sequence[F8]) -> F8:
    """Return tables of several widths as one array."""
    out = np.zeros((len(tables), 3, max((t.shape[1] for t in tables), default=1)))
    for i, table in enumerate(tables):
        out[i, :, : table.shape[1]] = table
    return out
