"""Options of image encoders."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text


@described
@dataclass(frozen=True, slots=True)
class EncoderOptions(CheckedOptions):
    """An image encoder on separate devices."""

    encoder: str | None = text(
        "Image encoder of requests, a model of the catalog or a config.json.", "MODEL", file=True
    )
    encoder_system: str | None = text(
        "Devices of the encoder; with only --encoder one more device of the system, without both the model's own devices.",
        "SYSTEM",
    )
