"""The settings of an autoscaler and their text form: ``MIN:MAX,by=RULE:TARGET,...``."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ....workloads.errors import InputError, nearest, typed_number
from ...limits import MAX_REPLICAS
from .scalers import SCALERS, asks_ttft

OPTION = "--autoscale"
LONGEST_S = 1e9


@dataclass(frozen=True, slots=True)
class Autoscale:
    """Bounds, rule and interval of an autoscaler.

    Attributes
    ----------
    least, most : int
        Replicas.
    by : str or None
        A name in `SCALERS`; None where there is nothing to decide.
    target : float
        What the rule aims at.
    begin : int or None
        Replicas that are ready at time 0; `least` if not given.
    start : float or None
        Seconds until a replica that is asked for serves; as `start_up` says if not given.
    every : float
        Seconds between decisions. 15 s as Kubernetes' HorizontalPodAutoscaler decides.
    hold : float
        Time for which the rule must ask for fewer replicas before one is removed [s]; 300 s is that autoscaler's
        default (``stabilizationWindowSeconds``).
    window : float
        Seconds of first tokens that a rule by them sees. 60 s as Knative's stable window.
    share : float
        Target SLO attainment; 0.9 as in DistServe (OSDI 2024).
    slo : float or None
        Limit on TTFT whose attainment is reported [s]; default: the rule's.
    """

    least: int
    most: int
    by: str | None = None
    target: float = 0.0
    begin: int | None = None
    start: float | None = None
    every: float = 15.0
    hold: float = 300.0
    window: float = 60.0
    share: float = 0.9
    slo: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most or not 1 <= self.most <= MAX_REPLICAS:
            reason = f"needs MIN:MAX with 0 <= MIN <= MAX and MAX from 1 to {MAX_REPLICAS}, not "
            raise InputError(OPTION, f"{reason}{self.least}:{self.most}")
        if self.by is None and self.decides:
            known = ", ".join(SCALERS)
            raise InputError(OPTION, f"needs by=RULE:TARGET; the rules are {known}")
        if self.by is not None and self.by not in SCALERS:
            reason = f"unknown rule {self.by!r}{nearest(self.by, SCALERS)}"
            raise InputError(OPTION, reason)
        if self.begin is not None and not self.least <= self.begin <= self.most:
            reason = f"begin must be from {self.least} to {self.most}, not {self.begin}"
            raise InputError(OPTION, reason)
        self._check("target", self.target, 0.0, 1e12, above=self.by is not None)
        for key, low, above in (
            ("start", 0.0, False), ("every", 0.1, False), ("hold", 0.0, False), ("window", 0.0, True),
            ("slo", 0.0, True),
        ):  # fmt: skip
            self._check(key, getattr(self, key), low, LONGEST_S, above)
        self._check("share", self.share, 0.0, 1.0, above=True)

    def _check(self, key: str, value: float | None, low: float, high: float, above: bool) -> None:
        if value is None or (low < value <= high) or (value == low and not above):
            return
        raise InputError(
            OPTION, f"{key} must be {'above' if above else 'at least'} {low:g} and at most {high:g}, not {value:g}"
        )

    @property
    def decides(self) -> bool:
        """Return whether the number of replicas can change."""
        return self.least < self.most

    @property
    def first(self) -> int:
        """Return the number of replicas that are ready at time 0."""
        return self.least if self.begin is None else self.begin

    @property
    def slo_s(self) -> float | None:
        """Return the TTFT limit whose attainment is reported [s]."""
        if self.slo is None and self.by is not None and asks_ttft(SCALERS[self.by]):
            return self.target
        return self.slo


def parse_autoscale(text: str) -> Autoscale:
    """Parse the text form of an autoscaler.

    Raises
    ------
    InputError
        Anything that cannot be read, with what would be right.

    Examples
    --------
    >>> scaling = parse_autoscale("1:8,by=requests:20,start=60")
    >>> scaling.most, scaling.by, scaling.target, scaling.start
    (8, 'requests', 20.0, 60.0)
    """
    bounds, *rest = text.split(",")
    least, colon, most = bounds.partition(":")
    how = {"least": _whole(least, text), "most": _whole(most if colon else "", text)}
    keys = [field.name for field in fields(Autoscale) if field.name not in ("least", "most", "target")]
    given: dict[str, float | str | int] = dict(how)
    for part in rest:
        key, equals, value = part.partition("=")
        if key not in keys or not equals:
            reason = f"{part!r} must be KEY=VALUE; the keys are {', '.join(keys)}"
            raise InputError(OPTION, f"{reason}{nearest(key, keys)}")
        if key in given:
            raise InputError(OPTION, f"{key} is given twice")
        if key == "by":
            given["by"], _, target = value.partition(":")
            given["target"] = _number("by=RULE:TARGET", target)
        else:
            given[key] = _whole(value, text) if key == "begin" else _number(key, value)
    return Autoscale(**given)  # type: ignore[arg-type]


def _whole(value: str, text: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise InputError(
            OPTION, "must be MIN:MAX,by=RULE:TARGET,... with whole numbers, for example "
            f"1:8,by=requests:20,start=60; not {text!r}",
        )  # fmt: skip
    return int(value)


def _number(key: str, value: str) -> float:
    if math.isnan(number := typed_number(value)):
        raise InputError(OPTION, f"{key} must be a number, not {value!r}")
    return number
