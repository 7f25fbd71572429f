"""Settings of the KV cache tiers, from the options or an engine file; default links come from the device description."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from ....devices.lines import TierSpec
from ....devices.spec import SystemSpec
from ....workloads.errors import InputError, check_known, nearest, typed_number
from . import TierOptions
from .settings import LOADS, WRITES, KvTier, TierSettings

if TYPE_CHECKING:
    from ...deploy.deployment import Deployment
    from ...frameworks.settings import EngineSettings
    from ...scenario.scenario import Scenario

TIERS, WRITE, LOAD, PREFETCH = "--kv-tiers", "--kv-write", "--kv-load", "--kv-prefetch"
NAMES = ("host", "disk", "shared")
UNITS = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
         "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40}  # fmt: skip
SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>[KMGT]i?B|B)")
EXAMPLE = "for example host:64GiB,disk:1TiB:6.5:100"
FREE = "free"


def with_tiers(scenario: Scenario, settings: EngineSettings, deployment: Deployment) -> EngineSettings:
    """Return the engine settings with the KV cache tiers of a scenario; unchanged if there are none."""
    tiers = tiers_asked(scenario.parts["kv-tiers"], deployment.system, settings.cache.tiers)
    return settings if tiers is None else replace(settings, cache=replace(settings.cache, tiers=tiers))


def tiers_asked(options: TierOptions, system: SystemSpec, own: TierSettings | None = None) -> TierSettings | None:
    """Return the KV cache tiers that the options or an engine file request; None if neither does.

    Parameters
    ----------
    own : TierSettings, optional
        Tiers of the engine file. A tier without a rate gets the rate of the device's link.

    Raises
    ------
    InputError
        Rules without tiers, an unknown tier or rule, a malformed size or rate, or a size or rate that neither the
        option nor the device description gives.
    """
    rules = ((WRITE, options.kv_write, WRITES), (LOAD, options.kv_load, LOADS))
    for flag, value, known in rules:
        if value is not None and value not in known:
            raise InputError(f"{flag} {value!r}", f"unknown rule{nearest(value, known)}")
    if options.kv_tiers is None and own is None:
        for flag, given in ((WRITE, options.kv_write), (LOAD, options.kv_load), (PREFETCH, options.kv_prefetch)):
            if given:
                raise InputError(flag, f"needs {TIERS}, {EXAMPLE}")
        return None
    base = own or TierSettings(())
    if options.kv_tiers is not None:
        tiers = read_tiers(options.kv_tiers, system)
    else:
        tiers = tuple(placed(tier, system) for tier in base.tiers)
    if options.kv_prefetch and len(tiers) < 2:
        raise InputError(PREFETCH, f"needs at least two tiers in --kv-tiers, {EXAMPLE}")
    return TierSettings(tiers, options.kv_write or base.write, options.kv_load or base.load, options.kv_prefetch)


def read_tiers(text: str, system: SystemSpec) -> tuple[KvTier, ...]:
    """Parse a comma-separated list of tiers, each ``NAME[:SIZE[:RATE[:US]]]``.

    Raises
    ------
    InputError
        See `tiers_asked`.
    """
    out: list[KvTier] = []
    for part in text.split(","):
        name, *rest = part.strip().split(":")
        check_known(f"{TIERS} {part!r}", name, NAMES, "unknown tier")
        if any(tier.name == name for tier in out):
            raise InputError(TIERS, f"has the tier {name} twice; remove one")
        if len(rest) > 3:
            raise InputError(f"{TIERS} {part!r}", f"write NAME[:SIZE[:RATE[:US]]], {EXAMPLE}")
        out.append(_tier(part, name, rest, system))
    return tuple(out)


def _tier(part: str, name: str, rest: list[str], system: SystemSpec) -> KvTier:
    """Build one tier from its words; the device description gives the values that are left out."""
    where, known = f"{TIERS} {part!r}", _described(name, system)
    devices = system.devices_per_node * system.nodes
    rate = _number(where, rest[1], "a rate in GB/s", 1e-9) * 1e9 if len(rest) > 1 else None
    latency = _number(where, rest[2], "a latency in us", 0.0) * 1e-6 if len(rest) > 2 else None
    if len(rest) > 1 and rest[1] == FREE and latency is None:
        latency = 0.0
    if rate is None or (latency is None and known is None):
        known = _needed(where, name, system)
    size = _size(where, rest[0]) if rest else None
    if size is None:
        if known is None or known.capacity_bytes is None:
            raise InputError(where, f"needs a size, {EXAMPLE}")
        size = known.capacity_bytes * devices
    elif rate is None and known is not None and known.capacity_bytes is not None:
        most = known.capacity_bytes * devices
        if size > most:
            reason = f"is more than the {most / 2**30:.5g} GiB that {devices} x {system.device.name} have"
            raise InputError(where, f"{reason}; add a rate and latency if another memory is meant")
    if rate is None or latency is None:
        assert known is not None
        rate = known.bandwidth_bytes_per_s if rate is None else rate
        latency = known.latency_s if latency is None else latency
        return KvTier(name, size, rate, latency, f"{system.device.name}")
    return KvTier(name, size, rate, latency)


class _Known:
    """Capacity [B], bandwidth [B/s] and latency [s] of a tier by the device description."""

    def __init__(self, capacity: float | None, rate: float, latency: float) -> None:
        self.capacity_bytes, self.bandwidth_bytes_per_s, self.latency_s = capacity, rate, latency


def _described(name: str, system: SystemSpec) -> _Known | None:
    """Return the memory and link that the device describes for a tier; a shared pool is on the network between nodes."""
    device = system.device
    if name == "shared":
        return _Known(None, device.node_link.bandwidth_bytes_per_s, device.node_link.latency_s)
    spec: TierSpec | None = device.host_memory if name == "host" else device.disk
    if spec is None:
        return None
    return _Known(spec.capacity_bytes, spec.bandwidth_bytes_per_s, spec.latency_s)


def _needed(where: str, name: str, system: SystemSpec) -> _Known:
    """Return `_described`; raise an error if the device does not describe the tier."""
    known = _described(name, system)
    if known is None:
        key = "host_memory" if name == "host" else "disk"
        raise InputError(
            where, f"needs a rate and latency, such as {name}:64GiB:50:10, or the key `{key}` in the "
            f"description of {system.device.name}",
        )  # fmt: skip
    return known


def placed(tier: KvTier, system: SystemSpec) -> KvTier:
    """Return a tier of an engine file, which gives only a size, with the links of the system."""
    size = f"{tier.capacity_bytes:.0f}B"
    try:
        return _tier(size, tier.name, [size], system)
    except InputError as error:
        raise InputError("kv_offloading_size", error.reason) from None


def _size(where: str, text: str) -> float | None:
    """Return the bytes of a size with its unit; None for an empty text."""
    if not text:
        return None
    match = SIZE.fullmatch(text)
    if match is None:
        units = ", ".join(UNITS)
        raise InputError(where, f"must be a size with its unit ({units}), {EXAMPLE}; not {text!r}")
    return float(match["number"]) * UNITS[match["unit"]]


def _number(where: str, text: str, what: str, least: float) -> float:
    if text == FREE and least > 0:
        return float("inf")
    value = typed_number(text)
    if not least <= value < float("inf"):
        raise InputError(where, f"must have {what}, {EXAMPLE}; not {text!r}")
    return value
