"""Spare replicas: how many replicas keep enough of them up, and what an outage does to latencies.

Replicas fail as in `simulate`: exponential times between failures (`--mtbf`), a fixed time until a replica is back
(`--repair`). A replica is up `mtbf / (mtbf + repair)` of the time, independently of the others, so that the number of
replicas that are up is binomial.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ....simulator.results.metrics import quantiles
from ....simulator.results.record import Run
from ....simulator.scenario import Scenario
from ....workloads.errors import InputError
from ....workloads.latencies import latency_of
from ....workloads.requests.options import check_real
from ..stationary import values_of

B1 = npt.NDArray[np.bool_]
AVAILABILITY = 0.999
"""Default share of time in which enough replicas must be up."""
LEAST_UP = 0.01
"""Minimum share of time that a replica is up; scenarios below it are refused."""
BEFORE = 0.25
"""Share of the requests that arrive before the outage that is simulated."""
AROUND = 4.0
"""Length of that run, in repair times."""


@dataclass(frozen=True, slots=True)
class Outages:
    """How often replicas fail, and how often enough of them must be up.

    Attributes
    ----------
    mtbf_s, repair_s : float
        Mean time between failures of a replica, and duration of an outage [s].
    availability : float
        Share of time in which the SLO must be met.
    """

    mtbf_s: float
    repair_s: float
    availability: float = AVAILABILITY

    @property
    def up(self) -> float:
        """Return the share of time in which one replica is up."""
        return self.mtbf_s / (self.mtbf_s + self.repair_s)

    def share(self, needed: int, replicas: int) -> float:
        """Return the share of time in which at least `needed` of `replicas` replicas are up.

        Examples
        --------
        >>> outages = Outages(mtbf_s=990.0, repair_s=10.0)
        >>> round(outages.share(1, 1), 6), round(outages.share(1, 2), 6), outages.replicas(4)
        (0.99, 0.9999, 5)
        """
        from scipy.special import bdtrc

        return float(bdtrc(needed - 1, replicas, self.up))

    def replicas(self, needed: int) -> int:
        """Return the smallest number of replicas of which `needed` are up for the share `availability` of the time.

        Examples
        --------
        >>> half = Outages(mtbf_s=1.0, repair_s=1.0, availability=0.5)
        >>> half.share(1, 1), half.replicas(1)
        (0.5, 1)
        """
        return _replicas(self, needed)


@lru_cache(maxsize=4096)
def _replicas(outages: Outages, needed: int) -> int:
    count = needed
    while outages.share(needed, count) < outages.availability:
        count += 1
    return count


def outages_of(scenario: Scenario, availability: float | None) -> Outages | None:
    """Read the failures of a plan's scenario; None without `--mtbf`.

    Raises
    ------
    InputError
        If an option lacks another one that it needs, or a replica is up for less than `LEAST_UP` of the time.
    """
    asked = scenario.parts["failures"]
    if asked.mtbf is None:
        if availability is not None:
            raise InputError("--availability", "needs --mtbf and --repair: without failures all replicas work")
        return None
    if asked.fail:
        raise InputError("--fail", "cannot be combined with --mtbf in a plan, which simulates one outage itself")
    if asked.repair is None:
        raise InputError("--mtbf", "needs --repair: the seconds until a failed replica is back")
    if availability is not None:
        check_real(availability, "--availability", 0.5, 0.999999)
    outages = Outages(asked.mtbf, asked.repair, AVAILABILITY if availability is None else availability)
    if outages.up < LEAST_UP:
        raise InputError("--repair", f"must be at most {1 / LEAST_UP - 1:g} times --mtbf ({asked.mtbf:g} s)")
    return outages


@dataclass(frozen=True, slots=True)
class Outage:
    """A plan with its spare replicas, and the latencies of the requests affected by a failure of one replica.

    Attributes
    ----------
    needed, replicas : int
        Replicas that meet the SLO, and those that are started.
    share : float
        Share of time in which at least `needed` are up.
    without, during : mapping of str to (float or None)
        Latencies of the affected requests [s], without and with the failure.
    requests : int
        Number of affected requests: in service when the replica fails, or arriving before it is up again.
    """

    needed: int
    replicas: int
    share: float
    without: Mapping[str, float | None]
    during: Mapping[str, float | None]
    requests: int

    def to_dict(self) -> dict[str, object]:
        return {
            "needed": self.needed, "replicas": self.replicas, "share": self.share, "without": dict(self.without),
            "during": dict(self.during), "requests_during": self.requests,
        }  # fmt: skip


def requests_around(outages: Outages, load: float, least: int, most: int) -> int:
    """Return the number of requests of a run that lasts `AROUND` outages, between `least` and `most`."""
    return int(min(max(least, AROUND * outages.repair_s * load), most))


def one_failure(outages: Outages, asked: Scenario, load: float) -> tuple[Scenario, float]:
    """Return a scenario in which one replica fails, and the time of the failure [s]."""
    count = asked.workload.requests or 0
    at = BEFORE * count / load
    return asked.changed(fail=(f"0@{at:.9g}",), repair=outages.repair_s), at


def met_by(run: Run, at: float, outages: Outages) -> B1:
    """Return which requests are in service when the replica fails, or arrive until it is back, shape (n,)."""
    return (run.requests.arrival_s < at + outages.repair_s) & (run.requests.last_token_s > at)


def latencies(run: Run, level: Mapping[str, float], chosen: B1) -> dict[str, float | None]:
    """Return the latencies of the SLO over the chosen requests of a run [s], without `tbt`, which is not stored by request."""
    part = replace(run, requests=run.requests.part(np.flatnonzero(chosen)))
    known = {name: latency for name in level if (latency := latency_of(name)) is not None and latency.measure != "tbt"}
    return {name: quantiles(values_of(part, x.measure)[0]).at(x.quantile) for name, x in known.items()}
