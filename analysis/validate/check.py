"""What validations share: checks with their verdicts, and one family of kernels on one device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...devices.calibrated.calibrate import Rows
from ...devices.calibrated.errors import Errors
from ...devices.fits import BoundsSpec
from ...workloads.kernel_tables import Skipped, Table
from ..show.result import Result, skipped_remarks
from .unequal import within

WORDS = {"n": "rows", "median_ape": "median error", "p90_ape": "9 of 10 within", "bound": "at most"}


def for_people(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose numbers other than counts are fractions: as percentages, in columns that people read.

    Examples
    --------
    >>> for_people([{"n": 5, "read_median_ape": 0.047, "median_bias": -0.01, "p90_ape_bound": None}])
    [{'rows': 5, 'read median error': '4.7%', 'median bias': '-1.0%', '9 of 10 within at most': None}]
    """

    def name(key: str) -> str:
        for old, new in WORDS.items():
            key = f"_{key}_".replace(f"_{old}_", f"_{new}_").strip("_")
        return key.replace("_", " ")

    def told(key: str, x: Any) -> Any:
        return f"{x:{'+' if 'bias' in key else ''}.1%}" if isinstance(x, float) else x

    return [{name(k): told(k, x) for k, x in row.items()} for row in rows]


class Compared(Result):
    """A validation with a field `skipped`: what of its input was left out."""

    __slots__ = ()
    skipped: Sequence[Any]

    def remarks(self) -> Sequence[str]:
        return skipped_remarks(self.skipped)


class Checked(Compared):
    """A validation with a field `checks`, each with a verdict `passed`."""

    __slots__ = ()
    checks: Sequence[Any]

    @property
    def passed(self) -> bool:
        """No check is past its bounds, and something was checked."""
        return bool(self.checks) and all(check.passed is not False for check in self.checks)


def left_out(skipped: Sequence[Skipped]) -> list[dict[str, Any]]:
    """Rows and files that were not used, as answers tell of them."""
    return [{"file": s.file, "line": s.line or None, "reason": s.reason} for s in skipped]


def percent(value: Any, sign: str = "") -> str:
    """A fraction for people."""
    return "-" if value is None else f"{value:{sign}.1%}"


@dataclass(frozen=True, slots=True)
class KernelCheck:
    """One family on one device.

    Attributes
    ----------
    basis : str
        Where the parameters come from: "fitted", "transferred" or "default".
    bounds : BoundsSpec or None
        Errors committed in the device's YAML; None where it has no fit.
    held : Errors or None
        Of the rows that the bounds are for; None without any. Collectives tell of the machine as much as
        of the device: those of other sources than the fit's are compared, and break no bound.
    interval : tuple of float, optional
        10th, 50th and 90th percentile of measured over predicted that other devices left out say.
    held_in : float, optional
        Share of the rows inside of it.
    """

    rows: Rows
    device: str
    predicted: npt.NDArray[np.float64]
    errors: Errors
    basis: str
    bounds: BoundsSpec | None
    held: Errors | None
    seen: int
    interval: tuple[float, float, float] | None = None
    held_in: float | None = None

    @property
    def family(self) -> str:
        return self.rows.family.name

    @property
    def title(self) -> str:
        return self.rows.family.title

    @property
    def table(self) -> Table:
        return self.rows.table

    @property
    def measured(self) -> npt.NDArray[np.float64]:
        """Seconds of each row."""
        return self.rows.measured

    @property
    def passed(self) -> bool | None:
        """Whether the errors are within the bounds; None without bounds."""
        return None if self.held is None else within(self.held, self.bounds)
