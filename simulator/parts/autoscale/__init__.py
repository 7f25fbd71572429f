"""Replicas that come and go by a rule."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text
from ...part import Part


@described
@dataclass(frozen=True, slots=True)
class AutoscaleOptions(CheckedOptions):
    """Replicas that come and go by a rule."""

    autoscale: str | None = text(
        "Autoscaling between MIN and MAX replicas by a rule of `opbyte list autoscalers`, such as "
        "1:8,by=requests:20,start=60 (start in seconds).",
        "MIN:MAX,KEY=VALUE,...",
    )


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
            "figures": "replicas:FIGURES",
            "figures_of": "replicas:figures",
        },
        page="autoscaling",
        tests=("simulator/test_autoscale", "simulator/test_autoscale_pools"),
        asked=lambda a: a.scaled,
        left=lambda served: any(served.presence),  # of a fixed number too
    ),
)
