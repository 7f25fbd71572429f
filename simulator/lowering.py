"""Lowering: from the layer code's ops to arrays that the compiled path evaluates.

Every op outside the experts is affine in the batch's moments, so its coefficients follow from
evaluating the very same layer code at a base point and one step along each moment. Expert
ops are affine in each expert's tokens. Nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..devices.cost import NUM_PARAMS
from ..devices.link import LinkModel
from ..workloads.batch import BASE_MOMENTS, WINDOW_MOMENTS, Moments
from ..workloads.model import embedding_ops, head_ops, layer_ops
from ..workloads.ops import Loads, Op
from .deployment import Deployment, ExpertPart
from .layout import exchange_link, layer_program, rank_link
from .placement import able, processors_of

RULES = ("xpu-only", "op-per-byte", "fastest", "paper", "co-process")
XPU_ONLY, OP_PER_BYTE, FASTEST, PAPER, CO_PROCESS = range(5)

ROLE_PLAIN, ROLE_LINK, ROLE_PAIR_PREFILL, ROLE_PAIR_DECODE, ROLE_DECODE, ROLE_EXPERTS = range(6)

FORM_FLOPS, FORM_STREAM, FORM_ACT = range(3)

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]
B1 = npt.NDArray[np.bool_]


class Plan(NamedTuple):
    """A deployment as arrays. S slots (ops outside experts), X expert parts, P processors.

    Slots are ordered by section; a section's slots run once per layer of its group and are
    followed by a barrier over ranks.
    """

    windows: I8  # [W] attention windows
    section_start: I8  # [G+1] first slot of each section
    section_count: F8  # [G] layers in it
    role: I8  # [S]
    forms: F8  # [S, 3, M+1] FLOPs, streamed bytes, activation bytes; last column the constant
    params: F8  # [S+X, P, NUM_PARAMS]
    can: B1  # [S+X, P]
    expert_flops: F8  # [X] FLOP per routed token
    expert_weights: F8  # [X] bytes per active expert
    expert_act: F8  # [X] activation bytes per routed token
    expert_count: I8  # [X] experts the router chooses from
    expert_groups: I8  # [X] groups they are dealt to
    expert_top_k: I8  # [X]
    prob: F8  # [X, E]
    inclusion: F8  # [X, E]
    cumulative: F8  # [X, E]
    uniform: B1  # [X]
    tilt: F8  # [X]
    persist: F8  # [X]
    seed: int
    replica: int
    rule: int
    spaces: int
    ranks: int
    tp: int  # devices of a rank
    expert_devices: int  # devices of all expert groups together


class Slots(NamedTuple):
    """Names of what the plan's rows stand for, for tables."""

    name: tuple[str, ...]
    layer: tuple[str, ...]
    kind: tuple[str, ...]
    processors: tuple[str, ...]
    link: tuple[str | None, ...]


def lower(deployment: Deployment, replica: int = 0) -> tuple[Plan, Slots]:
    """Lower a deployment; `replica` is a counter of its expert draws."""
    d = deployment
    processors = processors_of(d.device)
    windows = d.shard.windows
    sections = _sections(d)
    forms, params, can, role = [], [], [], []
    names, layers, kinds, links = [], [], [], []
    starts = [0]
    for build, _ in sections:
        ops = build(_unit_moments(windows, None))
        affine = _affine(build, windows, len(ops))
        for i, op in enumerate(ops):
            link = _link(d, op)
            forms.append(affine[i])
            role.append(_role(op, ops[i - 1] if i else None))
            row, ok = _lower_op(op, link, processors)
            params.append(row)
            can.append(ok)
            names.append(op.name)
            layers.append(op.layer)
            kinds.append(op.kind)
            links.append(link.spec.name if link else None)
        starts.append(len(forms))
    expert_rows = [_lower_experts(part, d) for part in d.experts]
    for part in d.experts:
        op = part.spec.expert_op(Loads(np.ones(1), np.ones(1)), d.run)
        row, ok = _lower_op(op, None, processors)
        params.append(row)
        can.append(ok)
        names.append(op.name)
        layers.append(op.layer)
        kinds.append(op.kind)
        links.append(None)
    plan = Plan(
        windows=np.array(windows, dtype=np.int64),
        section_start=np.array(starts, dtype=np.int64),
        section_count=np.array([count for _, count in sections], dtype=np.float64),
        role=np.array(role, dtype=np.int64),
        forms=np.ascontiguousarray(np.stack(forms)),
        params=np.ascontiguousarray(np.stack(params)),
        can=np.ascontiguousarray(np.stack(can)),
        expert_flops=np.array([r[0] for r in expert_rows], dtype=np.float64),
        expert_weights=np.array([r[1] for r in expert_rows], dtype=np.float64),
        expert_act=np.array([r[2] for r in expert_rows], dtype=np.float64),
        expert_count=np.array([p.router.prob.shape[1] for p in d.experts], dtype=np.int64),
        expert_groups=np.array([p.ep for p in d.experts], dtype=np.int64),
        expert_top_k=np.array([p.router.top_k for p in d.experts], dtype=np.int64),
        prob=_padded([p.router.prob[p.row] for p in d.experts]),
        inclusion=_padded([p.router.inclusion[p.row] for p in d.experts]),
        cumulative=_padded([p.router.cumulative[p.row] for p in d.experts]),
        uniform=np.array([p.router.uniform for p in d.experts], dtype=np.bool_),
        tilt=np.array([p.router.tilt for p in d.experts], dtype=np.float64),
        persist=np.array([p.router.persist for p in d.experts], dtype=np.float64),
        seed=d.experts[0].router.seed if d.experts else 0,
        replica=replica,
        rule=RULES.index(d.placement),
        spaces=d.device.spec.memory.spaces,
        ranks=d.ranks,
        tp=d.layout.tp,
        expert_devices=d.layout.devices if d.ranks > 1 else d.layout.tp,
    )
    slots = Slots(
        tuple(names), tuple(layers), tuple(kinds), tuple(p.name for p in processors), tuple(links)
    )
    return plan, slots


Build = Callable[[Moments], list[Op]]


def _sections(d: Deployment) -> list[tuple[Build, int]]:
    """Embedding, each distinct layer without its experts, head: builders and layer counts."""

    def layer(group: int) -> Build:
        spec, _ = d.shard.groups[group]
        dummy = Loads(np.zeros(1), np.zeros(1))

        def build(m: Moments) -> list[Op]:
            parts = layer_ops(spec, m, d.run, dummy)
            program = layer_program(spec, parts, d.layout, d.run, m.tokens)
            return [op for op in program if op.kind != "experts"]

        return build

    out: list[tuple[Build, int]] = [(lambda m: embedding_ops(d.shard, m, d.run), 1)]
    out += [(layer(g), count) for g, (_, count) in enumerate(d.shard.groups)]
    out.append((lambda m: head_ops(d.shard, m, d.run, d.layout.tp), 1))
    return out


def _unit_moments(windows: tuple[int, ...], raised: int | None) -> Moments:
    values = np.ones(BASE_MOMENTS + WINDOW_MOMENTS * len(windows))
    if raised is not None:
        values[raised] += 1.0
    return Moments(windows, values)


def _affine(build: Build, windows: tuple[int, ...], count: int) -> F8:
    """Coefficients of every op's three forms, shape (ops, 3, moments + 1)."""
    base = _forms(build(_unit_moments(windows, None)))
    moments = BASE_MOMENTS + WINDOW_MOMENTS * len(windows)
    out = np.empty((count, 3, moments + 1))
    for j in range(moments):
        out[:, :, j] = _forms(build(_unit_moments(windows, j))) - base
    out[:, :, -1] = base - out[:, :, :-1].sum(axis=2)
    scale = np.abs(base)
    out[:, :, -1][np.abs(out[:, :, -1]) < 1e-9 * scale] = 0.0  # rounding of the subtraction
    _check_affine(build, windows, out)
    return out


def _check_affine(build: Build, windows: tuple[int, ...], forms: F8) -> None:
    """Refuse a layer kind whose ops are not affine in the moments (a bug in that kind)."""
    values = np.random.default_rng(1).integers(2, 999, forms.shape[2] - 1).astype(np.float64)
    direct = _forms(build(Moments(windows, values)))
    if not np.allclose(forms[:, :, :-1] @ values + forms[:, :, -1], direct, rtol=1e-9):
        raise ValueError("a layer kind's ops are not affine in the batch's moments")


def _forms(ops: list[Op]) -> F8:
    return np.array([[op.flops, op.stream_bytes, op.act_bytes] for op in ops])


def _link(d: Deployment, op: Op) -> LinkModel | None:
    if op.kind == "all_reduce":
        return LinkModel(rank_link(d.layout, d.system), d.layout.tp)
    if op.kind == "all_to_all":
        return LinkModel(exchange_link(d.layout, d.system), d.layout.dp)
    return None


def _role(op: Op, before: Op | None) -> int:
    if op.layer == "communication":
        return ROLE_LINK
    if op.kind in ("attention_prefill", "mla_prefill", "linear_state") and op.phase == "prefill":
        return ROLE_PAIR_PREFILL
    if op.phase == "decode" and op.kind in ("attention_decode", "mla_decode", "linear_state"):
        paired = before is not None and before.phase == "prefill"
        return ROLE_PAIR_DECODE if paired else ROLE_DECODE
    return ROLE_PLAIN


def _lower_op(op: Op, link: LinkModel | None, processors: list) -> tuple[F8, B1]:  # type: ignore[type-arg]  # list of Processor
    params = np.zeros((len(processors), NUM_PARAMS))
    ok = np.zeros(len(processors), dtype=np.bool_)
    if link is not None:
        params[0], ok[0] = link.lower(op.kind, op.dtype), True
        return params, ok
    can = able(processors, op.kind)
    for i, processor in enumerate(processors):
        if processor in can:
            params[i], ok[i] = processor.model.lower(op.kind, op.dtype), True
    return params, ok


def _lower_experts(part: ExpertPart, d: Deployment) -> tuple[float, float, float]:
    op = part.spec.expert_op(Loads(np.ones(1), np.ones(1)), d.run)
    return op.flops, op.weight_bytes, op.act_bytes


def _padded(rows: list[F8]) -> F8:
    out = np.zeros((len(rows), max((len(r) for r in rows), default=1)))
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out
