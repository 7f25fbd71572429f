"""Layers in stages, with a batch in flight for each."""

from __future__ import annotations

from ..part import Asked, Part


def _asked(a: Asked) -> str:
    return f"--pp {a.deployment.layout.pp}" if a.deployment and a.deployment.layout.pp > 1 else ""


PARTS = (
    Part(
        "pipeline",
        "--pp",
        "layers in stages",
        page="engine-files",
        tests=("simulator/test_pipeline",),
        asked=_asked,
        also=("batching/own_stages",),
    ),
)
