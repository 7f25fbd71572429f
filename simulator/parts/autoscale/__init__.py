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
        hooks={
            "fleet": "scaling:with_autoscale",
            "run": "scaling:of_run",
            "collect": "replicas:scaling_left",
            "figures": "figures:FIGURES",
            "figures_of": "figures:figures",
        },
        page="autoscaling",
        tests=("simulator/test_autoscale", "simulator/test_autoscale_pools"),
        asked=lambda a: a.scaled,
        left=lambda served: any(served.presence),  # of a fixed number too
    ),
)
