"""The kernel lab."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opbyte._lazy import declared

if TYPE_CHECKING:
    from opbyte.kernels.check import require as require
    from opbyte.kernels.lab import Bench as Bench
    from opbyte.kernels.lab import Case as Case
    from opbyte.kernels.lab import Kernel as Kernel
    from opbyte.kernels.lab import add as add

__all__, __getattr__ = declared(__name__, __file__)
