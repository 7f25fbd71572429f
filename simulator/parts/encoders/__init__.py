"""An encoder that takes a request's images before its prompt."""

from __future__ import annotations

from ...part import Part
from .options import EncoderOptions

PARTS = (
    Part(
        "encoder",
        "--encoder",
        "images that an encoder takes before prompts",
        options=EncoderOptions,
        panel="Fleet and failures",
        hooks={
            "stage": "run:encode",
            "check_scenario": "asked:check_images",
            "adapt_spec": "asked:towered",
            "fleet": "asked:with_encoder",
            "requests": "asked:pictured",
            "collect": "left:images_left",
            "figures": "figures:FIGURES",
        },
        page="layer-lists",
        tests=("simulator/test_encoders",),
        asked=lambda a: a.pools is not None and a.pools.parts.get("encoder"),
    ),
)
