"""Figures to files."""

from __future__ import annotations

import os
from pathlib import Path

from matplotlib.figure import Figure

from .style import DPI, house_style


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure as PNG of 200 dots per inch; the same figure gives the same bytes.

    The file appears whole or not at all: it is written under a temporary name beside `path`
    and then renamed.

    Parameters
    ----------
    figure : Figure
    path : path-like
        Target; an existing file is replaced. Its folder is made if absent.

    Returns
    -------
    Path
        The file written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        with house_style():
            figure.savefig(partial, format="png", dpi=DPI, metadata={"Software": None})
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target
