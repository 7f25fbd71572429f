"""Options of autoscaling."""

from __future__ import annotations

from dataclasses import dataclass

from ...option import CheckedOptions, described, text


@described
@dataclass(frozen=True, slots=True)
class AutoscaleOptions(CheckedOptions):
    """Replicas that come and go by a rule."""

    autoscale: str | None = text(
        "Replicas that come and go, by a rule of `opbyte list autoscalers`: 1:8,by=requests:20,start=60.",
        "MIN:MAX,KEY=VALUE,...",
    )
