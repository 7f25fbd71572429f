"""Kernel tables as text, in the form that `workloads.kernel_tables` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table_text(columns: Mapping[str, Sequence[Any]], header: Sequence[str]) -> str:
    """A kernel table with its provenance on top."""
    import pandas as pd

    body = pd.DataFrame(dict(columns)).to_csv(index=False, float_format="%.6g")
    return "".join(f"# {line}\n" for line in header) + body
