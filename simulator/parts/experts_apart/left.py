"""What experts on separate devices left of a run."""

from __future__ import annotations

import numpy as np

from ...serving.course import Total
from ...serving.served import Served
from .run import ApartRun, apart_run


def apart_left(_: object, served: Served, *__: object) -> ApartRun | None:
    """What both groups of devices did in a run."""
    engines = [engine for engine in served.engines if engine.expert_side is not None]
    if not engines:
        return None
    d = engines[0].deployment
    busy = np.sum([engine.books.aside.busy for engine in engines], axis=0)
    stepping = sum(float(engine.curve()[1][-1, Total.STEPPING]) for engine in engines)
    return apart_run(d, busy, stepping, d.layout.all_devices * len(engines), len(engines))
