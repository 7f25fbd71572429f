"""Prefill and decode pools from options: the two systems, their settings, and the link between them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ....workloads.errors import CapacityError, InputError
from ...deploy.deployment import Deployment
from ...fleet.pools import KvLink, Pools
from ...frameworks.settings import EngineSettings
from ...limits import MAX_REPLICAS
from ...option import flag_of
from ...scenario.build import deployment_of
from ...scenario.links import kv_link
from ...scenario.scenario import Scenario
from ..autoscale.asked import OPTION as AUTOSCALE
from ..autoscale.asked import Autoscale, parse_autoscale
from . import PoolOptions

COUNTED = re.compile(r"(?P<system>.+-(?:\d+)?x\d+|.+\.ya?ml)x(?P<count>\d+)")
"""A system's name or file and its number; a name without a number ends in the devices of a node."""
OWN = ("tp", "dp", "ep", "pp", "policy", "engine", "token_budget", "max_seqs")
"""Options that each pool may set separately."""


@dataclass(frozen=True, slots=True)
class PoolSide:
    """One of the two pools.

    Attributes
    ----------
    deployment : Deployment
        Deployment of one replica.
    count : int
        Number of replicas; with an autoscaler the maximum.
    scale : Autoscale or None
        Autoscaler that changes the number of replicas.
    """

    deployment: Deployment
    settings: EngineSettings
    count: int
    scale: Autoscale | None = None

    @property
    def name(self) -> str:
        """Name of the system, with the number of replicas if there are several."""
        name = self.deployment.system.name
        if self.scale is not None and self.scale.decides:
            return f"{name}x({self.scale.least} to {self.scale.most})"
        return name if self.count == 1 else f"{name}x{self.count}"

    @property
    def nodes(self) -> tuple[Deployment, ...]:
        """One deployment for each engine."""
        return (self.deployment,) * (self.deployment.replicas * self.count)


@dataclass(frozen=True, slots=True)
class Pair:
    """Both pools and the link between them."""

    prefill: PoolSide
    decode: PoolSide
    link: KvLink

    @property
    def deployment(self) -> Deployment:
        """Return the deployment of the decode pool with both pools in it, as for a split system."""
        sides = self.prefill.deployment, self.decode.deployment
        name = f"{self.prefill.name}+{self.decode.name}"
        system = sides[1].system.model_copy(update={"name": name})
        return replace(sides[1], system=system, pools=sides)

    @property
    def pools(self) -> Pools:
        """Return the nodes of both pools for the fleet."""
        other = self.decode
        return Pools(
            self.prefill.nodes, other.nodes, self.link, other.settings.policy,
            other.settings.cache_for(other.deployment), scales=(self.prefill.scale, other.scale),
        )  # fmt: skip


def arranged(scenario: Scenario) -> tuple[Deployment, Deployment, list[EngineSettings], Pools]:
    """Return the deployments, settings and pools of a scenario in the form that a run needs."""
    pair = pair_of(scenario)
    return pair.deployment, pair.prefill.deployment, [pair.prefill.settings, pair.decode.settings], pair.pools


def pair_of(scenario: Scenario) -> Pair:
    """Build both pools of a scenario.

    Raises
    ------
    InputError
        A pool without the other pool, without devices, or on a system that is split itself; KV caches in different
        formats; an unknown link or a link without a rate.
    CapacityError
        A model that does not fit a pool.
    """
    options = scenario.parts["two-pools"]
    both(options)
    if scenario.parts["autoscale"].autoscale is not None:
        reason = "is not for two pools; use --prefill-autoscale and --decode-autoscale"
        raise InputError(AUTOSCALE, reason)
    for name in ("prefill", "decode"):
        if scenario.parts.asks("experts-apart") and getattr(options, f"{name}_autoscale") is not None:
            raise InputError(f"--{name}-autoscale", "cannot be combined with --experts-on; remove one")
    for flag, value in (("--system", scenario.system), ("--replicas", scenario.fleet.replicas)):
        if value is not None:
            reason = (
                "cannot be combined with --prefill and --decode; write --prefill h200-x8x2 for two replicas of a system"
            )
            raise InputError(flag, reason)
    prefill, decode = _side(scenario, "prefill"), _side(scenario, "decode")
    formats = [s.deployment.model.numerics.kv for s in (prefill, decode)]
    if formats[0] != formats[1]:
        raise InputError(
            "--kv-dtype", f"must be the same in both pools: {prefill.name} keeps its cache in "
            f"{formats[0]}, {decode.name} in {formats[1]}",
        )  # fmt: skip
    systems = prefill.deployment.system, decode.deployment.system
    return Pair(prefill, decode, kv_link(options.kv_link, options.kv_overlap, *systems))


def both(options: PoolOptions) -> tuple[str, str]:
    """Return the systems of both pools, as the options give them.

    Raises
    ------
    InputError
        Only one pool is given.
    """
    for flag, value in (("--prefill", options.prefill), ("--decode", options.decode)):
        if value is None:
            raise InputError(flag, "is needed too, for example h200-x8; P/D disaggregation has two pools")
    return str(options.prefill), str(options.decode)


def counted(text: str, where: str) -> tuple[str, int]:
    """Return the system and the number of systems in an option's value.

    Raises
    ------
    InputError
        The number is zero or too large.

    Examples
    --------
    >>> counted("h200-x8", "--decode"), counted("h200-2x8x3", "--decode")
    (('h200-x8', 1), ('h200-2x8', 3))
    """
    match = COUNTED.fullmatch(text)
    count = 1 if match is None else int(match["count"])
    if not 1 <= count <= MAX_REPLICAS:
        raise InputError(where, f"must have 1 to {MAX_REPLICAS} systems, for example h200-x8x2, not {text!r}")
    return (text if match is None else match["system"]), count


def _scale(options: PoolOptions, name: str) -> Autoscale | None:
    """Return the autoscaler of a pool; None if its number of replicas is fixed.

    Raises
    ------
    InputError
        The value is malformed, or uses TTFT in the pool that produces no first tokens.
    """
    text = getattr(options, f"{name}_autoscale")
    if text is None:
        return None
    flag = f"--{name}-autoscale"
    try:
        scaling = parse_autoscale(text)
    except InputError as error:
        raise InputError(flag, error.reason) from None
    if name == "decode" and scaling.slo_s is not None:
        raise InputError(flag, "must not have slo, because the prefill pool produces the first tokens")
    if counted(str(getattr(options, name)), f"--{name}")[1] > 1:
        reason = f"cannot be combined with --{name} SYSTEMxN; remove the number xN"
        raise InputError(flag, reason)
    return scaling


def _side(scenario: Scenario, name: str) -> PoolSide:
    """Build one pool: the scenario with the pool's system and the pool's options."""
    options, scale = scenario.parts["two-pools"], _scale(scenario.parts["two-pools"], name)
    parts = scenario.parts.having("two-pools")
    system, count = counted(str(getattr(options, name)), f"--{name}")
    count = count if scale is None else scale.most
    given = {key: getattr(options, f"{name}_{key}") for key in OWN}
    alone = scenario.changed(
        system=system, parts=parts if name == "decode" else parts.having("experts-apart"),
        **{key: value for key, value in given.items() if value is not None},
    )  # fmt: skip
    try:
        deployment, settings = deployment_of(alone)
    except CapacityError:
        raise
    except InputError as error:  # name the pool's option in the message
        flags = {flag_of(key) for key, value in given.items() if value is not None}
        subjects = str(error.subject).split("/")
        named = [f"--{name}{flag[1:]}" if flag in flags else flag for flag in subjects]
        raise InputError("/".join(named), error.reason) from None
    if deployment.pools:
        raise InputError(f"--{name}", f"{deployment.system.name} has two pools already; use a system without pools")
    deployment.memories(settings.cache_for(deployment).memory_bytes)  # raises an error if the model does not fit
    return PoolSide(deployment, settings, count, scale)
