"""Routed experts on devices of their own, to which micro-batches go and come back."""

from __future__ import annotations

from ..part import Asked, Part


def _asked(a: Asked) -> str:
    return "--experts-on" if a.deployment and a.deployment.apart is not None else ""


PARTS = (
    Part(
        "experts-apart",
        "--experts-on",
        "experts on devices of their own",
        page="wide-ep",
        tests=("simulator/test_apart", "simulator/test_apart_serving"),
        asked=_asked,
    ),
)
