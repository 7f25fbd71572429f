"""Plots to files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .style import house_style


class Picture:
    """A plot for a notebook: at its real size, from 200 dots per inch."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure

    def __repr__(self) -> str:
        width, height = self._size()
        return f"Picture of {width} x {height}"

    def _size(self) -> tuple[int, int]:
        width, height = (round(96 * float(inches)) for inches in self.figure.get_size_inches())
        return width, height

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        buffer = io.BytesIO()
        _write(self.figure, buffer)
        width, height = self._size()
        return buffer.getvalue(), {"width": width, "height": height}


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a plot as PNG of 200 dots per inch; equal plots give equal bytes.

    Parameters
    ----------
    path : path-like
        Target; an existing file is replaced. Its folder is made if absent.

    Returns
    -------
    Path
        The file written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    _write(figure, buffer)  # first, so that a figure that cannot be drawn leaves the old file
    target.write_bytes(buffer.getvalue())
    return target


def _write(figure: Figure, file: BinaryIO) -> None:
    # Not by `savefig`, which draws twice: once to lay out what `finish` has laid out.
    with house_style():
        canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
        canvas.print_png(file, metadata={"Software": None})
