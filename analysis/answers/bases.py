"""Basis of the times and energies of a deployment in text form, and a warning if systems differ."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ...devices.device import SharedMemoryDevice, can_calibrate
from ...devices.dram.model import derives
from ...simulator.deploy.deployment import Deployment

FITTED = "kernel models fitted to measurements"
ROOFLINE = "rooflines with assumed efficiencies"
SIMULATED = "rooflines on a simulated DRAM"
ENGINE = "an engine simulated event by event"

BOARD = "the power model of a whole board"
WORK = "energies of operations and bytes only"
STATIC = "energies of operations and bytes, and a constant power"


class Bases(NamedTuple):
    """Basis of the results of one system; empty if it has none."""

    times: str = ""
    energy: str = ""


NONE = Bases()


def bases_of(deployment: Deployment | None) -> Bases:
    """Name the models behind a deployment's times and energies; None is an engine on a board."""
    if deployment is None:
        return Bases(ENGINE, STATIC)
    if deployment.system.device.on_engine:
        return Bases(ENGINE, STATIC)
    sides = [d.device for d in deployment.pools] or [deployment.device]
    if deployment.apart is not None:
        sides.append(deployment.apart.holder.device)
    return Bases(_each(map(_times, sides)), _each(map(_energy, sides)))


def in_short(bases: Bases, measured: bool) -> str:
    """Return the basis of times in a few words; `measured` is defined in `ranges.is_measured`."""
    if not measured:
        return "not measured"
    first, _, others = bases.times.partition(", ")
    if first.startswith(FITTED):
        return "fitted kernels and rooflines" if others else "fitted kernels"
    return first.partition(" ")[0] if first != ENGINE else "simulated engine"


def _each(bases: Iterable[str]) -> str:
    """Return the pools' bases as one text: one basis if all pools share it, else all of them."""
    return " beside ".join(dict.fromkeys(bases))


def _times(device: SharedMemoryDevice) -> str:
    """Return the basis of a device's times: fitted processors first, then the other processors by name."""
    described = SIMULATED if derives(device) else ROOFLINE
    if not device.measured:
        return described
    others = [name for name, p in device.spec.processors.items() if not can_calibrate(p)]
    return f"{FITTED}, {', '.join(others)} on {described}" if others else FITTED


def _energy(device: SharedMemoryDevice) -> str:
    if device.board.model is not None:
        return BOARD
    return STATIC if device.board.idle_W > 0.0 else WORK


def not_like_for_like(bases: Iterable[tuple[str, Bases]]) -> list[str]:
    """Return one sentence each if times, or energies, of rows of one table use different models.

    Parameters
    ----------
    bases : iterable of (str, Bases)
        A row's system and the basis of its results; empty ones are skipped.
    """
    rows = list(bases)
    times = _differing((system, b.times) for system, b in rows)
    energy = _differing((system, b.energy) for system, b in rows)
    lines = []
    if times:
        lines.append(
            f"NOT LIKE FOR LIKE: the times are based on different models: {times}. The cost models cause a part of the differences, "
            "not the devices; `--costs roofline` (`costs: roofline` of a sweep) puts GPUs on rooflines too."
        )
    if energy:
        lines.append(
            f"NOT LIKE FOR LIKE: the energies are based on different models: {energy}. A board's power includes idle cores, clocks, "
            "regulators and leakage, which energies of operations and bytes omit."
        )
    return lines


def _differing(bases: Iterable[tuple[str, str]]) -> str:
    """Return the systems by basis; nothing if there is only one basis."""
    groups: dict[str, dict[str, None]] = {}
    for system, basis in bases:
        if basis:
            groups.setdefault(basis, {})[system] = None
    if len(groups) < 2:
        return ""
    return "; ".join(f"{', '.join(names)} on {basis}" for basis, names in groups.items())
