"""Kernel parameters chosen by the tile model: ranked configurations of a kernel, shape and device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...devices.calibrated.family import families
from ...devices.calibrated.hardware import CODES, FORMATS, hardware
from ...devices.calibrated.rules import parameters
from ...devices.catalog import load_device
from ...devices.device import can_calibrate
from ...devices.spec import DeviceSpec
from ...devices.tiles.config import I8, KernelConfig
from ...devices.tiles.form import FORMS, PRODUCTS, Shape, TiledKernel
from ...devices.tiles.machine import SETTINGS, Machine
from ...devices.tiles.rank import Priced, Ranking, price_one, rank, reason_of, why
from ...devices.tiles.store import ConstantSet, constants
from ...devices.tiles.tables import read_grid
from ...workloads.errors import InputError, nearest
from ...workloads.kernel_tables import KernelTable
from ..show.output import SIGNIFICANT
from ..show.result import Drawing, Result
from ..show.text import Blocks, Records
from .tune_frames import over_frame, terms_frame


def calibrated_seconds(spec: DeviceSpec, form: TiledKernel, shape: Shape) -> float | None:
    """Return the kernel's time predicted by its fitted kernel family, which ignores tiles [s]; None if no family covers it."""
    call = form.calibrated(shape)
    if call is None or not any(map(can_calibrate, spec.processors.values())):
        return None
    name, columns = call
    family = families()[name]
    arrays = {
        key: np.array([value], dtype=object if isinstance(value, str) else np.float64) for key, value in columns.items()
    }
    table = KernelTable(name, arrays, np.array([""], dtype=object), np.zeros(1, dtype=np.int64))
    try:
        known = parameters(spec, family)
    except InputError:
        return None
    return float(family.seconds(known.fit.values, hardware(spec), family.from_table(table))[0])


TOP = 10
FACTORS = (0.5, 2.0)
"""Factors by which every device number is multiplied to determine its sensitivity."""
OVER = "shared_memory_KiB"
"""Device parameter on the x-axis of a sensitivity plot."""
TERMS_CAPTION = (
    "Grey: the predicted time; thin bars: each term in isolation; terms overlap. The last row "
    "is what the framework launches untuned."
)
OVER_CAPTION = (
    "The best time over the shared memory of a core; numbers mark where another configuration becomes "
    "the best one. Where the lines part, the memory pays only with another kernel."
)


@dataclass(frozen=True, slots=True)
class Tuned:
    """Ranked configurations of one shape on one device.

    Attributes
    ----------
    ranked : list of Priced
        Fastest configurations, best first. Those that differ only in an irrelevant group are listed once.
    default : Priced
        Configuration that the framework launches without tuning.
    given : Priced or None
        Configuration that the user asked about.
    """

    form: TiledKernel
    machine: Machine
    shape: Shape
    known: ConstantSet
    ranking: Ranking
    ranked: list[Priced]
    default: Priced
    given: Priced | None = None

    def config_dict(self, config: KernelConfig) -> dict[str, int]:
        """Return the configuration fields that the kernel uses."""
        return {name: value for name, value in config.to_dict().items() if name in self.form.used}

    def priced_dict(self, of: Priced) -> dict[str, Any]:
        """Return a configuration's time and bound and, if it cannot run, the reason."""
        reason = reason_of(self.form, self.machine, self.shape, of.config)
        entry = {"config": self.config_dict(of.config), "seconds": of.seconds, "bound": of.bound}
        return entry | ({"invalid": reason} if reason else {})

    def ranked_dict(self, place: int, of: Priced) -> dict[str, Any]:
        """Return one configuration of the ranking for JSON."""
        counts = {name: int(getattr(of, name)) for name in ("registers", "shared_bytes")}
        return {
            "rank": place, "config": self.config_dict(of.config), "seconds": of.seconds, "bound": of.bound,
            "terms": of.terms, "blocks_per_core": int(of.blocks_per_core), "waves": of.waves, **counts,
            "also": list(of.also), "why": why(self.form, self.machine, self.shape, self.known.p, of),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sensitive:
    """Best configuration after one number of the device is changed.

    Attributes
    ----------
    changed : bool
        Whether the best configuration differs from the best one on the unchanged device.
    kept_s : float
        Time of the unchanged device's best configuration on the changed device [s]; infinite if it cannot run.
    """

    parameter: str
    factor: float
    best: Priced
    changed: bool
    kept_s: float


@dataclass(frozen=True, slots=True)
class Tune(Result):
    """Result of ranking one kernel's configurations; see `tune`."""

    PICTURES = ("terms.png", "shared_memory.png")
    TABLES = (("tune.csv", "frame", SIGNIFICANT),)

    tuned: Tuned
    calibrated_s: float | None
    evidence: tuple[str, ...]
    sensitivity: tuple[Sensitive, ...] | None
    configs: I8 | None = None

    def to_dict(self) -> dict[str, Any]:
        t = self.tuned
        out: dict[str, Any] = {
            "kernel": t.form.name,
            "device": t.machine.name,
            "shape": dict(t.shape),
            "searched": t.ranking.searched,
            "invalid": t.ranking.invalid,
            "default": t.priced_dict(t.default),
            "ranked": [t.ranked_dict(i, of) for i, of in enumerate(t.ranked, 1)],
            "calibrated_seconds": self.calibrated_s,
            "evidence": list(self.evidence),
        }
        if t.given is not None:
            out["given"] = t.priced_dict(t.given)
        if self.sensitivity is not None:
            out["sensitivity"] = [self._sensitive_dict(s) for s in self.sensitivity]
        return out

    def _sensitive_dict(self, s: Sensitive) -> dict[str, Any]:
        return {
            "parameter": s.parameter,
            "factor": s.factor,
            "seconds": s.best.seconds,
            "config": self.tuned.config_dict(s.best.config),
            "changed": s.changed,
            "kept_seconds": s.kept_s if s.kept_s < float("inf") else None,
        }

    def rows(self) -> Records:
        return [
            {"rank": i, "config": str(of.config), "us": of.seconds * 1e6, "bound": of.bound,
             "blocks": int(of.blocks_per_core), "waves": of.waves, "registers": int(of.registers),
             "shared_KiB": of.shared_bytes / 1024, "also_group": ", ".join(map(str, of.also))}
            for i, of in enumerate(self.tuned.ranked, 1)
        ]  # fmt: skip

    def records(self) -> Records:
        return [
            {"rank": i, **self.tuned.config_dict(of.config), "seconds": of.seconds, "bound": of.bound,
             **{f"{name}_s": value for name, value in of.terms.items()}}
            for i, of in enumerate(self.tuned.ranked, 1)
        ]  # fmt: skip

    def blocks(self) -> Blocks:
        t = self.tuned
        best, first = t.ranked[0], t.default
        reason = reason_of(t.form, t.machine, t.shape, first.config)
        text = f"{first.seconds * 1e6:,.4g} us, {first.seconds / best.seconds:.2f} times as long"
        shape = ", ".join(f"{k} {v}" for k, v in t.shape.items())
        left = sum(t.ranking.invalid.values())
        out: Blocks = [
            f"{t.form.name} on {t.machine.name}: {shape}",
            (
                f"{t.ranking.searched:,} configurations, {left:,} cannot run; the best takes "
                f"{best.seconds * 1e6:,.4g} us, the default ({first.config}) "
                f"{f'cannot run: {reason}' if reason else text}"
            ),
            self.rows(),
            f"1: {why(t.form, t.machine, t.shape, t.known.p, best)}",
        ]
        if self.calibrated_s is not None:
            text = f"calibrated family, which does not know the tile: {self.calibrated_s * 1e6:,.4g} us"
            out.append(text)
        out += list(self.evidence)
        if self.sensitivity is not None:
            out.append([
                {"parameter": s.parameter, "times": s.factor, "best_us": s.best.seconds * 1e6,
                 "kept_us": s.kept_s * 1e6, "config": str(s.best.config), "changed": s.changed}
                for s in self.sensitivity
            ])  # fmt: skip
        return out

    def headline(self) -> str:
        return str(self.blocks()[1])

    def drawings(self) -> list[Drawing]:
        from ..plots.tiles import best_over, ranked_terms

        t = self.tuned
        name = f"{t.form.name} on {t.machine.name}"
        figure = ranked_terms(terms_frame(t.ranked, t.default), f"{name}: the best configurations")
        out = [Drawing(figure, TERMS_CAPTION)]
        if self.sensitivity is not None:
            frame = over_frame(t.form, t.machine, t.shape, t.known.p, OVER, self.configs)
            here = t.machine.value(OVER)
            title = f"{name}: what more or less shared memory does"
            figure = best_over(frame, "Shared memory of a core (KiB)", here, title)
            out.append(Drawing(figure, OVER_CAPTION))
        return out


def tune(
    kernel: str, shape: Mapping[str, object], device: str | DeviceSpec, *, top: int = TOP,
    grid: str | Path | None = None, set_: Mapping[str, float] | None = None,
    sensitivity: bool = False, config: Mapping[str, int] | None = None,
) -> Tune:  # fmt: skip
    """Rank the configurations of a kernel for one shape on one device, by the tile model.

    Parameters
    ----------
    kernel : str
        A kernel form, as ``opbyte list forms`` names them.
    shape : mapping
        Sizes of the kernel, such as tokens, experts, topk, hidden and inter of ``fused_moe``.
    device : str or DeviceSpec
        Catalog name, a YAML file or a device.
    top : int
        Configurations to show.
    grid : path, optional
        CSV of tiles and groups (block_m, block_n, block_k, group_m) that replaces the default search space.
    set_ : mapping, optional
        Device numbers to replace, such as ``shared_memory_KiB``.
    sensitivity : bool
        Whether to rank also with each device number halved and doubled.
    config : mapping, optional
        A configuration to compare.

    Raises
    ------
    InputError
        If a name is unknown, a number is out of range, or the device lacks a number that the tile model needs.
    """
    form = form_of(kernel)
    spec = load_device(device)[0] if isinstance(device, str) else device
    machine = form.machine(spec).changed(set_ or {})
    checked = form.shape(shape)
    given = None if config is None else KernelConfig.of(config)
    configs = None if grid is None else searched(form, machine, Path(grid))
    tuned = tuned_of(form, machine, checked, top, configs, given)
    swings = _sensitivity(tuned, configs) if sensitivity else None
    changed = None if set_ else calibrated_seconds(spec, form, checked)
    return Tune(tuned, changed, _evidence(tuned, set_ or {}), swings, configs)


def form_of(kernel: str) -> TiledKernel:
    """Return a kernel form by its name.

    Raises
    ------
    InputError
        No such kernel.
    """
    if kernel not in FORMS:
        raise InputError(f"KERNEL {kernel!r}", f"is none of {', '.join(sorted(FORMS))}{nearest(kernel, list(FORMS))}")
    return FORMS[kernel]


def searched(form: TiledKernel, machine: Machine, grid: Path) -> I8:
    """Read tiles and groups from a file and combine them with the warps and stages that a tuner tries."""
    from ...devices.tiles.forms.fused_moe import expanded

    return expanded(machine, read_grid(grid))


def tuned_of(
    form: TiledKernel, machine: Machine, shape: Shape, top: int, configs: I8 | None, given: KernelConfig | None
) -> Tuned:
    """Rank the configurations for one shape on one machine.

    Raises
    ------
    InputError
        No configuration can run.
    """
    known = constants(form.constants(machine, shape))
    ranking = rank(form, machine, shape, known.p, configs)
    if not len(ranking):
        text = "; ".join(f"{reason}: {n}" for reason, n in ranking.invalid.items())
        raise InputError(form.name, f"no configuration can run on {machine.name} ({text})")
    default = price_one(form, machine, shape, known.p, form.default(machine, shape))
    priced_given = None if given is None else price_one(form, machine, shape, known.p, given)
    return Tuned(form, machine, shape, known, ranking, ranking.top(top), default, priced_given)


def _sensitivity(tuned: Tuned, configs: I8 | None) -> tuple[Sensitive, ...]:
    """Return the best configuration for every number of the device, halved and doubled."""
    out = []
    best_own = tuned.ranked[0].config
    for parameter in SETTINGS:
        for factor in FACTORS:
            try:
                machine = tuned.machine.scaled(parameter, factor)
            except InputError:
                continue  # half of a whole number that is 1, or a number without an effect
            ranking = rank(tuned.form, machine, tuned.shape, tuned.known.p, configs)
            if not len(ranking):
                continue
            best = ranking.top(1)[0]
            runs = not reason_of(tuned.form, machine, tuned.shape, best_own)
            kept_s = price_one(tuned.form, machine, tuned.shape, tuned.known.p, best_own).seconds
            changed = best.config != best_own
            out.append(Sensitive(parameter, factor, best, changed, kept_s if runs else float("inf")))
    return tuple(out)


def _evidence(tuned: Tuned, changed: Mapping[str, float]) -> tuple[str, ...]:
    """Return the evidence of the result."""
    known, machine = tuned.known, tuned.machine
    lines = [f"constants {known.name}: fitted to {known.rows:,} rows ({known.fitted_to}), {known.date}"]
    if not known.rows:
        lines = ["no constants were fitted: the assumed ones are in the form"]
    if machine.derived:
        lines.append(f"not in the description of {machine.name}, by rule: {', '.join(machine.derived)}")
    code = CODES[str(tuned.shape["dtype"])]
    if tuned.form.name in PRODUCTS and code in machine.wider:
        lines.append(f"{machine.name} has no units for {FORMATS[code]}: at the rate of the next wider format")
    if changed:
        lines.append("set: " + ", ".join(f"{k} {v:g}" for k, v in changed.items()))
    lines += tuned.form.beyond(tuned.shape)
    return tuple(lines)
