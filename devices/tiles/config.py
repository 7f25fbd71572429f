"""Configuration of a kernel: the numbers that its author or a tuner chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields

import numpy as np
import numpy.typing as npt

from ...workloads.errors import InputError, check_known
from ...workloads.records import Records

I8 = npt.NDArray[np.int64]
LARGEST = 65536


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """Tile sizes, order, warps, stages and splits of one launch.

    Attributes
    ----------
    block_m, block_n, block_k : int
        Elements of a tile, and of one step along k (of attention: queries, keys, values a head).
    group_m : int
        Row tiles that share a sweep over the columns.
    warps : int
        Warps of a block (wavefronts on AMD).
    stages : int
        Depth of the pipeline of copies, as Triton counts it.
    split : int
        Parts of k, or of the keys, that separate blocks sum up.

    Raises
    ------
    InputError
        A number that is not a whole one from 1 on.
    """

    block_m: int
    block_n: int
    block_k: int
    group_m: int = 1
    warps: int = 4
    stages: int = 3
    split: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not is_integer or not 1 <= value <= LARGEST:
                raise InputError(name, f"must be a whole number from 1 to {LARGEST}, not {value!r}")

    @classmethod
    def of(cls, values: Mapping[str, int] | Sequence[int] | I8) -> KernelConfig:
        """Return a configuration from a row of numbers in the order of the fields, or from names and numbers.

        Raises
        ------
        InputError
            An unknown name, one of the three blocks missing, or a number out of range.
        """
        if not isinstance(values, Mapping):
            return cls(*(int(v) for v in values))
        for name in values:
            check_known(name, name, NAMES, "is not part of a configuration")
        for name in NAMES[:3]:
            if name not in values:
                raise InputError(name, "is missing in the configuration")
        return cls(**values)

    @property
    def row(self) -> I8:
        """The configuration's numbers in the order of the fields."""
        return np.array(astuple(self), dtype=np.int64)

    def to_dict(self) -> dict[str, int]:
        """Return the configuration's numbers by name."""
        return {name: int(value) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        text = f"{self.block_m}x{self.block_n}x{self.block_k} g{self.group_m} w{self.warps} s{self.stages}"
        return text if self.split == 1 else f"{text} z{self.split}"


NAMES = tuple(field.name for field in fields(KernelConfig))
CONFIG = np.dtype((np.record, [(name, "i8") for name in NAMES]))
"""Record type of a configuration in compiled code."""


def by_name(configs: I8) -> Records:
    """Return configurations, shape (n, fields), as records."""
    return np.ascontiguousarray(configs, dtype=np.int64).view(CONFIG)[:, 0]
