"""Placements of experts: load of every device before and after, memory, step time, and cost of moving experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ...devices.catalog import describe_system
from ...devices.spec import SystemSpec
from ...simulator.deploy.deployment import Deployment
from ...simulator.deploy.expert_parts import sites_of
from ...simulator.deploy.layout import exchange_link
from ...simulator.option import chosen
from ...simulator.parts.expert_map.loads import copy_bytes, group_loads, out_share, spreading, worst_over_mean
from ...simulator.parts.expert_map.placing import expert_placing
from ...simulator.parts.expert_map.policies import MAP_POLICIES
from ...simulator.scenario.load import load
from ...simulator.scenario.options import DeployOptions
from ...simulator.scenario.place import deployed, refuse_unused
from ...simulator.step.explicit import dealt
from ...workloads.batch import Batch
from ...workloads.errors import InputError
from ...workloads.model import ModelSpec
from ...workloads.requests.options import check_count
from ..show.declared import record, text
from ..show.declared import row as declared_row
from ..show.output import STAMPS
from ..show.result import Drawing, Result
from ..show.text import Blocks, Records, Rows, seconds
from .evidence import entry, evidence
from .step import MAX_BATCH, stage_of
from .usual import kernels_as_usual

if TYPE_CHECKING:
    from ...simulator.scenario.keywords import DeployOptionsKeywords

DRAWS = 20
"""Number of sampled steps that show how the loads of one step differ from the long-run loads."""
BEFORE = "in order"
"""Name of the reference placement: experts in order, without copies."""
COPYING = ("even", "replicated")
"""Policies that change the order of experts only if there are redundant experts."""
NOTES = (
    "Long run: loads by the router's popularity, which maps are made from. A step: mean of "
    f"{DRAWS} samples of this batch. Step time: expected loads, as `opbyte roofline` has it. Moving: "
    "experts that a device gets over its link; holders share the sending."
)


@dataclass(frozen=True, slots=True)
class Placed:
    """Result of one placement.

    Attributes
    ----------
    redundant : int
        Redundant experts of a layer, over all devices.
    long_run, drawn : float
        Load of the most loaded device over the mean load (mean over layers), by popularity and in sampled steps.
    copy_bytes : float
        Bytes of redundant experts on a device [B].
    weights_bytes : float or None
        Bytes of all weights on a device [B]; None if the weights do not fit.
    step_s : float
        Duration of the step [s].
    moved_bytes, moving_s : float
        Experts that the device with the most new experts receives [B], and the transfer time [s], when the placement
        replaces the placement in order.
    """

    policy: str
    redundant: int
    deployment: Deployment
    long_run: float
    drawn: float
    copy_bytes: float
    weights_bytes: float | None
    step_s: float
    moved_bytes: float
    moving_s: float

    @property
    def name(self) -> str:
        """Return the placement's name in tables."""
        copies = f", {self.redundant} copies" if self.redundant else ""
        return f"{self.policy}{copies}"

    @property
    def leaves_node(self) -> float | None:
        """Return the share of tokens that are sent to another node; None if it is unknown."""
        return out_share(self.deployment)

    def saved_s(self, before: Placed) -> float:
        """Return the seconds of a step that this placement saves."""
        return before.step_s - self.step_s

    def pays_after(self, before: Placed) -> int | None:
        """Return the number of steps after which the saved time exceeds the moving time; None if that never happens."""
        saved = self.saved_s(before)
        return int(np.ceil(self.moving_s / saved)) if saved > 0.0 else None


@dataclass(frozen=True, slots=True)
class Placement(Result):
    """Placements of a model's experts on a system; see `placement`."""

    PICTURES = ("placement.png",)
    TABLES = (("loads.csv", "layers", STAMPS), ("map.csv", "map_rows", STAMPS))

    before: Placed
    found: tuple[Placed, ...]
    batch: int
    context: int
    prefill: int
    period: int | None
    sources: Mapping[str, str]

    @property
    def after(self) -> Placed:
        """Return the placement with the fastest step, the first one among equals."""
        return min(self.found, key=lambda placed: placed.step_s)

    @property
    def routing(self) -> str:
        return self.before.deployment.experts[0].router.name

    @property
    def dispatch(self) -> str:
        """Return the rule that chooses among the copies of an expert for a token."""
        return str(self.after.deployment.parts["expert-copies"].dispatch)

    def evidence(self) -> Records:
        """Return the evidence for the chosen placement and for the time to move experts to it."""
        return [*evidence(self.after.deployment, self.sources), MOVING]

    def records(self) -> Rows:
        return [self._record(placed) for placed in (self.before, *self.found)]

    def _record(self, placed: Placed) -> dict[str, Any]:
        row = record(placed) | {"pays_after_steps": placed.pays_after(self.before)}
        if self.period is not None:
            row["step_with_moving_s"] = placed.step_s + placed.moving_s / self.period
        return row

    def layers(self) -> Records:
        """Return the load of every device over the mean in each MoE layer, before and after."""
        pairs = zip(spreading(self.before.deployment), spreading(self.after.deployment), strict=True)
        return [
            {"layer": layer, "device": device, "before": float(b), "after": float(a)}
            for layer, (old, new) in enumerate(pairs)
            for device, (b, a) in enumerate(zip(group_loads(old), group_loads(new), strict=True))
        ]

    def map_rows(self) -> list[dict[str, int]]:
        """Return the chosen expert map in the form that ``file:PATH`` reads: one row for each copy."""
        out = []
        for layer, part in enumerate(spreading(self.after.deployment)):
            assert part.placed is not None
            for device, slots in enumerate(part.placed.map.slots.tolist()):
                experts = sorted(expert for expert in slots if expert >= 0)
                out += [{"layer": layer, "expert": e, "device": device} for e in experts]
        return out

    def rows(self) -> Rows:
        return [self._row(placed) for placed in (self.before, *self.found)]

    def _row(self, placed: Placed) -> dict[str, Any]:
        weights, pays = placed.weights_bytes, placed.pays_after(self.before)
        row = {
            "placement": f"{placed.name} *" if placed is self.after else placed.name, **declared_row(placed),
            "weights (GiB)": "no room" if weights is None else f"{weights / 2**30:.1f}",
            "sent": f"{placed.deployment.layout.sent:.0%}", "step": seconds(placed.step_s),
            "moving": seconds(placed.moving_s) if placed.moved_bytes else "-",
            "pays after": "-" if placed is self.before else "never" if pays is None else f"{pays:,} steps",
        }  # fmt: skip
        if self.period is not None:
            row[f"step, moved every {self.period:,}"] = seconds(placed.step_s + placed.moving_s / self.period)
        return row

    @property
    def work(self) -> str:
        """Return the step's description as text."""
        prompt = f" and one prompt of {self.prefill:,} tokens" if self.prefill else ""
        return f"{self.batch:,} decodes at context {self.context:,}{prompt}"

    @property
    def ratio(self) -> float:
        return self.after.step_s / self.before.step_s

    @property
    def copies(self) -> float:
        """Return the size of the expert copies on a device [GiB]."""
        return self.after.copy_bytes / 2**30

    def blocks(self) -> Blocks:
        return [text(self, "heading"), text(self, "gain"), self.rows(), NOTES]

    def drawings(self) -> Sequence[Drawing]:
        import pandas as pd

        from ..plots.bars import device_loads

        d = self.before.deployment
        title = f"{d.model.name} on {d.system.name}: experts in order, and placed by {self.after.name}"
        text = "The most loaded device of every layer, and all devices of the most skewed layer."
        return [Drawing(device_loads(pd.DataFrame(self.layers()), title), text)]


MOVING = entry(
    "latency + bytes/bandwidth", "moving experts", "assumed",
    {"moving": "assumed: a device gets experts at the rate of its link, with nothing else on it"},
)  # fmt: skip


def placement(
    model: str | Path | ModelSpec, system: str | Path | SystemSpec, *, batch: int = 64,
    context: int = 2048, prefill: int = 0, period: int | None = None,
    **options: Unpack[DeployOptionsKeywords],
) -> Placement:  # fmt: skip
    """Place a model's experts, and compare load, memory and step time with experts in order.

    Parameters
    ----------
    model, system : str, Path or spec
        Catalog name or file.
    batch, context, prefill : int
        Sequences, cached tokens and prompt tokens of the step, as in `roofline`.
    period : int, optional
        Steps between two rebalancings; the time of moving experts is divided by this number.
    **options
        Options of `simulator.scenario.options.DeployOptions`. Without ``expert_placement`` every policy
        is tried; without ``redundant_experts`` no copies and one a layer and group.

    Raises
    ------
    InputError
        As `roofline`; a model without experts that spread over devices.
    """
    batch = check_count(batch, "--batch", 0, MAX_BATCH)
    context = check_count(context, "--context", 0)
    prefill = check_count(prefill, "--prefill", 0)
    if period is not None:
        period = check_count(period, "--period", 1)
    if batch + prefill == 0:
        raise InputError("--batch 0", "needs --prefill above 0; an empty step has no ops")
    how = chosen(DeployOptions, options)
    spec, where = load(model, system, how.dtype, how.kv_dtype)
    how = kernels_as_usual(how, where)
    bare = how.changed(expert_placement=None, redundant_experts=None, expert_dispatch=None)
    plain = deployed(spec, where, bare)
    refuse_unused(how, plain)
    if not spreading(plain):
        raise InputError(
            "MODEL", f"{spec.name} on {where.name} has no experts on several groups of devices ({plain.layout.degrees})"
        )
    work = batch, context, prefill
    before = _placed(BEFORE, deployed(spec, where, bare.changed(expert_placement="even")), work, None)
    placements = tuple(
        _placed(asked.option("expert_placement") or "", deployed(spec, where, asked), work, before.deployment)
        for asked in _tries(how, plain)
    )
    sources = {} if isinstance(system, SystemSpec) else describe_system(system)[1]
    return Placement(before, placements, batch, context, prefill, period, sources)


def _tries(how: DeployOptions, plain: Deployment) -> list[DeployOptions]:
    """Return the options of all placements to try: every policy with one copy per group, unless `how` chooses.

    Policies that these nodes do not allow are tried where they are named.
    """
    asked = how.parts["expert-copies"]
    given, copies = asked.expert_placement, asked.redundant_experts
    if given is not None and given.startswith("file:"):
        return [how]
    groups = plain.layout.ep
    by_node = all(sites_of(part, None, plain.layout, plain.system).distributes_by_node for part in spreading(plain))
    names = [given] if given is not None else [
        name for name in MAP_POLICIES if by_node or not MAP_POLICIES[name].needs_nodes
    ]  # fmt: skip
    expert_placing(names[0], copies, asked.expert_dispatch)  # refused before anything is costed
    out = []
    for name in names:
        amounts = [copies] if copies is not None else [groups] if name in COPYING else [0, groups]
        out += [how.changed(expert_placement=name, redundant_experts=n) for n in amounts]
    return out


def _placed(policy: str, deployment: Deployment, work: tuple[int, int, int], old: Deployment | None) -> Placed:
    """Return the loads, memory, step time and moving cost of one placement."""
    try:
        weights: float | None = deployment.memory().weights
    except InputError:
        weights = None
    moved = 0.0 if old is None else _moved_bytes(deployment, old)
    link = exchange_link(deployment.layout, deployment.system)
    moving = moved / link.bandwidth_bytes_per_s + (link.latency_s if moved else 0.0)
    batches = dealt(deployment, -(-work[0] // deployment.replicas), work[1], [(work[2], 0)] if work[2] else [])
    first = spreading(deployment)[0]
    redundant = first.held * first.ep - first.spec.routed.experts
    return Placed(
        policy, redundant, deployment, worst_over_mean(deployment), drawn_over_mean(deployment, batches), copy_bytes(deployment), weights,
        stage_of(deployment, *work).seconds, moved, moving,
    )  # fmt: skip


def _moved_bytes(deployment: Deployment, old: Deployment) -> float:
    """Return the bytes of experts that move to the device that receives the most, over all layers."""
    total: Any = 0.0
    for new, was in zip(spreading(deployment), spreading(old), strict=True):
        assert new.placed is not None
        assert was.placed is not None
        size = new.expert_bytes(deployment.run) * new.layers
        total = total + new.placed.map.moved(was.placed.map) * size
    return float(np.max(total))


def drawn_over_mean(deployment: Deployment, batches: Sequence[Batch]) -> float:
    """Return tokens of the most loaded group over the mean in sampled steps; mean over layers and steps."""
    from ...simulator.parts.expert_map.placed import offsets_of

    union = Batch(*(np.concatenate([getattr(b, f) for b in batches]) for f in ("q_len", "context", "phase", "seq_id")))
    ratios, weights = [], []
    for part in spreading(deployment):
        assert part.placed is not None
        for step in range(DRAWS):
            tokens = part.router.loads(step, part.row, union).tokens.astype(np.int64)
            placed = part.placed.drawn(tokens, offsets_of(part, step, 0)).tokens
            group_tokens = placed.reshape(part.ep, -1).sum(axis=1)
            ratios.append(float(group_tokens.max() / group_tokens.mean()))
            weights.append(part.layers)
    return float(np.average(ratios, weights=weights))
