"""Results of a run for each class of requests and each tenant."""

from __future__ import annotations

from dataclasses import dataclass

from ....workloads.requests.block import Labels
from ....workloads.requests.classes import Promise
from ...engine.state import I8
from ...results.metrics import Quantiles


@dataclass(frozen=True, slots=True)
class KeptPromise:
    """Result of one SLO of a class.

    Attributes
    ----------
    share : float or None
        Share of the class's requests that met it; rejected ones did not.
    """

    promise: Promise
    share: float | None

    @property
    def met(self) -> bool | None:
        """Return whether enough requests met the SLO; None if the class sets no share."""
        if self.promise.share is None or self.share is None:
            return None
        return self.share >= self.promise.share


@dataclass(frozen=True, slots=True)
class ClassRun:
    """Requests of one class.

    Attributes
    ----------
    sent, refused, finished : int
        Of the whole run.
    preemptions : int
        Of those that finished.
    ttft_s, tpot_s, e2e_s : Quantiles
        Of requests completed after the warm-up, as the engine sees them.
    kept : tuple of KeptPromise
        One result per SLO of the class.
    attained : float or None
        Share of requests that met all SLOs, after the warm-up; None without any.
    goodput_per_s : float or None
        Such requests that ended in the run's window, per second of it.
    """

    name: str
    sent: int
    refused: int
    finished: int
    preemptions: int
    ttft_s: Quantiles
    tpot_s: Quantiles
    e2e_s: Quantiles
    kept: tuple[KeptPromise, ...]
    attained: float | None
    goodput_per_s: float | None


@dataclass(frozen=True, slots=True)
class TenantShares:
    """Service that each tenant received.

    Attributes
    ----------
    sent, refused : int64 array
        Requests of each.
    served : int64 array
        Service of each tenant: admitted prompt tokens plus twice the output tokens.
    spread : int or None
        Most that the virtual counters of two tenants with waiting requests differed by, on one rank; None
        where service is not what orders them.
    bound : int or None
        What that is at most where nothing is preempted (lemma 4.3 of Sheng et al., OSDI 2024).
    """

    names: list[str]
    sent: I8
    refused: I8
    served: I8
    spread: int | None
    bound: int | None

    def rows(self) -> list[tuple[str, int, int, int]]:
        """Return name, requests sent and rejected, and service of each tenant."""
        columns = self.sent.tolist(), self.refused.tolist(), self.served.tolist()
        return list(zip(self.names, *columns, strict=True))


@dataclass(frozen=True, slots=True)
class Classes:
    """Results of a run by class and by tenant.

    Attributes
    ----------
    labels : Labels
        Of each finished request, as rows of `Run.requests`.
    refused_id : int64 array
        Rejected requests.
    attained, goodput_per_s : float or None
        Of all classes together; None if one of them has no SLO.
    """

    kinds: tuple[ClassRun, ...]
    tenants: TenantShares
    labels: Labels
    refused_id: I8
    attained: float | None
    goodput_per_s: float | None
