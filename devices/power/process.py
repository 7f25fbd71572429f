"""Energy of logic by process, from the foundries' own values."""

from __future__ import annotations

PROCESS: dict[str, tuple[float, str]] = {
    "N7": (1.0 / 0.7, "N5 takes 30 % less power than N7 at equal speed (TSMC, as reported 2019)"),
    "N6": (1.0 / 0.7, "assumed: as N7, whose design rules it keeps"),
    "8N": (1.0 / 0.7, "assumed: as N7; Samsung gives no comparison with it"),
    "N5": (1.0, "the unit"),
    "4N": (1.0, "assumed: as N5; NVIDIA names it a 5 nm-class process and gives no value"),
    "4NP": (1.0 / 1.22, "assumed: as N4P, 22 % more efficient than N5 (TSMC, 26 October 2021)"),
    "N3P": (0.7, "assumed: as N3, 25 to 30 % less power than N5 at equal speed (TSMC)"),
}
"""Energy of logic relative to N5, and its source."""
