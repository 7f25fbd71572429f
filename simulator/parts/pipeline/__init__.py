"""Pipeline parallelism: layers in stages, with one batch in flight for each stage."""

from __future__ import annotations

from ...part import Part

PARTS = (
    Part(
        "pipeline",
        "--pp",
        "layers in stages",
        hooks={"engine": "own_stages:StagedEngine"},
        page="engine-files",
        tests=("simulator/test_pipeline",),
        asked=lambda a: (layout := a.of("layout")) and layout.pp > 1 and f"--pp {layout.pp}",
    ),
)
