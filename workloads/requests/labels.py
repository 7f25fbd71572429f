"""Whose requests are, and how much they matter: class, priority and tenant of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

I8 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Labels:
    """Class, priority and tenant of requests.

    Attributes
    ----------
    kind : int64 array, shape (n,)
        Number of each request's class in `kinds`.
    priority : int64 array, shape (n,)
        The smaller, the sooner.
    tenant : int64 array, shape (n,)
        Number of each request's tenant in `tenants`.
    kinds, tenants : list of str
        Names, shared by all blocks of a pass over a stream, which finds more of them as it goes on.
    """

    kind: I8
    priority: I8
    tenant: I8
    kinds: list[str]
    tenants: list[str]

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, which: slice | I8 | npt.NDArray[np.bool_]) -> Labels:
        """Return some of the requests."""
        columns = self.kind[which], self.priority[which], self.tenant[which]
        return Labels(*columns, self.kinds, self.tenants)

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """Columns of `requests.csv`, as they are read."""
        kinds, tenants = np.array(self.kinds, dtype=object), np.array(self.tenants, dtype=object)
        return {"class": kinds[self.kind], "priority": self.priority, "tenant": tenants[self.tenant]}

    @classmethod
    def joined(cls, parts: Sequence[Labels | None]) -> Labels | None:
        """Join several blocks of a pass; None unless all have some."""
        known = [part for part in parts if part is not None]
        if len(known) < len(parts) or not known:
            return None
        return cls(
            np.concatenate([part.kind for part in known]),
            np.concatenate([part.priority for part in known]),
            np.concatenate([part.tenant for part in known]),
            known[-1].kinds, known[-1].tenants,
        )  # fmt: skip
