"""What more of a device buys a kernel: with its configuration kept, and re-chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ...workloads.errors import InputError
from .tune import Tune, tune

if TYPE_CHECKING:
    import pandas as pd


def gains(kernel: str, shape: Mapping[str, object], device: str, changes: Mapping[str, float]) -> pd.DataFrame:
    """Speed-up of a kernel by each change of a device.

    Parameters
    ----------
    kernel, shape, device
        As in `tune`.
    changes : mapping of str to float
        Number of the device (a key of ``tune --set``) -> what it is multiplied with.

    Returns
    -------
    DataFrame
        ``change``, ``kept`` (times as fast with the device's own best configuration; NaN where it
        cannot run) and ``chosen`` (with the best one of the changed device), ``config``.

    Raises
    ------
    InputError
        An unknown kernel, shape, device or number.
    """
    import pandas as pd

    own = tune(kernel, shape, device)
    best, machine = own.tuned.ranked[0], own.tuned.machine
    rows = []
    for name, factor in changes.items():
        value = machine.scaled(name, factor).value(name)
        other = tune(kernel, shape, device, set_={name: value}, config=best.config.to_dict())
        first, kept = other.tuned.ranked[0], other.tuned.given
        assert kept is not None
        fits = "invalid" not in other.tuned.priced_dict(kept)
        rows.append(
            {
                "change": f"{factor:g}x {name.rpartition('_')[0] or name}".replace("_", " "),
                "kept": best.seconds / kept.seconds if fits else float("nan"),
                "chosen": best.seconds / first.seconds,
                "config": str(first.config) if first.config != best.config else "as before",
            }
        )
    return pd.DataFrame(rows)


LEVELS = {"memory": "bandwidth_GBps", "cache": "cache_bandwidth_GBps"}
"""Term of the model -> the number of the device that it runs against."""


def levels(found: Tune, flops: float, names: Sequence[str] = tuple(LEVELS)) -> pd.DataFrame:
    """Op/B of each ranked configuration at each level of the memory hierarchy.

    Parameters
    ----------
    flops : float
        Useful FLOP of a call.
    names : sequence of str
        Levels of `LEVELS`.

    Returns
    -------
    DataFrame
        ``label``, ``level``, ``op_per_byte`` (useful FLOP for each byte that the level's nominal
        bandwidth would carry in the term's time), ``roof_flops`` and ``achieved_flops`` [FLOP/s].

    Raises
    ------
    InputError
        A level that there is not.
    """
    import pandas as pd

    for name in names:
        if name not in LEVELS:
            raise InputError("levels", f"{name!r} is none of {', '.join(LEVELS)}")
    rows = [
        {
            "label": str(of.config), "level": name,
            "op_per_byte": flops / (of.terms[name] * 1e9 * found.tuned.machine.value(LEVELS[name])),
            "roof_flops": flops / of.terms[name], "achieved_flops": flops / of.seconds,
        }
        for of in found.tuned.ranked for name in names
    ]  # fmt: skip
    return pd.DataFrame(rows)
