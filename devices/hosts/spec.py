"""Schema of a host's file: the links between the devices of a machine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ...workloads.specfile import Spec
from ..lines import Fraction, NonNegative, Positive

WORD = r"^[A-Za-z0-9][A-Za-z0-9._+-]*$"


class SpreadSpec(Spec):
    """Rates between which 8 of 10 hosts of a class lie."""

    slow_rate: Fraction
    fast_rate: Fraction


class FittedSpec(Spec):
    """One number fitted to a measured run, and the ends of its 80 % interval."""

    value: NonNegative
    low: NonNegative
    high: NonNegative

    @model_validator(mode="after")
    def _ordered(self) -> FittedSpec:
        if not self.low <= self.value <= self.high:
            raise ValueError("must have low <= value <= high")
        return self


class HostLinkSpec(Spec):
    """The links between the devices of a node.

    `medium` is the kind of links: NVLink and similar, or PCIe. `bandwidth_bytes_per_s`, one way of one device, replaces
    the device's own value, and the medium may differ.

    Without `peer_access` devices do not read each other's memory: all transfers use buffers of the host, and the
    library replaces the frameworks' own kernels. A library's ring then gets at most `rate` of the link (``link_2`` to
    ``link_8`` of `calibrated.allreduce`); a device with slower rows keeps them.

    Of more than two devices a ring gets `shared` of the link, since they share the host's bridges: where a
    device's own rows do not say how much less.

    `rests_on` describes the measurement, `rows` its size; `spread` is the spread of the class's hosts: with
    `peer_access`, in calls of more than two devices, unless `rate` is known. `tables` are kernel tables of collectives
    timed on this host, relative to the file; they have priority.
    """

    medium: Literal["nvlink", "pcie"]
    peer_access: bool
    rests_on: str
    rows: Annotated[int, Field(ge=0)] = 0
    bandwidth_bytes_per_s: Positive | None = None
    rate: Fraction | None = None
    shared: Fraction | None = None
    spread: SpreadSpec | None = None
    tables: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _within_spread(self) -> HostLinkSpec:
        spread = self.spread
        if (
            spread is not None
            and not self.peer_access
            and not (spread.slow_rate <= (self.rate or 0.0) <= spread.fast_rate)
        ):
            raise ValueError("spread needs a rate, with slow_rate <= rate <= fast_rate")
        return self


class HostFitSpec(Spec):
    """What a measured run said of a host; see `analysis.validate.hosts`.

    `link_multiple` scales the time of every collective, `link_latency_s` is added for each of its hops, and
    `step_gap_s` is the time that devices wait between two steps with any scheduling.
    """

    run: str
    link_multiple: FittedSpec | None = None
    link_latency_s: FittedSpec | None = None
    step_gap_s: FittedSpec | None = None


class HostSpec(Spec):
    """A machine around the devices of a node: a class of the catalog, or one host as it was measured."""

    kind: Literal["host"]
    name: Annotated[str, Field(pattern=WORD, max_length=80)]
    title: str = ""
    link: HostLinkSpec
    fitted: HostFitSpec | None = None

    @property
    def multiple(self) -> float:
        """Factor on the time of collectives."""
        fit = self.fitted
        return 1.0 if fit is None or fit.link_multiple is None else fit.link_multiple.value

    @property
    def hop_s(self) -> float:
        """Additional latency of a hop [s]."""
        fit = self.fitted
        return 0.0 if fit is None or fit.link_latency_s is None else fit.link_latency_s.value

    @property
    def gap_s(self) -> float:
        """Idle time of devices between two steps [s]."""
        fit = self.fitted
        return 0.0 if fit is None or fit.step_gap_s is None else fit.step_gap_s.value

    @property
    def link_fitted(self) -> bool:
        """Whether the speed of the host's links was fitted to a run."""
        fit = self.fitted
        return fit is not None and (fit.link_multiple, fit.link_latency_s) != (None, None)

    @property
    def plain(self) -> bool:
        """Whether collectives have the times of the device's description and rows, unchanged by the host."""
        link = self.link
        as_described = link.peer_access and not (link.rate or link.tables)
        return as_described and link.bandwidth_bytes_per_s is None and not self.link_fitted
