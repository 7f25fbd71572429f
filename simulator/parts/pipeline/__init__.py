"""Layers in stages, with a batch in flight for each."""

from __future__ import annotations

from ..part import Part

PARTS = (
    Part(
        "pipeline",
        "--pp",
        "layers in stages",
        page="engine-files",
        tests=("simulator/test_pipeline",),
        asked=lambda a: f"--pp {a.deployment.layout.pp}" if a.deployment and a.deployment.layout.pp > 1 else "",
        also=("batching/own_stages",),
    ),
)
