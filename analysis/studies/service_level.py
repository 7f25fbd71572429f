"""SLOs: latency limits, and the share of requests that must meet them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...simulator.serving.metrics import share_of
from ...workloads.errors import InputError, nearest
from ...workloads.requests.options import check_real
from ..answers.summary import LATENCIES, QUANTILES
from ..show.text import seconds

MEASURES = {name.removesuffix("_s"): name for name in LATENCIES}
"""Names in an SLO -> names in results."""
MEASURES_OF = {f"{s}_{q}": f"{name}_{q}" for s, name in MEASURES.items() for q in QUANTILES}
"""``ttft_p99`` -> ``ttft_s_p99``."""
ATTAINMENT = "attainment"
"""Minimum share of requests that meet the SLO of their class."""
NAMES_OF = MEASURES_OF | {ATTAINMENT: ATTAINMENT}
"""Names in an SLO -> names in results; percentiles that results contain."""


def name_of(name: str) -> str | None:
    """Return the name in results of a name in an SLO, with any percentile; None if it is unknown.

    Examples
    --------
    >>> name_of("ttft_p95"), name_of("tpot_p99.9"), name_of("attainment"), name_of("ttft_p101")
    ('ttft_s_p95', 'tpot_s_p99.9', 'attainment', None)
    """
    measure, _, quantile = name.rpartition("_")
    if name in NAMES_OF or measure not in MEASURES or share_of(quantile) is None:
        return NAMES_OF.get(name)
    return f"{MEASURES[measure]}_{quantile}"


def read_level(given: str | Mapping[str, float]) -> dict[str, float]:
    """Read an SLO: latency and quantile -> limit [s]; attainment -> minimum share.

    Raises
    ------
    InputError
        Not of the form, an unknown name, or no positive number.

    Examples
    --------
    >>> read_level("ttft_p99=1, tbt_p99=0.05")
    {'ttft_p99': 1.0, 'tbt_p99': 0.05}
    """
    pairs: dict[str, Any] = {}
    if isinstance(given, str):
        for entry in given.split(","):
            name, equals, text = (part.strip() for part in entry.partition("="))
            if not equals or name in pairs:
                raise InputError("--slo", f"must be NAME=SECONDS, each once, not {entry!r}")
            try:
                if "_" in text:  # Python reads 1_0 as 10; no other option does
                    raise ValueError
                pairs[name] = float(text)
            except ValueError:
                raise InputError(f"--slo {name}", f"must be seconds, not {text!r}") from None
    else:
        pairs = dict(given)
    for name, value in pairs.items():
        if name_of(name) is None:
            raise InputError(f"--slo {name!r}", f"unknown latency{nearest(name, NAMES_OF)}")
        check_real(value, f"--slo {name}", 1e-9, 1.0 if name == ATTAINMENT else 1e9)
    if not pairs:
        raise InputError("--slo", "needs at least one limit, for example ttft_p99=1")
    return {name: float(value) for name, value in pairs.items()}


def figure_text(name: str, value: float | None) -> str:
    """Return a value of an SLO with its unit."""
    if name == ATTAINMENT:
        return "-" if value is None else f"{value:.1%}"
    return seconds(value)


def limit_text(name: str, value: float) -> str:
    """Return a limit of an SLO as text."""
    sign = ">=" if name == ATTAINMENT else "<="
    return f"{name.replace('_', ' ')} {sign} {figure_text(name, value)}"
