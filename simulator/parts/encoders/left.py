"""What an image encoder left of a run."""

from __future__ import annotations

from dataclasses import replace

from ...serving.record import Run
from ...serving.served import Served
from .run import EncoderCounts


def images_left(run: Run, served: Served, *_: object) -> EncoderCounts:
    """What requests asked of the encoder in a run."""
    counts: EncoderCounts = served.parts["encoder"]
    return replace(counts, busy_share=counts.busy_s / (counts.devices * run.makespan_s))
