"""Carbon of a run's electricity, where the grid's intensity is given: none is assumed."""

from __future__ import annotations

from ...simulator.results.record import Run
from ..show.text import show

JOULES_PER_KWH = 3.6e6


def gco2(joules: float | None, grid_gCO2_per_kWh: float | None) -> float | None:
    """Return the carbon of an amount of energy [gCO2]; None without an intensity or an energy.

    Examples
    --------
    >>> gco2(3.6e6, 400.0), gco2(1.0, None)
    (400.0, None)
    """
    if joules is None or grid_gCO2_per_kWh is None:
        return None
    return joules / JOULES_PER_KWH * grid_gCO2_per_kWh


def carbon_of(run: Run, grid_gCO2_per_kWh: float | None) -> dict[str, float | None]:
    """Return the carbon of an output token and of a request with the run's mean output length [gCO2].

    Only the energy of the devices counts; hosts, cooling and manufacture are not included.
    """
    token = gco2(run.joules_per_token, grid_gCO2_per_kWh)
    mean = run.output_tokens / max(len(run.requests), 1)
    return {"gco2_per_token": token, "gco2_per_request": None if token is None else token * mean}


def carbon_text(run: Run, grid_gCO2_per_kWh: float | None) -> list[str]:
    """Return a sentence on the run's carbon; nothing without an intensity."""
    token, request = carbon_of(run, grid_gCO2_per_kWh).values()
    if token is None or request is None:
        return []
    rate, carbon = show(grid_gCO2_per_kWh), show(1e3 * token)
    text = f"Carbon of the devices' energy at {rate} g/kWh: {carbon} mg an output token, "
    return [f"{text}{show(request)} g a request."]
