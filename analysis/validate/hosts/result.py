"""A host fitted to one measured run: its numbers, the errors before and after, and its file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ....devices.hosts.catalog import PCIE, host_of, link_of, list_hosts, load_host
from ....devices.hosts.spec import FittedSpec, HostFitSpec, HostSpec
from ....devices.spec import SystemSpec
from ....workloads.errors import InputError, check_known
from ...show.kept import NOTHING, Kept
from ...show.result import Result
from ...show.text import Blocks, Rows, seconds
from .fit import DIGITS, FREE, Fitted, Free, Number, fit_numbers
from .measured import HostResult, HostRun, read_measured

MOST = 3
NVLINK = "nvlink"
"""Host class of NVLink devices whose description names none."""


@dataclass(frozen=True, slots=True)
class HostCalibration(Result):
    """Host numbers fitted to a measured run; see `calibrate_run`.

    Attributes
    ----------
    host : HostSpec
        The host with the fitted numbers.
    base : str
        Name or file of the host that the fit started from.
    """

    run: str
    host: HostSpec
    base: str
    fitted: Fitted

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "base": self.base,
            "numbers": [
                {"name": n.free.name, "key": n.free.field, "value": n.value, "low": n.low,
                 "high": n.high, "unit": "s" if n.free.unit else "1"}
                for n in self.fitted.numbers
            ],
            "errors": list(self.records()),
            "requests": {"fitted": _spread(self.fitted, True), "held_out": _spread(self.fitted, False)},
            "link_share": self.fitted.before.shares["link"],
        }  # fmt: skip

    def records(self) -> Rows:
        before, after = self.fitted.before.figures, self.fitted.after.figures
        return [
            {"metric": name, "measured": result, "before": x, "after": after[name][1],
             "error_before": x / result - 1.0, "error_after": after[name][1] / result - 1.0}
            for name, (result, x) in before.items()
        ]  # fmt: skip

    def rows(self) -> Rows:
        return [
            {
                "metric": r["metric"].replace("_", " "), "measured": seconds(r["measured"]),
                "before": f"{r['error_before']:+.1%}", "after": f"{r['error_after']:+.1%}",
            }
            for r in self.records()
        ]  # fmt: skip

    def blocks(self) -> Blocks:
        f = self.fitted
        out: Blocks = [
            self._heading(),
            [{"number": n.free.title, "fitted": _shown(n, n.value),
              "80% interval": f"{_shown(n, n.low)} to {_shown(n, n.high)}"} for n in f.numbers],
            self.rows(),
        ]  # fmt: skip
        used, left = _spread(f, True), _spread(f, False)
        text = f"time per output token, median of |error|: {used['before']:.1%} before, {used['after']:.1%} after"
        out.append(f"{text}, over {used['count']:,} that were fitted")
        if left["count"]:
            out.append(f"held out: {left['before']:.1%} before, {left['after']:.1%} after, over {left['count']:,}")
        return out

    def _heading(self) -> str:
        share = self.fitted.before.shares["link"]
        return f"{self.run}, starting from {self.base}; collectives take {share:.0%} of its steps"

    def yaml(self, path: Path) -> str:
        """Return the YAML text of the host's file; `path` is where it will be written, and gives its name."""
        base = self.base if self.base in list_hosts() else os.path.relpath(self.base, path.parent)
        source = f"fitted on {self.run} by opbyte calibrate run"
        fit: dict[str, Any] = {"run": self.run}
        for n in self.fitted.numbers:
            key, scale = n.free.field, 1.0
            if n.free.unit:
                key, scale = f"{key.removesuffix('_s')}_us", 1e-6
            fit[key] = {
                **{name: float(f"{getattr(n, name) / scale:.{DIGITS}g}") for name in ("value", "low", "high")},
                "source": source,
            }
        tree = {"kind": "host", "extends": base, "name": _name(path),
                "title": f"{Path(self.base).stem} as {self.run} has it", "fitted": fit}  # fmt: skip
        body = yaml.safe_dump(tree, sort_keys=False, width=100, allow_unicode=True)
        return f"# low and high are the ends of an 80 % interval.\n{body}"


def _name(path: Path) -> str:
    """Return a host's name by its file name, with prefix ``my-`` if the catalog has this name."""
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", path.stem).lstrip("._+-")[:80] or "host"
    return f"my-{name}"[:80] if name in list_hosts() else name


def _shown(n: Number, value: float) -> str:
    return seconds(value) if n.free.unit else f"{value:.3g}x"


def _spread(f: Fitted, used: bool) -> dict[str, Any]:
    """Return count and median absolute error, before and after the fit, of the residuals `used` by it or not."""

    def median(one: HostResult) -> float | None:
        errors = np.abs(np.expm1(one.residuals[one.fitted == used]))
        return float(np.median(errors)) if len(errors) else None

    count = int((f.before.fitted == used).sum())
    return {"count": count, "before": median(f.before), "after": median(f.after)}


def calibrate_run(
    folder: str | Path, free: str | Sequence[str] = "link,host", *,
    host: str | Path | None = None, part: float = 1.0, seed: int = 0, kept: Kept = NOTHING,
) -> HostCalibration:  # fmt: skip
    """Fit up to three numbers of a host to one measured run on it.

    Parameters
    ----------
    folder : path-like
        A run in any form that ``opbyte validate runs`` takes.
    free : str or sequence of str
        At most three of ``link`` (factor on the time of collectives), ``latency`` (added to each hop)
        and ``host`` (gap between steps).
    host : str or Path, optional
        Host to start from; by default the host class of the run's device.
    part : float
        Share of the run's duration that is fitted; the rest is the test set.
    seed : int
        Seed of the samples for the intervals.
    kept : Kept
        Simulations that an earlier call finished; this call adds its own.

    Raises
    ------
    InputError
        Unknown names, numbers that the run does not determine, or a run that cannot be used.
    """
    frees = _frees(free)
    if not 0.0 < part <= 1.0:
        raise InputError("--part", f"must be above 0 and at most 1, not {part:g}")
    measured = read_measured(Path(folder), part)
    base, where = _base(measured.system, host)
    _refuse_alone(measured, frees)

    def simulate(values: Any) -> HostResult:
        numbers = {
            f.field: FittedSpec(value=float(x), low=float(x), high=float(x)) for f, x in zip(frees, values, strict=True)
        }
        there = _with(base, measured.name, numbers)
        known = [Path(folder), part, there] if kept else None
        return kept.once(known, partial(measured.compared, there))

    start = np.array([_start(base, f) for f in frees])
    done = fit_numbers(simulate, frees, start, seed)
    entry = {n.free.field: FittedSpec(value=n.value, low=n.low, high=n.high) for n in done.numbers}
    return HostCalibration(measured.name, _with(base, measured.name, entry), where, done)


def _frees(names: str | Sequence[str]) -> list[Free]:
    given = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
    known = {f.name: f for f in FREE}
    for name in given:
        check_known(f"--free {name}", name, known, "is not a number of a host")
    if len(set(given)) != len(given) or not 1 <= len(given) <= MOST:
        raise InputError("--free", f"takes one to {MOST} different names of {', '.join(known)}")
    return [f for f in FREE if f.name in given]


def _base(system: SystemSpec, host: str | Path | None) -> tuple[HostSpec, str]:
    """Return the host whose numbers the fit starts from, and its name or file."""
    if host is not None:
        return load_host(host)[0], str(host)
    known = host_of(system)
    if known is None and link_of(system).name.startswith(PCIE):
        raise InputError("--host", f"is needed: {system.device.name} names no class of host")
    name = NVLINK if known is None else known.name
    return load_host(name)[0], name


def _refuse_alone(measured: HostRun, frees: Sequence[Free]) -> None:
    """Refuse to fit link parameters to a run on one device, which has no collectives."""
    links = [f.name for f in frees if f.field.startswith("link_")]
    devices = measured.system.devices_per_node * measured.system.nodes
    if links and devices == 1:
        raise InputError(
            f"--free {links[0]}",
            f"{measured.name} ran on one GPU: it has no collectives to fit its links; free only host",
        )


def _start(base: HostSpec, free: Free) -> float:
    given: FittedSpec | None = None if base.fitted is None else getattr(base.fitted, free.field)
    return free.start if given is None else given.value


def _with(base: HostSpec, run: str, numbers: Mapping[str, FittedSpec]) -> HostSpec:
    """Return the host with `numbers` as its fitted numbers and `run` as their source."""
    fit = HostFitSpec(run=run) if base.fitted is None else base.fitted
    return base.model_copy(update={"fitted": fit.model_copy(update={"run": run, **numbers})})
