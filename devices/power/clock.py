"""Power of a board by its clock: voltage falls with the clock down to a floor, then is constant.

Work at a share `x` of the nominal clock takes ``x v(x)^2`` of the nominal power, with the voltage ``v`` linear in the
clock above a transition and constant below it. An A100 under GROMACS takes 59.6 + 0.0730 f W below 810 of 1,410 MHz and
259.5 W at 1,410 (arXiv 2607.00819, with its data; A40 and L4 have the transition at 0.56 and 0.55 of their clocks):
(259.5 - 59.6) / (118.7 - 59.6) = 3.38 for a clock 1.74 times as high, so that the voltage is 1.39 times as high.
Assumed for every board. Work at the board's limit already runs at `SUSTAINED` of the nominal clock; caps and locked
clocks are relative to it.
"""

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
"""Energy of logic relative to N5 by process, and its source."""


FLOOR = 0.57
"""Share of the nominal clock below which the voltage is constant."""
FLOOR_VOLTAGE = (810.0 / 1410.0 * (259.5 - 59.6) / (118.7 - 59.6)) ** -0.5
"""Voltage at the clock `FLOOR`, relative to the nominal voltage."""
SUSTAINED = 0.81
"""Share of the nominal clock at which products held at the limit run: mean of parameter `sustained` of products of 16 and
of 8 bits on an H100 (``specs/kernels/h100.yaml``: 0.86, 0.80, 0.81 and 0.77, 0.79; one fit ends at its bound). Eight H200 of
MLPerf v4.1 keep 0.81 of Llama-2-70B's rate at 500 W, 0.74 of BERT's at 400 and 0.65 of GPT-J's at 350: 0.84, 0.74, 0.65 here."""


def voltage(clock: float) -> float:
    """Return the voltage at a share of the nominal clock, relative to the nominal voltage.

    Examples
    --------
    >>> round(voltage(1.0), 3), round(voltage(0.785), 3), voltage(0.3) == voltage(FLOOR)
    (1.0, 0.859, True)
    """
    above = max(clock - FLOOR, 0.0) / (1.0 - FLOOR)
    return FLOOR_VOLTAGE + (1.0 - FLOOR_VOLTAGE) * above


def draw(clock: float) -> float:
    """Return the power at a share of the nominal clock over the power of the same work at the nominal one."""
    return clock * voltage(clock) ** 2


def clock_of(share: float) -> float:
    """Return the share of the nominal clock for a share of the power; the inverse of `draw`.

    Examples
    --------
    >>> round(clock_of(1.0), 6), round(draw(clock_of(0.68)), 6), round(clock_of(0.2), 3)
    (1.0, 0.68, 0.389)
    """
    if share <= draw(FLOOR):
        return share / FLOOR_VOLTAGE**2
    low, high = FLOOR, 1.0
    for _ in range(60):  # to the last digit
        middle = (low + high) / 2
        low, high = (middle, high) if draw(middle) < share else (low, middle)
    return high


def capped_clock(share: float) -> float:
    """Return the rate of work under a cap, over its rate at the board's limit.

    `share` is the cap's share of the power between idle and limit.

    Examples
    --------
    >>> round(capped_clock(1.0), 6), round(capped_clock(0.68), 3)
    (1.0, 0.837)
    """
    return clock_of(share * draw(SUSTAINED)) / SUSTAINED


def capped_energy(rate: float) -> float:
    """Return the energy of work at a share of its rate at the limit, over its energy at the limit."""
    return (voltage(rate * SUSTAINED) / voltage(SUSTAINED)) ** 2
