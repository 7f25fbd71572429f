"""Predicted against measured kernel times (``opbyte validate kernels``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...devices.calibrated.calibrate import FamilyRows, MeasuredRows, by_device, device_named
from ...devices.calibrated.family import F8
from ...devices.calibrated.fit import predict
from ...devices.calibrated.hardware import C_16, CODES
from ...devices.calibrated.kernel_sets import layer_parameters
from ...devices.calibrated.layer_kernels import LAYER_FAMILIES, split_layers
from ...devices.calibrated.rules import LINKS, parameters
from ...devices.catalog import load_device
from ...devices.device import build_device
from ...devices.hosts.catalog import load_host
from ...devices.hosts.links import HostedLinks
from ...devices.lines import BoundsSpec
from ...devices.spec import DeviceSpec
from ...workloads.errors import InputError
from ...workloads.kernel_schemas import SCHEMAS
from ...workloads.kernel_tables import Skipped, read_tables
from ..parallel import OnProgress
from ..show.output import SIGNIFICANT, OutputFolder
from ..show.result import Drawing
from ..show.text import Blocks
from .behind import by_others, with_intervals
from .check import Check, Checked, left_out
from .unequal import COMPARED, NAME, skew_checks

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


SHOWN = ("attention_decode", "attention_prefill", "moe")
"""Families with the largest variation of work per byte, for the plot."""
OF_FORMAT = ("gemm", "grouped_gemm", "moe", "attention_prefill")
"""Families that multiply in the number format of a row; others convert to 16 bits first."""


def fractions(checks: Iterable[Check]) -> pd.DataFrame:
    """Return measured and predicted fractions of the roofline, one row per measurement.

    Returns
    -------
    DataFrame
        device, family, title, op_per_byte [FLOP/B of the operands moved once], roofline_s (the longer
        of arithmetic at the format's nominal peak and memory at the nominal bandwidth), measured and
        predicted (roofline_s over the time; above 1 where a cache held what a repeated call read).
    """
    import pandas as pd

    parts = []
    for check in checks:
        if check.family not in SHOWN or check.rows is None:
            continue
        h, table = check.rows.h, check.table
        compute, memory, _ = check.rows.family.floors(h, check.rows.x)
        named = [CODES[name] for name in table["dtype"]]
        code = np.array(named if check.family in OF_FORMAT else [C_16] * len(table), dtype=np.int64)
        roof = np.maximum(compute, memory)
        parts.append(
            pd.DataFrame({
                "device": check.device, "family": check.family, "title": check.title,
                "op_per_byte": compute * h.peak[code] / (memory * h.bandwidth),
                "roofline_s": roof, "measured": roof / check.measured,
                "predicted": roof / check.predicted,
            })
        )  # fmt: skip
    columns = ("device", "family", "title", "op_per_byte", "roofline_s", "measured", "predicted")
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(columns))


CAPTION = (
    "Left: one point a measured row; in the grey band the prediction is within a factor 1.5. Right: "
    "the error, predicted / measured - 1, over the measured time and by source."
)


FRACTIONS = (
    "Time at nominal peak and bandwidth over the measured time, a point a call; above the dotted line a "
    "cache held what repeated calls read, grey calls are short. Full lines: medians of what was measured; "
    "dashed: of what the models say of the same calls."
)


@dataclass(frozen=True, slots=True)
class KernelValidation(Checked):
    """Errors of the kernel models by family and device, and the rows that were not used."""

    FILE = "kernels.json"
    TABLES = (("predictions.csv", "predictions", SIGNIFICANT),)

    checks: Sequence[Check]
    skipped: Sequence[Skipped]
    described: DeviceSpec | None = None

    @property
    def seen(self) -> int:
        """Return the number of rows from sources that the models were fitted to."""
        return sum(check.seen for check in self.checks)

    def blocks(self) -> Blocks:
        out: Blocks = [self.rows(), f"{len(self.skipped)} rows or files skipped"]
        if self.seen:
            every = sum(check.errors.rows for check in self.checks)
            out.append(
                f"{self.seen:,} of {every:,} rows are of sources that these models were fitted to: "
                "their errors are of a fit; docs/calibration.md has those on unseen shapes"
            )
        return out

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": self.records(), "fitted_rows": self.seen, "skipped": left_out(self.skipped),
            "passed": self.passed,
        }  # fmt: skip

    def predictions(self) -> dict[str, npt.NDArray[Any]]:
        """Return a table of all rows as columns: file, line, shape as text, measured and predicted time [s], and others."""
        parts: dict[str, list[npt.NDArray[Any]]] = {}
        for check in self.checks:
            table = check.table
            names = SCHEMAS[table.family].shape
            shape = [
                " ".join(
                    f"{n}={v:g}" if isinstance(v, float) else f"{n}={v}" for n, v in zip(names, values, strict=True)
                )
                for values in zip(*(table[n].tolist() for n in names), strict=True)
            ]
            count = len(table)
            columns = {
                "file": table.file, "line": table.line,
                "family": np.full(count, table.family, dtype=object),
                "source": table["source"],
                "device": np.full(count, check.device, dtype=object),
                "kernel": table["kernel"], "dtype": table["dtype"], "timing": table["timing"],
                "shape": np.array(shape, dtype=object),
                "basis": np.full(count, check.basis, dtype=object),
                "measured_s": check.measured, "predicted_s": check.predicted,
                "error": check.predicted / check.measured - 1.0,
            }  # fmt: skip
            for name, values in columns.items():
                parts.setdefault(name, []).append(values)
        return {name: np.concatenate(values) for name, values in parts.items()}

    def write(self, folder: OutputFolder) -> None:
        """Write the result, one plot per family, and the files of `devices/specs/evidence`."""
        from .behind import evidence_files

        for name, drawing in zip((*self.families(), "fractions"), self.drawings(), strict=False):
            folder.figure(f"{name}.png", drawing.figure)
        for name, text in evidence_files(self.found()).items():
            folder.text(f"evidence-{name}.csv", text)
        Checked.write(self, folder)

    def drawings(self) -> list[Drawing]:
        """Return one plot of errors per family, and one of roofline fractions if there are rows for it."""
        import pandas as pd

        from ..plots import kernel_errors

        rows, out = pd.DataFrame(self.predictions()), []
        rows = rows[~rows["basis"].isin(COMPARED)]
        titles = {check.family: check.title for check in self.checks}
        for name in self.families():
            title = f"Predicted and measured time: {titles[name]}"
            out.append(Drawing(kernel_errors(rows[rows["family"] == name], title), CAPTION))
        if set(self.families()) & set(SHOWN):
            out.append(Drawing(self.figure(), FRACTIONS))
        return out

    def figure(self) -> Figure:
        """Plot the fractions of their roofline that attention and experts reach, by Op/B."""
        from ..plots import roofline_fractions

        return roofline_fractions(fractions(self.checks), "Fraction of the roofline by Op/B")

    def found(self) -> MeasuredRows:
        """Return each device's description with its rows by family, as `calibrate.by_device` does."""
        out: MeasuredRows = {}
        for check in self.checks:
            if check.rows is None:
                continue
            families = out.setdefault(check.device, (device_named(check.device, self.described), {}))
            families[1][check.rows.family.name] = check.rows
        return out

    def families(self) -> list[str]:
        """Return the names of the checked families, in the order of `checks`."""
        return list(dict.fromkeys(c.family for c in self.checks))

    def headline(self) -> str:
        """Return a sentence with the number of rows, and the smallest and the largest median error of a check."""
        if not self.checks:
            return "Nothing was compared."
        away = sorted(self.checks, key=lambda c: c.errors.median_ape)
        best, worst = away[0], away[-1]
        late = sum(check.passed is False for check in self.checks)
        return (
            f"{sum(c.errors.rows for c in away):,} rows: the median error of a family on a device is "
            f"from {best.errors.median_ape:.1%} ({best.family} on {best.device}) to "
            f"{worst.errors.median_ape:.1%} ({worst.family} on {worst.device}); {late} past bounds."
        )

    def report_title(self) -> str:
        return "Kernel times, predicted and measured"


def validate_kernels(
    tables: Iterable[str | Path] = (),
    *,
    family: str | None = None,
    transfer: bool = False,
    device: str | None = None,
    progress: OnProgress | None = None,
) -> KernelValidation:
    """Compare the kernel models with measured tables.

    Tables name a device by its catalog name or an alias. A device without a fit has the parameters of similar devices.

    Parameters
    ----------
    tables : paths
        Tables, or folders of them; by default the tables of the package.
    family : str, optional
        Kernel family of all tables; by default each file's name gives it.
    transfer : bool
        Predict each device from the other kernel sets only, with an interval from the errors of other devices.
    device : str, optional
        File of one more device, which the tables name by its name or an alias.
    progress : callable, optional
        Called with (families of devices done, in total).

    Raises
    ------
    InputError
        A path that does not exist, a file that is not a kernel table, or no row with a time.
    """
    read, skipped = read_tables(list(tables) or [own_tables()], family=family)
    split_layers(read)
    skewed = read.pop(NAME, None)
    checks: list[Check] = []
    described = None if device is None else load_device(device)[0]
    by_name = by_device(read, skipped, described)
    total = sum(len(measured) for _, measured in by_name.values())
    for name, (spec, measured) in sorted(by_name.items()):
        for rows in measured.values():
            if not transfer:
                checks.append(_check(name, spec, rows))
            elif rows.family.kinds:
                checks.append(by_others(name, spec, rows))
            if progress is not None:
                progress(len(checks), total)
    if transfer:
        checks = with_intervals(checks)
    elif skewed is not None:
        checks += skew_checks(skewed, skipped)
    if not checks and skipped:
        hint = "; --device FILE describes your device" if "unknown device" in str(skipped[0]) else ""
        raise InputError("TABLES", f"hold no row that can be compared; {skipped[0]}{hint}")
    order = sorted(checks, key=lambda c: (c.family, c.device))
    return KernelValidation(order, skipped, described)


def own_tables() -> Path:
    """Return the folder of the measured tables in the package."""
    from importlib.resources import files

    return Path(str(files("opbyte.kernels") / "measured"))


def _check(name: str, spec: DeviceSpec, rows: FamilyRows) -> Check:
    if rows.family.name in LAYER_FAMILIES:
        return _layer_check(name, spec, rows)
    known, fits = parameters(spec, rows.family), spec.calibration.get(rows.family.name)
    basis = known.basis
    predicted = predict(rows.family, known.fit, rows.h, rows.x, rows.labels)
    if fits is None and spec.host is not None and rows.family.name in LINKS:
        basis, predicted = f"host {spec.host}", _hosted(spec, rows)
    seen = np.isin(rows.table["source"].astype(str), [] if fits is None else fits.tables)
    mask = seen if fits is not None and rows.family.name in LINKS else np.full(len(predicted), True)
    bounds = None if fits is None else fits.bounds
    return _checked(name, rows, basis, predicted, bounds, mask, int(seen.sum()))


def _checked(
    name: str, rows: FamilyRows, basis: str, predicted: F8, bounds: BoundsSpec | None, bounded: npt.NDArray[np.bool_] | None,
    seen: int,
) -> Check:  # fmt: skip
    family = rows.family
    return Check(
        family.name, family.title, name, basis, rows.table, predicted, rows.measured, bounds, bounded, seen, rows
    )


def _layer_check(name: str, spec: DeviceSpec, rows: FamilyRows) -> Check:
    """Check a kernel of sparse or recurrent layers; its bounds are the errors of its set's fits with a margin."""
    known = layer_parameters(spec, rows.family)
    predicted = predict(rows.family, known.fit, rows.h, rows.x, rows.labels)
    seen = [known.under[label].errors["fit"] for label in set(rows.labels.tolist())
            if "fit" in known.under[label].errors]  # fmt: skip
    bounds = None
    if seen and known.basis == "fitted":
        median, tail = (1.25 * max(getattr(e, what) for e in seen) + 0.02 for what in ("median_ape", "p90_ape"))
        bias = 2.0 * max(abs(e.median_bias) for e in seen) + 0.05
        bounds = BoundsSpec(median_ape=median, p90_ape=tail, median_bias=bias)
    return _checked(name, rows, known.basis, predicted, bounds, None, len(predicted))


def _hosted(spec: DeviceSpec, rows: FamilyRows) -> npt.NDArray[np.float64]:
    """Return the times of collectives on a device without a fit, from the description of its host class [s]."""
    assert spec.host is not None
    host = load_host(spec.host)[0]
    links = build_device(spec, calibrated=True, host=host, assumed=True).collectives
    assert isinstance(links, HostedLinks)
    return links.of_family(rows.family, rows.x)
