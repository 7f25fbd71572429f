"""Constants of the tile model: the committed sets, and the limits that they must reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ...workloads.errors import InputError, nearest
from ...workloads.specfile import Spec, build, load_description
from ...workloads.yamlfile import quoted
from ..lines import Count, Fraction, Positive
from .price import PARAMETERS

F8 = npt.NDArray[np.float64]
FILE = "constants.yaml"
DIGITS = 4


class SetSpec(Spec):
    """One set of constants as the file has it, in SI units."""

    fitted_to: str
    rows: Count
    date: str
    values: dict[str, Positive]


class Bounds(Spec):
    """Limits that a check must reach: minimum shares of hits, maximum errors of ln(predicted / measured)."""

    hit_5: Fraction = 1e-9
    hit_10: Fraction = 1e-9
    tile_1: Fraction = 1e-9
    median_ape: Positive
    p90_ape: Positive = 1e9


class ConstantsSpec(Spec):
    """The file of constants."""

    sets: dict[str, SetSpec]
    bounds: dict[str, Bounds]


@dataclass(frozen=True, slots=True)
class ConstantSet:
    """A named set of constants.

    Attributes
    ----------
    values : mapping of str to float
        In SI units; absent ones take the default of `PARAMETERS`.
    rows : int
        How many measured rows that were.
    """

    name: str
    values: Mapping[str, float]
    fitted_to: str
    rows: int
    date: str

    @property
    def p(self) -> F8:
        """The constants as an array for compiled code."""
        return np.array([self.values.get(q.name, q.default) for q in PARAMETERS])

    @classmethod
    def fitted(cls, name: str, parameters: F8, fitted_to: str, rows: int, date: str) -> ConstantSet:
        """Return a set from the vector of a fit."""
        values = {q.name: float(f"{v:.{DIGITS}g}") for q, v in zip(PARAMETERS, parameters, strict=True)}
        return cls(name, values, fitted_to, rows, date)


UNFITTED = ConstantSet("none", {}, "nothing: defaults", 0, "")


@lru_cache(maxsize=1)
def _file() -> ConstantsSpec:
    path = Path(str(files(__package__).joinpath(FILE)))
    return build(ConstantsSpec, load_description(path))[0]


def stored() -> dict[str, ConstantSet]:
    """Return the committed sets by name."""
    return {name: ConstantSet(name, s.values, s.fitted_to, s.rows, s.date) for name, s in _file().sets.items()}


def constants(name: str) -> ConstantSet:
    """Return a committed set, or the defaults if `name` is "none".

    Raises
    ------
    InputError
        No such set.
    """
    if name == UNFITTED.name:
        return UNFITTED
    known = stored()
    if name not in known:
        raise InputError(name, f"is not a set of constants{nearest(name, [*known, UNFITTED.name])}")
    return known[name]


def bounds() -> Mapping[str, Bounds]:
    """Return the limits that the committed constants must reach, by ``kernel/device``."""
    return _file().bounds


HEAD = """\
# Written by `opbyte validate configs TABLES --fit FILE`: constants of the tile model that devices share,
# in SI units (devices/tiles/price.py says what they mean), and what they must reach on the tables.
sets:
"""


def constants_yaml(new: Sequence[ConstantSet]) -> str:
    """Return the file's text with some sets replaced and the bounds unchanged."""
    sets = {**stored(), **{c.name: c for c in new}}
    lines = [HEAD.rstrip("\n")]
    for name, c in sets.items():
        lines += [
            f"  {name}:",
            f"    source: {quoted(f'fit on {c.rows} rows: {c.fitted_to}, {c.date}')}",
            f"    fitted_to: {quoted(c.fitted_to)}",
            f"    rows: {c.rows}",
            f"    date: {quoted(c.date)}",
            "    values:",
            *(f"      {key}: {float(f'{value:.{DIGITS}g}')}" for key, value in c.values.items()),
        ]
    lines.append("bounds:")
    lines.append(f"  source: {quoted(BOUNDS_SOURCE)}")
    for name, b in bounds().items():
        inner = ", ".join(f"{k}: {v}" for k, v in b.model_dump(exclude_unset=True).items())
        lines.append(f"  {name}: {{{inner}}}")
    return "\n".join(lines) + "\n"


BOUNDS_SOURCE = "assumed: what the committed constants reach on these tables, less 0.03 of a share"
