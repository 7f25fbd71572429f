"""Identity of a scenario: its options, and digests of the files that they name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...devices.catalog import describe_system, is_path
from ...devices.dram.spec import load_memory
from ...devices.hosts.catalog import load_host
from ...devices.spec import SystemSpec
from ...simulator.option import placed
from ...simulator.parts.two_pools.asked import counted
from ...simulator.scenario.scenario import Scenario
from ...workloads.catalog import is_model_path
from ...workloads.errors import InputError
from ...workloads.hf.json_file import config_file
from ...workloads.kernel_tables import table_files
from ...workloads.requests.classes import is_classes_path
from ...workloads.requests.sources import trace_files
from ...workloads.textfile import digest_of, digest_of_files

UNREADABLE = "unreadable"
POOLS = ("prefill", "decode")
"""Options that name the system of one pool and its number of replicas."""


def located(point: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a point's settings with relative paths taken from the folder of the sweep's file."""
    out = dict(point)
    for name, value in point.items():
        head, text = _path_in(name, value)
        if text:
            tail = str(value)[len(head) + len(text) :]
            out[name] = f"{head}{folder / text}{tail}"
    return out


def _path_in(name: str, value: object) -> tuple[str, str]:
    """Return the prefix and the path in a parameter's value; both are empty if the value has no path."""
    if not isinstance(value, str):
        return "", ""
    if name == "routing":
        kind, colon, path = value.partition(":")
        return (f"{kind}:", path) if kind == "trace" and colon else ("", "")
    if name == "speculative":  # draft:MODEL:K
        kind, _, rest = value.partition(":")
        path = rest.rpartition(":")[0]
        return (f"{kind}:", path) if kind == "draft" and is_model_path(path) else ("", "")
    takes_path = {
        "system": is_path, "experts_on": is_path, "model": is_model_path, "host": is_path, "classes": is_classes_path,
        **dict.fromkeys(POOLS, _is_pool_path),
    }.get(name)  # fmt: skip
    named = _names_file(name) if takes_path is None else takes_path(value)
    return "", value if named else ""


def identity(point: Mapping[str, Any], known: dict[str, str] | None = None) -> dict[str, str]:
    """Return a digest for each file that a point names, so that a point with an edited file counts as a new point.

    A file that cannot be read has a digest that starts with `UNREADABLE`; such points are never
    taken from stored results, and fail with the reason.

    Parameters
    ----------
    known : dict, optional
        Digests found before, by what was read. New digests are added, so that points that share a file read it once.
    """
    known = {} if known is None else known
    digests = {}
    for name, value in point.items():
        text = _path_in(name, value)[1]
        if text:
            what = f"{name}:{text}"
            if what not in known:
                known[what] = _file_digest(name, text)
            digests[name] = known[what]
    return digests


def _is_pool_path(text: str) -> bool:
    return is_path(counted(text, "")[0])


def _names_file(name: str) -> bool:
    known = placed(Scenario).get(name)
    return known is not None and known.option.file


def whole(system: SystemSpec) -> dict[str, Any]:
    """Return a system as plain data that includes its complete DRAM standard."""
    tree = system.model_dump()
    dram = tree["device"]["memory"]["dram"]
    if dram is not None:
        dram["standard"] = load_memory(dram["standard"]).model_dump()
    return tree


def _file_digest(name: str, value: str) -> str:
    """Return the digest of all files read for a path, and of no other file in its folder."""
    path = Path(value)
    try:
        if name in POOLS:
            value = counted(value, "")[0]
        if name in ("system", "experts_on", *POOLS):
            return digest_of(whole(describe_system(value)[0]))
        if name == "host":
            host = load_host(path)[0]
            tables = digest_of_files(table_files(host.link.tables))
            return digest_of([host.model_dump(), tables])
        if name in ("model", "speculative"):
            return digest_of_files([config_file(path)])
        if name == "kernels":
            return digest_of_files(table_files([path]))
        return digest_of_files(trace_files(path) if name in ("trace", "rate_profile") else [path])
    except (InputError, OSError) as error:
        return f"{UNREADABLE} {value}: {error}"
