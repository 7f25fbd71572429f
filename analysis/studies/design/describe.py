"""`opbyte design describe`: area, power and cost of a device, and of the catalog's against what is published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....devices.catalog import device_aliases, list_devices, load_device, load_system
from ....devices.silicon.constants import constants
from ....devices.silicon.describe import Estimate, Silicon, silicon_of
from ....devices.spec import DeviceSpec
from ...answers.description import spaces
from ...show.result import Result
from ...show.text import Blocks, Records, Rows, show
from .engines import engine_space

WITHIN = 0.15
"""Tolerance of a re-derived area or power limit."""
UNITS = {"area_mm2": "mm2", "watts": "W", "usd": "USD"}


@dataclass(frozen=True, slots=True)
class DescribedDevice(Result):
    """Estimated area, power and cost of one device; see `design_describe`."""

    device: DeviceSpec
    silicon: Silicon

    def to_dict(self) -> dict[str, Any]:
        units = {name: getattr(self.silicon, name).to_dict() for name in UNITS}
        return {"device": self.device.name, **units}

    def rows(self) -> Rows:
        return component_rows(self.silicon)

    def blocks(self) -> Blocks:
        lines = []
        for name, unit in UNITS.items():
            estimate: Estimate = getattr(self.silicon, name)
            if estimate.value is None or estimate.interval is None:
                lines.append(estimate.why)
                continue
            low, high = estimate.interval
            text = f"{show(estimate.value)} {unit} ({show(low)} to {show(high)}); {estimate.why}"
            lines.append(f"{name}: {text}")
        title = f"{self.device.name}: {self.device.title or 'no title'}"
        return [title, *lines, self.rows()]

    def headline(self) -> str:
        known = ((getattr(self.silicon, n).value, unit) for n, unit in UNITS.items())
        text = ", ".join(f"{show(v)} {unit}" for v, unit in known if v is not None)
        return f"{self.device.name} takes {text or 'nothing that is known'}."


def component_rows(silicon: Silicon) -> Records:
    """Return area, power and cost of a device by component."""
    out: Records = []
    for name, unit in UNITS.items():
        estimate: Estimate = getattr(silicon, name)
        for part, value in estimate.parts.items():
            share = f"{value / estimate.value:.1%}" if estimate.value else "-"
            out.append({"of": name, "part": part, "value": value, "unit": unit, "share": share})
    return out


@dataclass(frozen=True, slots=True)
class CheckedProducts(Result):
    """The catalog's products, re-derived, against what is published; see `design_describe`."""

    table: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        return {"within": WITHIN, "rows": [dict(row) for row in self.table],
                "held": {name: self._held(name) for name in ("area", "watts", "usd")}}  # fmt: skip

    def rows(self) -> Rows:
        percent = ("area_error", "watts_error", "usd_error")
        return [
            {k: (f"{v:+.1%}" if k in percent and v is not None else v) for k, v in row.items()} for row in self.table
        ]

    def _held(self, name: str) -> str:
        errors = [row[f"{name}_error"] for row in self.table if row[f"{name}_error"] is not None]
        return f"{sum(abs(e) <= WITHIN for e in errors)} of {len(errors)}"

    def blocks(self) -> Blocks:
        text = ", ".join(f"{name} {self._held(name)}" for name in ("area", "watts", "usd"))
        return [
            f"Within {WITHIN:.0%} of what is published: {text}. Cost is compared with analysts' estimates.",
            self.rows(),
        ]


def design_describe(device: str | Path | None = None) -> DescribedDevice | CheckedProducts:
    """Estimate area, power at full load and cost of a device, or of all products as a check.

    Parameters
    ----------
    device : str or Path, optional
        A device, a system or a space, by name or YAML file; without it every product of the catalog is compared with
        its published values.

    Raises
    ------
    InputError
        No such device.
    """
    if device is not None:
        spec = device_of(device)
        return DescribedDevice(spec, silicon_of(spec))
    return CheckedProducts(tuple(_checked(name) for name in constants().products))


def device_of(name: str | Path) -> DeviceSpec:
    """Return a device, the device of a system, or the device of a space at the values in its file.

    Raises
    ------
    InputError
        No such device, system or space.
    """
    if str(name).lower() in {*list_devices(), *device_aliases()}:
        return load_device(name)[0]
    path = Path(spaces().get(str(name), name))
    engines = engine_space(path) if path.is_file() else None
    return (
        load_device(engines.board)[0] if engines is not None else load_system(path if path.is_file() else name).device
    )


def _checked(name: str) -> dict[str, Any]:
    spec, _ = load_device(name)
    silicon, known = silicon_of(spec), constants()
    assert spec.silicon is not None
    areas = [known.dies[d.like].area_mm2 if d.like and d.node is None and d.cores is None else None
             for d in spec.silicon.dies]  # fmt: skip
    areas_of = [a * d.count for a, d in zip(areas, spec.silicon.dies, strict=True) if a is not None]
    area = sum(areas_of) if len(areas_of) == len(areas) else None
    row: dict[str, Any] = {"device": name}
    published = {"area": area, "watts": spec.limit_W, "usd": known.published_USD.get(name)}
    values = silicon.values()
    for label, key in (("area", "area_mm2"), ("watts", "watts"), ("usd", "usd")):
        value, pair = values[key], published[label]
        row |= {key: value, f"published_{key}": pair}
        row[f"{label}_error"] = value / pair - 1 if value and pair else None
    return row
