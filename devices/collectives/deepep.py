"""All-to-alls of DeepEP (github.com/deepseek-ai/DeepEP): its two modes, from its README.

Inside a node a kernel takes measured times (`Timed`): a launch, and its copies at a rate that its SMs limit more than
the link. `deepep.csv` has both by engine, mode, direction and card (fitted by `docs/converters/deepep.py`); a card
without rows has its generation's. Rates are for 16-bit copies, for any format sent. Assumed: routing spreads a token's
copies evenly over the devices and nodes of its expert groups (`reached`); work in parallel with normal-mode kernels
slows by their share of the cores; links between nodes, without rows, have their stated rate, and carry the widths of
`WIDTHS`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from math import comb, prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..calibrated.hardware import hardware
from ..calibrated.libraries import BLACKWELL, HOPPER, generation
from ..ratios import Ratios
from ..spec import DeviceSpec, LinkSpec
from .plans import ALGORITHMS, CollectivePlan, Hop, Timed, Topology

F8 = npt.NDArray[np.float64]
NORMAL, LOW_LATENCY = "deepep-normal", "deepep-low-latency"
TYPICAL = "typical"
HYBRID = "hybrid-ep"
ATTAINED = (0.68, 0.88)
"""Shares of the stated rates that HybridEP's kernels attain: over NVLink of 900 GB/s 642 and 605 with 16, 632 and 597 with 36 ranks of GB200 (dispatch,
combine; 32 SMs); between nodes 50 of H100 with 64 ranks, 4.6 of 5.25 copies leaving the node (deepseek-ai/DeepEP@94a9f8f, README_Hybrid-EP.md)."""
SMS = 20.0
"""Default number of SMs of an exchange in normal mode (``Buffer.num_sms`` in deep_ep/buffer.py). At low latency the
network cards send the data."""
KIN: Mapping[int, str] = {HOPPER: "hopper", BLACKWELL: "blackwell"}
"""Card column of the entries for a whole generation: they contain means, and the errors of each card by the others'
mean."""
WIDTHS: Mapping[str, float] = {"fp8_block": (1.0 + 4.0 / 128.0) / 2.0}
"""Bytes of a dispatched value over a 16-bit value's, by the experts' format: 8 bits, and a 32-bit scale per 128 values
(DeepEP's README; ``use_fp8_dispatch`` in vllm/model_executor/layers/fused_moe). Outputs return in 16 bits."""


def reached(shares: F8, chosen: int, copies: int) -> float:
    """Return how many units (devices, nodes) a token's copies reach on average, if its router first chooses groups.

    Parameters
    ----------
    shares : float64 array, shape (units, groups)
        Share of each group's tokens that a unit serves; columns add up to 1.
    chosen : int
        Groups with equal probability for any choice; the copies are uniform within them.
    """
    units, groups = shares.shape
    n = np.arange(copies + 1)
    ways, gaps = np.array([[comb(j, i) for j in n] for i in n]), np.maximum(n - n[:, None], 0)
    powers = np.zeros((units, chosen + 1, copies + 1))  # sums over sets of groups of (sum of what is left)**n
    powers[:, 0, 0] = 1.0
    for left in (1.0 - shares.T[:, :, None, None]) / chosen:
        powers[:, 1:] += powers[:, :-1] @ (ways * left**gaps)
    return float(units - powers[:, chosen, copies].sum() / comb(groups, chosen))


def distinct(ranks: int, copies: float) -> float:
    """Return the number of ranks that a token's copies reach if they are spread evenly."""
    return float(ranks * (1.0 - (1.0 - 1.0 / ranks) ** copies))


def table() -> Path:
    """Return the path of the table of fitted kernels."""
    return Path(str(files("opbyte.devices.collectives") / "deepep.csv"))


@cache
def _held() -> dict[tuple[str, str, str, str], Timed]:
    with table().open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    out = {}
    for row in rows:
        ratios = Ratios(*(float(row[name]) for name in ("low", "middle", "high")))
        timed = Timed(float(row["launch_us"]) * 1e-6, float(row["GBps"]) * 1e9, int(row["rows"]), ratios)
        out[row["engine"], row["mode"], row["direction"], row["card"]] = timed
    return out


def kernels(spec: DeviceSpec, link: LinkSpec, engine: str, *, back: bool) -> dict[str, Timed]:
    """Return the times of DeepEP's kernels on a card, by mode; empty for cards that it does not support.

    Parameters
    ----------
    engine : str
        Framework whose calls were timed, one of `calibrated.kernel_sets.LABELS`; others use the calls of all.
    back : bool
        Whether the experts' outputs are brought back (combine).
    """
    kin, timings = KIN.get(generation(spec), ""), _held()
    if not kin or link.medium == "pcie":
        return {}
    out = {}
    for mode in (NORMAL, LOW_LATENCY):
        key = engine, mode, "combine" if back else "dispatch"
        if (*key, kin) not in timings:
            key = TYPICAL, *key[1:]
        timed = timings.get((*key, spec.name)) or replace(timings[*key, kin], moved=True)
        out[mode] = replace(timed, taken=SMS / float(hardware(spec).cores) * (mode == NORMAL)).on(link)
    return out


@ALGORITHMS.register(f"all_to_all:{NORMAL}")
def normal(topology: Topology) -> CollectivePlan:
    """DeepEP's kernels for prompts and training: one copy to each node, then on to the target devices there."""
    inside, nodes = topology.levels[0], prod(level.ranks for level in topology.levels[1:])
    copies, hops = topology.copies, []
    if nodes > 1:
        link = topology.levels[topology.outermost].link
        crossing = distinct(nodes, copies) / copies * topology.fewer[1]
        hops.append(Hop(link, 1.0, crossing * topology.width * (nodes - 1) / nodes))
    if inside.ranks > 1:
        traffic = distinct(topology.ranks, copies) / copies * topology.fewer[0] * (inside.ranks - 1) / inside.ranks
        hops.append(Hop(inside.link, 1.0, traffic, topology.timed.get(NORMAL)))
    return _shared(NORMAL, topology, hops, float(len(hops)), at_once=True)


def hybrid_runs(spec: DeviceSpec) -> bool:
    """Return whether HybridEP, the exchange of training, runs on a device."""
    return generation(spec) in KIN and spec.link.medium != "pcie"


@ALGORITHMS.register(f"all_to_all:{HYBRID}")
def hybrid(topology: Topology) -> CollectivePlan:
    """HybridEP, the branch of DeepEP for training: like normal mode, with kernels closer to the links' stated rates."""
    made = normal(replace(topology, timed={}))
    inside = topology.levels[0].link
    hops = tuple(replace(hop, traffic=hop.traffic / ATTAINED[hop.link is not inside]) for hop in made.hops)
    return replace(made, algorithm=HYBRID, hops=hops)


@ALGORITHMS.register(f"all_to_all:{LOW_LATENCY}")
def low_latency(topology: Topology) -> CollectivePlan:
    """DeepEP's kernels for decoding: every copy straight to its device, all at once, past the node's links."""
    n = topology.ranks
    link, timed = topology.levels[topology.outermost].link, topology.timed.get(LOW_LATENCY)
    inside = timed if topology.outermost == 0 else None
    hops = [Hop(link, 1.0, (n - 1) / n * (topology.width if inside is None else 1.0), inside)]
    if topology.outermost > 0 and timed is not None:  # its launch, and nothing over the links inside
        hops.append(Hop(topology.levels[0].link, 1.0, 0.0, timed))
    return _shared(LOW_LATENCY, topology, hops, 1.0)


def _shared(name: str, topology: Topology, hops: list[Hop], passes: float, at_once: bool = False) -> CollectivePlan:
    """Return a plan in which the devices of a rank share the sending of its tokens."""
    slices = topology.slices
    if topology.ranks == 1:
        return CollectivePlan(name, (), 1, 0.0)
    shared_hops = tuple(Hop(hop.link, hop.messages, hop.traffic / slices, hop.timed) for hop in hops)
    return CollectivePlan(name, shared_hops, topology.ranks, passes / slices, at_once)
