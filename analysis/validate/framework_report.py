"""The part of docs/calibration.md on frameworks held out of a device's fit, one by one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...devices.calibrated.calibrate import FamilyFit, FamilyRows
from ...devices.calibrated.errors import Errors, errors, without_each
from ...devices.calibrated.family import families
from ...devices.calibrated.fit import BlendPart, Fit, predict
from ...devices.calibrated.frameworks import Donor
from ...devices.calibrated.rules import ALONE, known_elsewhere

Fits = Mapping[str, Mapping[str, FamilyFit]]
Measured = Mapping[str, Mapping[str, FamilyRows]]
NEAR = 0.5
"""A framework has a near relative in a part of the same library with at least this share."""


def intro(page: str) -> str:
    """What stands above the tables of a page."""
    return (Path(__file__).parent / "pages" / f"{page}.md").read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class HeldOut:
    """One framework held out of one device's fit.

    Attributes
    ----------
    base, known : Errors
        Without and with what other devices tell.
    parts : tuple of BlendPart
        What it is predicted from, largest first.
    """

    family: str
    device: str
    framework: str
    base: Errors
    known: Errors
    parts: tuple[BlendPart, ...]

    @property
    def near(self) -> bool:
        """Whether one part of the same library has at least half of the weight."""
        return self.parts[0].kin and self.parts[0].weight >= NEAR


def donors(name: str, fits: Fits, rows: Measured) -> dict[str, Donor]:
    """Devices whose full fits of a family others take parameters from."""
    return {
        device: Donor(
            done[name].rows,
            done[name].fit,
            rows[device][name].h,
            tuple(dict.fromkeys(rows[device][name].labels.tolist())),
        )
        for device, done in fits.items()
        if name in done and device not in ALONE
    }


def held_out(fits: Fits, rows: Measured) -> tuple[dict[str, dict[str, Errors]], list[HeldOut]]:
    """Errors on frameworks held out of a device's fit but known from the other devices.

    Returns
    -------
    by_device : dict
        family -> device -> Errors of all its frameworks' rows.
    by_framework : list of HeldOut
        Those that other devices have rows of.
    """
    by_device: dict[str, dict[str, Errors]] = {}
    by_framework: list[HeldOut] = []
    for name in families():
        known = donors(name, fits, rows)
        for device in sorted(fits):
            if name not in fits[device] or "by_source" not in fits[device][name].errors:
                continue
            r, others = rows[device][name], {d: o for d, o in known.items() if d != device}
            result, guess = np.zeros(len(r.measured), dtype=bool), np.empty(len(r.measured))
            start = fits[device][name].fit
            for held, base in without_each(r.family, r.h, r.x, r.measured, r.labels, start):
                done = _completed(r, ~held, base, others)
                result |= held
                guess[held] = predict(r.family, done, r.h, r.x[held], r.labels[held])
                by_framework += _one(device, r, held, base, done, guess[held])
            if result.any():
                by_device.setdefault(name, {})[device] = errors(guess[result], r.measured[result])
    return by_device, by_framework


def _completed(r: FamilyRows, seen: np.ndarray, own: Fit, others: Mapping[str, Donor]) -> Fit:
    """A fit to the rows `seen`, with what other devices know of the other frameworks."""
    labels = tuple(dict.fromkeys(r.labels[seen].tolist()))
    return known_elsewhere(r.h, r.family, Donor(int(seen.sum()), own, r.h, labels), others)


def _one(device: str, r: FamilyRows, held: np.ndarray, base: Fit, done: Fit, guess: np.ndarray) -> Iterable[HeldOut]:
    """The framework held out, if other devices have rows of it."""
    label, measured = r.labels[held][0], r.measured[held]
    if label in done.blends:
        alone = predict(r.family, base, r.h, r.x[held], r.labels[held])
        parts = tuple(sorted(done.blends[label], key=lambda part: -part.weight))
        yield HeldOut(r.family.name, device, label, errors(alone, measured), errors(guess, measured), parts)


def section(found: Sequence[HeldOut]) -> str:
    """The section as Markdown: means by family, then every framework."""
    titles = {name: family.title for name, family in families().items()}
    lines = ["| family | frameworks | base | known elsewhere | with a near relative | without |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, title in titles.items():
        mine = [h for h in found if h.family == name]
        if mine:
            near, far = [h for h in mine if h.near], [h for h in mine if not h.near]
            lines.append(
                f"| {title} | {len(mine)} | {_mean(h.base for h in mine)} | "
                f"{_mean(h.known for h in mine)} | {_mean(h.known for h in near)} ({len(near)}) | "
                f"{_mean(h.known for h in far)} ({len(far)}) |"
            )
    table = ["| family | device | framework | rows | base | known elsewhere | predicted from |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    table += [
        f"| {titles[h.family]} | {h.device} | {_short(h.framework)} | {h.known.rows} | "
        f"{_median(h.base)} | {_median(h.known)} | {_origins(h.parts)} |"
        for h in found
    ]
    means = "Means over the frameworks (geometric, of their median errors):\n"
    return "\n".join([intro("frameworks"), means, *lines, "\nMedian errors:\n", *table]) + "\n"


def _mean(found: Iterable[Errors]) -> str:
    logs = [np.log(max(e.median_ape, 1e-9)) for e in found]
    return f"{100 * np.exp(np.mean(logs)):.1f} %" if logs else "-"


def _median(e: Errors) -> str:
    return f"{100 * e.median_ape:.1f} %"


def _origins(parts: Sequence[BlendPart]) -> str:
    return ", ".join(f"{_short(part.origin)} {part.weight:.2f}" for part in parts[:3])


def _short(name: str) -> str:
    return name.replace("aiconfigurator/", "")
