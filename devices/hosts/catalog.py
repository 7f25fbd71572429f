"""Hosts by name or file, and the host that a system uses.

A host's file has ``kind: host``, a ``name`` and a ``link:`` block (`spec.HostLinkSpec`), units in the keys and a source
for every number as in a device's; ``extends: NAME`` starts from a class of the catalog. The default host of a device is
the class under ``host:`` in its description.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...workloads.errors import InputError, SpecError, nearest
from ...workloads.specfile import Description, build, describe, load_description
from ...workloads.yamlfile import Sources
from ..spec import DeviceSpec, LinkSpec, SystemSpec
from .spec import HostSpec

IDENTITY = ("name", "title")
"""Keys that ``extends`` does not inherit."""
PCIE = "pcie"
"""Prefix of the names of links over PCIe."""


@cache
def _files() -> dict[str, Path]:
    folder = Path(str(files("opbyte.devices") / "specs" / "hosts"))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def list_hosts() -> list[str]:
    """Return the names of the catalog's host classes, sorted."""
    return list(_files())


def load_host(name_or_path: str | Path) -> tuple[HostSpec, dict[str, str]]:
    """Load a host class of the catalog by name, or a host's file, with the source of every number.

    Raises
    ------
    SpecError
        If the class or file does not exist, or the file does not describe a host.

    Examples
    --------
    >>> load_host("pcie-host")[0].link.peer_access
    False
    """
    text = os.fspath(name_or_path)
    if text.lower() in _files():
        return _read(_files()[text.lower()])
    if not (text.lower().endswith((".yaml", ".yml")) or os.sep in text or "/" in text):
        raise SpecError(repr(text), f"unknown host{nearest(text, list_hosts())}; a file's name ends in .yaml")
    path = Path(text)
    spec, sources = _read(path)
    if spec.name in _files():
        raise SpecError(f"{path}: name", f"{spec.name!r} is a class of the catalog; choose another")
    return spec, sources


def host_in(given: Any, path: Path, table: Mapping[str, str]) -> tuple[HostSpec, dict[str, str]]:
    """Return the host under ``host:`` of a system's file `path`: a name, a relative path, or a description."""
    if isinstance(given, dict):
        spec, sources = _built(describe(given, path, _find, IDENTITY, table))
    elif isinstance(given, str):
        spec, sources = load_host(given if given.lower() in _files() else path.parent / given)
    else:
        raise SpecError(f"{path}: host", "must be a name, a path or a host's description")
    return spec, {f"host.{key}": source for key, source in sources.items()}


def placed_in(system: SystemSpec, host: str | Path | HostSpec | None) -> SystemSpec:
    """Return the system in a host; unchanged if no host is given.

    Raises
    ------
    InputError
        The host describes links of another kind than the device's.
    """
    if host is None:
        return system
    spec = host if isinstance(host, HostSpec) else load_host(host)[0]
    host_link, link = spec.link, system.device.link
    if host_link.bandwidth_bytes_per_s is None and (host_link.medium == PCIE) != link.name.startswith(PCIE):
        raise InputError(
            f"--host {spec.name}", f"describes links over {host_link.medium}, but the memory of "
            f"{system.device.name} is {link.name}; a host's file with bandwidth_GBps fits any device",
        )  # fmt: skip
    return system.model_copy(update={"host": spec})


def joined(system: SystemSpec) -> DeviceSpec:
    """Return the system's device; on its bridge if that joins a whole node and no host is named."""
    return system.device if system.host is not None else system.device.among(system.devices_per_node)


def host_of(system: SystemSpec) -> HostSpec | None:
    """Return the host that a system names, else the class of its device."""
    if system.host is not None:
        return system.host
    name = joined(system).host
    return None if name is None else load_host(name)[0]


def host_sources(system: SystemSpec, host: str | Path | None = None) -> dict[str, str]:
    """Return the source of every number of the host by its key below ``host``, except for those in the system's file.

    Parameters
    ----------
    host : str or Path, optional
        What an option names instead of the system or its device.
    """
    named = joined(system).host if host is None and system.host is None else host
    return {} if named is None else {f"host.{k}": s for k, s in load_host(named)[1].items()}


def link_of(system: SystemSpec) -> LinkSpec:
    """Return the link inside a node of the system's host, for the costs of collectives without rows."""
    link, host = joined(system).link, host_of(system)
    if host is None or host.plain:
        return link
    host_link, nominal = host.link, host.link.bandwidth_bytes_per_s
    share = host_link.rate or 1.0
    if system.devices_per_node > 2 and host_link.shared is not None:
        share = min(share, host_link.shared)
    rate = (nominal or link.bandwidth_bytes_per_s) * share / host.multiple
    return link.model_copy(
        update={
            "name": link.name if nominal is None else host.name,
            "bandwidth_bytes_per_s": rate,
            "latency_s": link.latency_s * host.multiple + host.hop_s,
        }
    )


@cache
def _catalog(path: Path) -> tuple[HostSpec, dict[str, str]]:
    return _built(load_description(path, _find, IDENTITY))


def _read(path: Path) -> tuple[HostSpec, dict[str, str]]:
    if path in _files().values():
        spec, sources = _catalog(path)
    else:
        spec, sources = _built(load_description(path, _find, IDENTITY))
    return spec, Sources(sources)


def _built(description: Description) -> tuple[HostSpec, dict[str, str]]:
    """Return a validated host, with the paths of its tables relative to the file."""
    spec, sources = build(HostSpec, description)
    tables = tuple(str(description.path.parent / name) for name in spec.link.tables)
    link = spec.link.model_copy(update={"tables": tables})
    return spec.model_copy(update={"link": link}), sources


def _find(text: str, path: Path) -> Path:
    """Convert the text after ``extends:`` in the file `path` to a path."""
    if text.lower() in _files():
        return _files()[text.lower()]
    file = path.parent / text
    if not file.is_file():
        raise SpecError(f"{path}: extends", f"unknown host {text!r}{nearest(text, list_hosts())}")
    return file
