"""Tables of the plots of `tune`: terms of ranked configurations, best tiles over a size, best times over a device number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...devices.tiles.config import I8
from ...devices.tiles.form import F8, Shape, TiledKernel
from ...devices.tiles.machine import SETTINGS, Machine
from ...devices.tiles.rank import Priced, Ranking, price_one, rank, reason_of
from ...workloads.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

SPAN, POINTS = 4.0, 33
"""Range of a device number in a plot: factor below and above its value, and number of points."""


def terms_frame(ranked: Sequence[Priced], default: Priced) -> pd.DataFrame:
    """Return label, time and terms of the ranked configurations and of the default."""
    import pandas as pd

    named = [*((str(of.config), of) for of in ranked), (f"default: {default.config}", default)]
    return pd.DataFrame(
        [{"label": label, "seconds": of.seconds, **{f"{t}_s": v for t, v in of.terms.items()}} for label, of in named]
    )


def tiles_frame(shapes: Sequence[Shape], rankings: Sequence[Ranking], along: str) -> pd.DataFrame:
    """Return for every shape and tile the time of the best configuration with this tile over the best time of all."""
    import pandas as pd

    rows = []
    for shape, ranking in zip(shapes, rankings, strict=True):
        tiles = ranking.configs[:, :2]
        seconds = ranking.prices["seconds"]
        for m, n in np.unique(tiles, axis=0).tolist():
            least = seconds[(tiles == (m, n)).all(axis=1)].min()
            rows.append({"m": m, "n": n, "tile": f"{m} x {n}", along: shape[along], "ratio": least / seconds[0]})
    return pd.DataFrame(rows).sort_values(["m", "n", along], kind="stable")


def over_frame(
    form: TiledKernel, machine: Machine, shape: Shape, p: F8, parameter: str, configs: I8 | None = None
) -> pd.DataFrame:
    """Return the best time over one device number, with the original best configuration and with the new best one.

    Returns
    -------
    DataFrame
        Columns value (in the unit of the parameter's name), best_s, kept_s (time of the original best configuration,
        NaN if it cannot run) and config (the new best one).
    """
    import pandas as pd

    best_own = rank(form, machine, shape, p, configs).top(1)[0].config
    here, rows = machine.value(parameter), []
    for factor in np.geomspace(1 / SPAN, SPAN, POINTS):
        value = here * factor
        if SETTINGS[parameter].whole:
            value = float(round(value))
        try:
            other = machine.changed({parameter: value})
        except InputError:
            continue
        ranking = rank(form, other, shape, p, configs)
        if not len(ranking):
            continue
        best = ranking.top(1)[0]
        kept_s = price_one(form, other, shape, p, best_own).seconds
        runs = not reason_of(form, other, shape, best_own)
        rows.append({"value": value, "best_s": best.seconds, "kept_s": kept_s if runs else np.nan,
                     "config": str(best.config)})  # fmt: skip
    return pd.DataFrame(rows).drop_duplicates("value")
