"""An encoder that takes a request's images before its prompt."""

from __future__ import annotations

from ..part import Part

PARTS = (
    Part(
        "encoder",
        "--encoder",
        "images that an encoder takes before prompts",
        page="layer-lists",
        tests=("simulator/test_encoders",),
        asked=lambda a: getattr(a.pools, "encoder", None),
    ),
)
