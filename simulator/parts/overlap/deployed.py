"""What overlap asks of a deployment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....workloads.errors import InputError
from ...deploy.deployment import Deployment
from .tracks import ways


def overlap_asked(_: object, said: Callable[[str], Any]) -> str | None:
    """A way as options or an engine's file say."""
    return said("overlap")  # type: ignore[no-any-return]


def read_overlap(text: str, *_: object) -> str | None:
    """A way as it is asked for, refused if there is none such; None for none."""
    ways(text)
    return None if text == "none" else text


def check_overlap(text: str, deployment: Deployment) -> None:
    """Refuse an overlap without use."""
    where = f"--overlap {text}"
    if deployment.system.mapping.separate:
        reason = "cannot be combined with processors that are separate devices"
        raise InputError(where, f"{reason}, as on {deployment.system.name}")
    if not deployment.exchanges and text != "auto":
        raise InputError(
            where,
            f"has nothing to hide: {deployment.model.name} on {deployment.system.name} exchanges nothing within a "
            f"layer ({deployment.layout.degrees}); remove it, or take auto",
        )
