"""Encoder that processes a request's images before its prompt."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text
from ...part import Part


@described
@dataclass(frozen=True, slots=True)
class EncoderOptions(CheckedOptions):
    """An image encoder on separate devices."""

    encoder: str | None = text(
        "Image encoder that runs before prompts: a catalog name or a config.json.", "MODEL", file=True
    )
    encoder_system: str | None = text(
        "System of the encoder. Default: one more device of the system with --encoder, else the language "
        "model's devices.",
        "SYSTEM",
    )


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
            "collect": "run:images_left",
            "figures": "run:FIGURES",
        },
        page="layer-lists",
        tests=("simulator/test_encoders",),
        asked=lambda a: a.pools is not None and a.pools.parts.get("encoder"),
    ),
)
