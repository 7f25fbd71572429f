"""Measured rows behind a predicted time: number, format, distance and error.

`devices/specs/evidence/SET.csv` has the errors of a set's parameters on its rows by cell: family, framework, number
format, and the sizes of a call to the nearest power of `BASE`. A result uses the cells around its calls. `opbyte
validate kernels --out` regenerates the files (`analysis.validate.behind`). A time without rows of its own device,
format and size also has the error of a transfer (`TRANSFER`, by family): of rows by another silicon's parameters, for
the same silicon (`KIN`) of the medians of two devices. A device without a set has the errors of devices left out, with
a set of their silicon left (`NEAR_SET`) or without (`FAR_SET`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..ratios import Ratios, Z
from ..spec import DeviceSpec
from .family import F8, Family
from .hardware import FORMATS, HARDWARE, hardware
from .kernel_sets import alike, load_set, owner, parents_of
from .rules import LINKS

I8 = npt.NDArray[np.int64]
LINK = (HARDWARE.names or ()).index("link_bandwidth")
"""Its column in `_constants`: the fields before it are single numbers."""
BASE = 8.0
SPANS: Mapping[str, tuple[str, ...]] = {
    "gemm": ("m", "n", "k"), "norm": ("rows", "cols"), "allreduce": ("bytes", "ranks"),
    "collectives": ("bytes", "ranks"), "attention_prefill": ("batch", "q", "kv", "heads_q"),
    "attention_decode": ("batch", "keys", "heads_q", "heads_kv"),
    "mla": ("batch", "q", "kv", "heads"), "moe": ("slots", "hidden", "inter", "active_experts"),
}  # fmt: skip
"""Quantities of a family that determine the distance of a call from a measured one; families without an entry have
none."""
ANY = "any"
"""Format name of families without formats."""
NEAR = 1.0
"""Distance up to which cells count as near: about a factor of 8 in every size."""
APART = "no row is within about a factor of 8 in every size"
ENOUGH = 20
"""Minimum number of rows behind a printed error, if there are as many."""
TRANSFER, KIN, NEAR_SET, FAR_SET = "transfer", "kin", "near", "far"
ALIKE = 2.0
"""Largest ratio of the constants of two devices of one silicon that need no transfer: H100, H200 and H20 differ by 1.4
to 1.7."""


@dataclass(frozen=True, slots=True)
class Behind:
    """Evidence of the predicted time of one call.

    Attributes
    ----------
    rows : int
        Measured rows of the family and framework, of the silicon, in the format asked for.
    others : mapping of str to int
        Rows in other formats.
    near : int
        Number of `rows` within about a factor of 8 in every size.
    distance : float
        Factor between the call and the nearest row of its format in the size that is furthest; 1
        inside of the rows, infinite without a row.
    ratios : Ratios
        Errors of similar predictions.
    why : str
        Why parameters are transferred, else empty.
    beyond : str
        What of the call lies outside the measured rows of its format: a size beyond all cells, or all
        sizes together, where no row is near; empty for a call inside.
    """

    rows: int
    others: Mapping[str, int]
    near: int
    distance: float
    ratios: Ratios
    why: str
    beyond: str = ""


@dataclass(frozen=True, slots=True)
class _Cells:
    """Cells of one family, framework and format: positions (n, sizes), rows (n,), ratios (n, 3)."""

    at: I8
    rows: I8
    ratios: F8

    def pooled(self, chosen: npt.NDArray[np.bool_]) -> Ratios:
        """Return the quantiles of all rows of some cells; the rows of a cell are distributed by its quantiles."""
        z = np.array([-2.0, -Z, -0.84, -0.52, -0.25, 0.0, 0.25, 0.52, 0.84, Z, 2.0])
        q, rows = self.ratios[chosen], self.rows[chosen]
        side = np.where(z < 0, q[:, 1:2] - q[:, 0:1], q[:, 2:3] - q[:, 1:2])
        values = (q[:, 1:2] + side * z / Z).ravel()
        weight = np.repeat(rows, len(z)).astype(float)
        order = np.argsort(values, kind="stable")
        below = np.cumsum(weight[order]) - weight[order] / 2
        low, middle, high = np.interp([0.1, 0.5, 0.9], below / weight.sum(), values[order])
        return Ratios(float(low), float(middle), float(high))


def folder() -> Path:
    """Return the folder of the catalog's evidence files."""
    return Path(str(files("opbyte.devices") / "specs" / "evidence"))


@cache
def _read(name: str) -> dict[tuple[str, str], dict[str, _Cells]]:
    """Return a set's cells by family and framework, then by format."""
    path = folder() / f"{name}.csv"
    if not path.exists():
        return {}
    grouped: dict[tuple[str, str, str], list[list[int]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        family, framework, format_, place, *numbers = line.split(",")
        row = [*map(int, place.split("/")), *map(int, numbers)]
        grouped.setdefault((family, framework, format_), []).append(row)
    out: dict[tuple[str, str], dict[str, _Cells]] = {}
    for (family, framework, format_), rows in grouped.items():
        table = np.array(rows, dtype=np.int64)
        cells = _Cells(table[:, :-4], table[:, -4], table[:, -3:] / 100.0)
        out.setdefault((family, framework), {})[format_] = cells
    return out


@cache
def transferred(family: str, whose: str = "typical") -> Ratios:
    """Return the transfer errors of a family; `whose` selects `KIN`, `NEAR_SET` or `FAR_SET` if they are known."""
    read = _read(TRANSFER)
    cells = read.get((family, whose)) or read.get((family, "typical"), {})
    if ANY not in cells:
        return Ratios(-0.5, 0.0, 0.5)
    low, middle, high = cells[ANY].ratios[0]
    return Ratios(low - middle, 0.0, high - middle)


def places(family: Family, inputs: F8) -> F8:
    """Return the positions of calls among the cells, shape (n, sizes), not rounded."""
    columns = [family.quantities.index(name) for name in SPANS.get(family.name, ())]
    out: F8 = np.log(np.maximum(inputs[:, columns], 1.0)) / np.log(BASE)
    return out


def formats_of(family: Family, inputs: F8) -> list[str]:
    """Return the number format of each call."""
    if "format" not in family.quantities:
        return [ANY] * len(inputs)
    return [FORMATS[int(code)] for code in inputs[:, family.quantities.index("format")]]


def behind(spec: DeviceSpec, family: Family, framework: str, inputs: F8) -> Behind:
    """Return the evidence of one call on a device under a framework.

    Parameters
    ----------
    inputs : float64 array, shape (quantities,)

    """
    if spec.kernels is None:
        far = transferred(family.name, NEAR_SET if alike(spec, family) else FAR_SET)
        return Behind(0, {}, 0, np.inf, far, "the mean of other silicon's kernels")
    whose = owner(spec.kernels, family.name)
    read = _read(whose)
    cells_held = read.get((family.name, framework), read.get((family.name, "typical"), {}))
    moved, kin = _moved(spec, family.name, framework, whose)
    format_, at = formats_of(family, inputs[None])[0], places(family, inputs[None])[0]
    others = {f: int(c.rows.sum()) for f, c in cells_held.items() if f != format_}
    cells = cells_held.get(format_)
    if cells is None:  # another format's rows say how the kernels run, not how these do
        most = cells_held.get(max(others, key=lambda f: others[f])) if others else None
        pooled = None if most is None else most.pooled(np.ones(len(most.rows), dtype=bool))
        far = transferred(family.name)
        return Behind(0, others, 0, np.inf, far if pooled is None else pooled.wider(far),
                      moved or ("" if others else "no measured rows"), _unmeasured(others))  # fmt: skip
    distances = np.abs(cells.at - at).max(axis=1, initial=0.0)
    near = distances <= NEAR
    reach = max(NEAR, float(_reach(distances, cells.rows)))
    ratios = cells.pooled(distances <= reach)
    distance = float(BASE ** max(distances.min() - 0.5, 0.0))
    if moved or not near.any():
        ratios = ratios.wider(transferred(family.name, KIN if kin and near.any() else "typical"))
    return Behind(
        int(cells.rows.sum()), others, int(cells.rows[near].sum()), distance, ratios, moved,
        _beyond(family, inputs, at, cells.at) or ("" if near.any() else APART),
    )  # fmt: skip


def _unmeasured(others: Mapping[str, int]) -> str:
    """Return the reason that no row has the format."""
    return f"measured in {', '.join(others)} only" if others else "never measured"


def _beyond(family: Family, inputs: F8, at: F8, cells: I8) -> str:
    """Return the sizes of a call that are outside the cells of all rows; empty if none is."""
    low, high = cells.min(axis=0) - 0.5, cells.max(axis=0) + 0.5
    lines = [
        f"{name} {inputs[family.quantities.index(name)]:,.0f}, measured about {_round(BASE**a)} to {_round(BASE**b)}"
        for name, place, a, b in zip(SPANS.get(family.name, ()), at, low, high, strict=True)
        if not a <= place <= b
    ]
    return "; ".join(lines)


def _round(size: float) -> str:
    """Return a size rounded to two digits, at least 1."""
    return f"{float(f'{max(size, 1.0):.2g}'):,.0f}"


def _reach(distance: F8, rows: I8) -> float:
    """Return the distance within which there are `ENOUGH` rows, or all rows."""
    order = np.argsort(distance, kind="stable")
    last = int(np.searchsorted(np.cumsum(rows[order]), ENOUGH))
    return float(distance[order][min(last, len(order) - 1)])


def _moved(spec: DeviceSpec, family: str, framework: str, whose: str) -> tuple[str, bool]:
    """Return the reason why a device's parameters are transferred, and whether they are of its silicon."""
    entry = load_set(whose).find(family, framework)
    if entry is None or entry.basis == "transferred":
        return "no rows of these kernels on its silicon", False
    timed = _timed(whose, family)
    if not timed:
        return "no measured rows", False
    constants, rows = _constants(spec), np.array([*timed.values()])
    if np.isclose(constants, rows, rtol=0.01).all(axis=1).any():
        return "", True
    near = np.maximum(constants, rows) <= ALIKE * np.minimum(constants, rows)
    near[:, LINK] |= family not in LINKS
    return f"timed on {', '.join(timed)}, not on this device", bool(near.all(axis=1).any()) and spec.kernels is not None


def _constants(spec: DeviceSpec) -> F8:
    """Return a device's constants as one vector, in the order of `HARDWARE`."""
    return np.frombuffer(hardware(spec).tobytes())


@cache
def _timed(whose: str, family: str) -> dict[str, F8]:
    """Return the catalog devices with rows of a family in a set, and their `_constants`."""
    from ..catalog import fitted_devices, load_device

    specs = (load_device(device)[0] for device in fitted_devices())
    return {
        spec.name: _constants(spec)
        for spec in specs
        if family in spec.calibration and (spec.kernels == whose or parents_of(family).get(str(spec.kernels)) == whose)
    }
