"""Power limit of a board: the board lowers its clock to meet the limit."""

from __future__ import annotations

from dataclasses import dataclass

from ..option import CheckedOptions, described, real
from ..part import Part


@described
@dataclass(frozen=True, slots=True)
class PowerOptions(CheckedOptions):
    """Limits of power and clock."""

    power_cap: float | None = real(
        "Power limit of each board; the clock falls until it is met. Default: the board's own limit.",
        1.0,
        1e5,
        unit="W",
    )
    clock: float | None = real("Locked clock of the cores. Default: not locked.", 1.0, 1e5, unit="MHz")


PARTS = (
    Part(
        "power-cap",
        "--power-cap",
        "a board's limit, for which its clock falls",
        options=PowerOptions,
        scope="deployment",
        page="power",
        tests=("analysis/test_validate_power",),
        also=("engine/work_log", "fleet/run_state"),
    ),
)
