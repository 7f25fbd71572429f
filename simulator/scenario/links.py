"""The link between two groups of devices from options: by name, by rate, or the slower of both networks."""

from __future__ import annotations

from dataclasses import replace

from ...devices.catalog import list_devices, load_device
from ...devices.hosts.catalog import link_of
from ...devices.spec import LinkSpec, SystemSpec
from ...workloads.errors import InputError, check_known, typed_number
from ..fleet.pools import KvLink

FREE = "free"
LAYERS = "layers"


def kv_link(text: str | None, overlap: str | None, prefill: SystemSpec, decode: SystemSpec) -> KvLink:
    """Return the KV transfer link between the prefill and the decode pool.

    A name selects a link of one of their devices or of the catalog. Numbers set the one-way rate of one device [GB/s] and,
    after a comma, the latency [us]. By default it is the slower of both systems' networks.

    Raises
    ------
    InputError
        An unknown name, an invalid rate, or an unknown way to overlap.
    """
    if overlap not in (None, "none", LAYERS):
        raise InputError("--kv-overlap", f"must be none or {LAYERS}, not {overlap!r}")
    networks = [system.device.node_link for system in (prefill, decode)]
    slower = min(networks, key=lambda link: (link.bandwidth_bytes_per_s, -link.latency_s))
    if text is None:
        link_found = KvLink.of(slower)
    elif text == FREE:
        link_found = KvLink(FREE, float("inf"), 0.0)
    elif text[:1].isdigit() or text[:1] in "+-.":
        link_found = _by_rate(text, slower.latency_s)
    else:
        link_found = KvLink.of(_named(text, prefill, decode))
    return replace(link_found, by_layer=overlap == LAYERS)


def _by_rate(text: str, latency_s: float) -> KvLink:
    """Return a link with a rate and latency given as numbers."""
    rate, comma, latency = text.partition(",")
    numbers = typed_number(rate), typed_number(latency) if comma else latency_s * 1e6
    if not (0 < numbers[0] < float("inf") and 0 <= numbers[1] < float("inf")):
        raise InputError(
            "--kv-link", "must be a name, or a rate above 0 [GB/s], optionally with a latency [us] after a "
            f"comma, for example 50,5; not {text!r}",
        )  # fmt: skip
    return KvLink(f"{numbers[0]:g} GB/s", numbers[0] * 1e9, numbers[1] * 1e-6)


def _named(name: str, prefill: SystemSpec, decode: SystemSpec) -> LinkSpec:
    """Return a link by name: first a link of one of the pools, else the slowest catalog link of that name."""
    near = [link for s in (prefill, decode) for link in (link_of(s), s.device.node_link)]
    same = [link for link in near if link.name == name]
    if same:
        return min(same, key=lambda link: link.bandwidth_bytes_per_s)
    specs = [load_device(device)[0] for device in list_devices()]
    known = {link.name: link for spec in specs for link in (spec.link, spec.node_link)}
    check_known("--kv-link", name, known, f"unknown link {name!r}")
    links = [x for s in specs for x in (s.link, s.node_link) if x.name == name]
    if len({link.bandwidth_bytes_per_s for link in links}) > 1:
        rates = sorted({f"{link.bandwidth_bytes_per_s / 1e9:g}" for link in links})
        raise InputError("--kv-link", f"{name} has {' or '.join(rates)} GB/s; give the rate")
    return known[name]
