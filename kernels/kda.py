"""Kimi's delta rule (KDA): the gated delta rule with a decay for every channel of a key."""

from __future__ import annotations

from functools import partial

from . import delta_rule
from .lab import Kernel, add

CPU = add(
    Kernel("kda", "numba", "kda", delta_rule.shapes, partial(delta_rule.case, name="kda", channels=True), __doc__)
)
