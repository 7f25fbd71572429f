"""Disaggregated experts (AFD): routed experts on separate devices, with alternating micro-batches."""

from __future__ import annotations

from ...part import Part
from .options import ApartOptions

PARTS = (
    Part(
        "experts-apart",
        "--experts-on",
        "experts on separate devices",
        options=ApartOptions,
        panel="Separate devices for experts",
        hooks={
            "deploy": "asked:deployed_beside",
            "lower": "ping_pong:with_holders",
            "engine": "run:of_engine",
            "step_cost": "one_step:quickest_step",
            "collect": "run:apart_left",
            "figures": "run:FIGURES",
        },
        page="wide-ep",
        tests=("simulator/test_apart", "simulator/test_apart_serving"),
        asked=lambda a: a.of("apart"),
    ),
)
