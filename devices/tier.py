"""Memories below a device's own: what one device has of its host's, and of a disk."""

from __future__ import annotations

from ..workloads.specfile import Spec
from .fields import NonNegative, Positive


class TierSpec(Spec):
    """A memory below a device's own: what one device has of it, and the rate of its link to it."""

    capacity_bytes: Positive
    bandwidth_bytes_per_s: Positive
    latency_s: NonNegative
