"""Replicas that come and go by a rule."""

from __future__ import annotations

from ...part import Part
from .options import AutoscaleOptions

PARTS = (
    Part(
        "autoscale",
        "--autoscale",
        "replicas that come and go",
        options=AutoscaleOptions,
        panel="Fleet and failures",
        page="autoscaling",
        tests=("simulator/test_autoscale", "simulator/test_autoscale_pools"),
        asked=lambda a: a.scaled,
    ),
)
