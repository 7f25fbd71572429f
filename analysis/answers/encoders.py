"""What an image encoder did before prompts, in an answer."""

from __future__ import annotations

from typing import Any

from ...simulator.serving.record import Run
from ..show.text import show
from .facet import Facet


def encoder_dict(run: Run) -> dict[str, Any]:
    """Entry of an answer's JSON; nothing without an encoder."""
    counts = run.encoder
    if counts is None:
        return {}
    return {
        "encoder": {
            "devices": counts.devices,
            "images": counts.images,
            "busy_s": counts.busy_s,
            "busy_share": counts.busy_s / (counts.devices * run.makespan_s),
            "waited_s": counts.waited_s,
        }
    }


def encoder_text(run: Run) -> list[str]:
    """The same as a sentence; nothing without an encoder."""
    found = encoder_dict(run).get("encoder")
    if found is None:
        return []
    requests = len(run.requests.request_id)
    devices = "one device" if found["devices"] == 1 else f"{found['devices']} devices"
    return [
        (
            f"{found['images']:,} images were encoded on {devices} beside the system's, busy for "
            f"{found['busy_share']:.1%} of the time; requests waited {show(found['waited_s'] / requests)} s "
            "each for theirs. Energy and price of the encoder are left out."
        )
    ]


FACET = Facet(encoder_dict, encoder_text)
