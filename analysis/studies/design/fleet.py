"""A fleet as a design: the share of systems that should be of a space's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....devices.catalog import describe_system, load_system
from ....devices.silicon.describe import Silicon, silicon_of
from ....simulator.limits import MAX_REPLICAS
from ....workloads.errors import InputError
from ....workloads.requests.options import check_count
from ..sweep.axes import Value

OWN = "own_systems"
"""What is searched of a fleet: how many of its systems are the file's."""
PARAMETER = "system.parameters."


@dataclass(frozen=True, slots=True)
class MixedFleet:
    """A number of systems: the file's decode, the others prefill; all do both if all are of one kind.

    Attributes
    ----------
    systems : int
        In all.
    plain, path : str, Path
        A system's name, and the space's file.
    silicon : Silicon
        Of a plain device.
    """

    systems: int
    plain: str
    path: Path
    silicon: Silicon

    def options(self, designed: int) -> dict[str, Value]:
        """Options of a scenario in which `designed` systems are the file's."""
        if designed in (0, self.systems):
            return {"system": str(self.path) if designed else self.plain, "replicas": self.systems}
        plain = f"{self.plain}x{self.systems - designed}"
        return {"system": None, "prefill": plain, "decode": f"{self.path}x{designed}"}

    def mean(self, silicon: Silicon, designed: int) -> Silicon:
        """Return the silicon of the mean device, if the file's systems have one."""
        return silicon.mixed(self.silicon, designed / self.systems)


def read_fleet(given: Any, path: Path, searched: Mapping[str, Sequence[Value]]) -> MixedFleet | None:
    """The fleet of a space, if it is one.

    Raises
    ------
    InputError
        If keys are missing, systems have different sizes, or the device has parameters other than `OWN`.
    """
    if given is None:
        return None
    where = f"{path}: design.fleet"
    if not isinstance(given, dict) or set(given) != {"systems", "plain"}:
        raise InputError(where, "must be {systems: HOW MANY, plain: SYSTEM}")
    systems = check_count(given["systems"], f"{where}.systems", 2, MAX_REPLICAS)
    plain, described = load_system(str(given["plain"])), describe_system(path)[0]
    if plain.nodes * plain.devices_per_node != described.nodes * described.devices_per_node:
        raise InputError(f"{where}.plain", "must have as many devices as the file's system")
    if OWN not in searched:
        raise InputError(f"{path}: design.search", f"of a fleet needs {OWN}: from 0 to {systems}")
    for value in searched[OWN]:
        check_count(value, f"{path}: design.search.{OWN}", 0, systems)
    for name in searched:
        if name.startswith(PARAMETER):
            reason = "is a parameter of the device: of a fleet search its systems and options"
            raise InputError(f"{path}: design.search.{name.removeprefix(PARAMETER)}", reason)
    return MixedFleet(systems, str(given["plain"]), path.absolute(), silicon_of(plain.device))
