"""What experts on separate devices left of a run."""

from __future__ import annotations

import numpy as np

from ...serving.course import X_STEPPING
from ...serving.served import Served
from .run import ApartRun, apart_run


def apart_left(_: object, served: Served, *__: object) -> ApartRun | None:
    """What both groups of devices did in a run."""
    found = [engine for engine in served.engines if engine.expert_side is not None]
    if not found:
        return None
    d = found[0].deployment
    busy = np.sum([engine.books.aside.busy for engine in found], axis=0)
    stepping = sum(float(engine.curve()[1][-1, X_STEPPING]) for engine in found)
    return apart_run(d, busy, stepping, d.layout.all_devices * len(found), len(found))
