"""Names of latencies: a quantity and a percentile, ``ttft_p95`` in limits and ``ttft_s_p95`` in tables.

Only this module parses them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from .errors import InputError

MEASURES = {
    "ttft": "time to first token",
    "tbt": "time between tokens",
    "tpot": "time per output token",
    "e2e": "end to end",
    "client_ttft": "time to first token, seen by the client",
    "client_e2e": "end to end, seen by the client",
}
"""Latencies that the engine and its clients measure, and their meaning."""
QUANTILES = ("mean", "p50", "p90", "p99")
"""Statistics of each latency that every result contains."""
_NAME = re.compile(rf"({'|'.join(MEASURES)})(?:_s)?_(mean|p-?[\d.]+)")
_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d)?)")


class Latency(NamedTuple):
    """A parsed name of a latency, such as ``ttft_p95``."""

    measure: str
    quantile: str
    share: float | None  # of the values below it; None of the mean
    column: str  # its name in tables


def share_of(name: str) -> float | None:
    """Return the share of values below a percentile; None for other statistics, such as the mean.

    Examples
    --------
    >>> share_of("p95"), share_of("p99.9"), share_of("mean"), share_of("p100")
    (0.95, 0.999, None, None)
    """
    match = _PERCENTILE.fullmatch(name)
    share = round(float(match[1]) / 100, 3) if match else 0.0
    return share or None


def check_quantile(text: str, where: str) -> str:
    """Return a percentile in the spelling of tables; "mean" stays as it is.

    Raises
    ------
    InputError
        No percentile from p0.1 to p99.9 to one decimal.

    Examples
    --------
    >>> check_quantile("p95", "x"), check_quantile("p99.90", "x"), check_quantile("99.9", "x")
    Traceback (most recent call last):
    opbyte.workloads.errors.InputError: x: 'p99.90' must be a percentile from p0.1 to p99.9, to one decimal
    """
    share = share_of(text)
    if text != "mean" and share is None:
        raise InputError(where, f"{text!r} must be a percentile from p0.1 to p99.9, to one decimal")
    return "mean" if share is None else f"p{100 * share:g}"


@cache
def latency_of(name: str) -> Latency | None:
    """Parse a latency's name as in limits or tables; return None for other names.

    Raises
    ------
    InputError
        A latency's name with a percentile that is none.

    Examples
    --------
    >>> latency_of("ttft_p95"), latency_of("requests")
    (Latency(measure='ttft', quantile='p95', share=0.95, column='ttft_s_p95'), None)
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    quantile = check_quantile(match[2], name)
    return Latency(match[1], quantile, share_of(quantile), f"{match[1]}_s_{quantile}")


def column_of(name: str) -> str:
    """Return the column name of a value: a latency's name gets its unit, other names are unchanged.

    >>> column_of("ttft_p95"), column_of("requests")
    ('ttft_s_p95', 'requests')
    """
    latency = latency_of(name)
    return name if latency is None else latency.column


class Names(frozenset[str]):
    """Names of a result's values, including every percentile of each latency."""

    def __contains__(self, name: object) -> bool:
        return frozenset.__contains__(self, name) or latency_of(str(name)) is not None


def read_quantiles(text: object, where: str = "--percentiles") -> tuple[str, ...]:
    """Parse comma-separated percentiles or one number, and return them sorted with `QUANTILES`. None and "" add none.

    Examples
    --------
    >>> read_quantiles("99.9, p95")
    ('mean', 'p50', 'p90', 'p95', 'p99', 'p99.9')
    >>> read_quantiles(95)
    ('mean', 'p50', 'p90', 'p95', 'p99')
    """
    words = [] if text in (None, "") else str(text).split(",")
    asked = [check_quantile(f"p{part.strip().removeprefix('p')}", where) for part in words]
    return tuple(sorted({*QUANTILES, *asked}, key=lambda q: share_of(q) or 0.0))


def asked_of(names: Iterable[str], also: object = None, where: str = "") -> str | None:
    """Return the percentiles beyond `QUANTILES` that names and a text ask for, comma-separated.

    >>> asked_of(["ttft_s_p95", "tpot_s_p99", "requests"], "p99.9")
    'p95,p99.9'
    """
    asked = {*read_quantiles(also, where), *(latency.quantile for name in names if (latency := latency_of(name)))}
    return ",".join(sorted(asked - {*QUANTILES})) or None
