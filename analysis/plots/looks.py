"""Matplotlib's looks in the words of Plotly.js: colours, dashes, markers, hatches; and which name has which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.colors
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, StepPatch

KEY = "opbyte_told"


@dataclass(frozen=True, slots=True)
class ArtistText:
    """Texts that a page shows for an artist of a plot.

    Attributes
    ----------
    name : str
        What a legend calls it; artists of one name are switched together.
    texts : tuple of str
        Text of each of its points or bars, with newlines between lines.
    """

    name: str = ""
    texts: tuple[str, ...] = ()


def hover(artist: object, name: str = "", texts: Sequence[str] = ()) -> None:
    """Set the hover texts of an artist, or of a container of artists; see `ArtistText`."""
    vars(artist)[KEY] = ArtistText(name, tuple(texts))


def hover_of(artist: object) -> ArtistText:
    """Return the hover text of an artist."""
    text = vars(artist).get(KEY)
    return text if isinstance(text, ArtistText) else ArtistText()


SYMBOLS = {
    "o": "circle", ".": "circle", "s": "square", "D": "diamond", "d": "diamond-tall",
    "^": "triangle-up", "v": "triangle-down", "<": "triangle-left", ">": "triangle-right",
    "P": "cross", "+": "cross-thin-open", "X": "x", "x": "x-thin-open", "p": "pentagon",
    "h": "hexagon", "*": "star", "8": "octagon", "|": "line-ns-open", "_": "line-ew-open",
}  # fmt: skip
HATCHES = {"/": "/", "\\": "\\", "x": "x", "-": "-", "|": "|", "+": "+", ".": ".", "o": "."}


def ink(color: Any) -> str:
    """Return a colour in CSS notation; black becomes "ink", the text colour of the page.

    >>> ink("#000000"), ink("#0072B2"), ink((0.0, 0.0, 1.0, 0.5))
    ('ink', '#0072b2', 'rgba(0,0,255,0.5)')
    """
    red, green, blue, alpha = matplotlib.colors.to_rgba(color)
    if alpha == 0.0:
        return "rgba(0,0,0,0)"
    if (red, green, blue, alpha) == (0.0, 0.0, 0.0, 1.0):
        return "ink"
    if alpha < 1.0:
        return f"rgba({round(255 * red)},{round(255 * green)},{round(255 * blue)},{alpha:.3g})"
    return matplotlib.colors.to_hex(color)


def symbol(marker: str, fill: str | None = "full") -> str:
    """Return Plotly's name of a marker; an unfilled or half filled marker becomes an open one."""
    name = SYMBOLS.get(marker, "circle")
    return name if fill == "full" or name.endswith("-open") else f"{name}-open"


class Looks:
    """Names of the styles of a plot, from its labels and legends."""

    def __init__(self, figure: Figure) -> None:
        self._names: dict[tuple[Any, ...], str] = {}
        legends = [axes.get_legend() for axes in figure.axes]
        for legend in [*figure.legends, *(one for one in legends if one is not None)]:
            self._read(legend)

    def _read(self, legend: Legend) -> None:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            if handle is not None and text.get_text():
                self._names.setdefault(_look(handle), text.get_text().split("\n")[0])

    def name(self, artist: Artist, label: str = "") -> str:
        """Return an artist's label, or the label of the legend entry with the same style."""
        own_label = label or str(artist.get_label())
        return own_label if own_label and not own_label.startswith("_") else self._names.get(_look(artist), "")

    @staticmethod
    def dash(artist: Line2D | StepPatch) -> str:
        """Return dashes as lengths [px] or a name."""
        style = artist.get_linestyle()
        if not isinstance(style, str):
            return "dash"
        words = {"--": "dash", "dashed": "dash", ":": "dot", "dotted": "dot", "-.": "dashdot"}
        return words.get(style, "solid")

    @staticmethod
    def pattern(patch: Patch) -> str:
        """Return Plotly's pattern for a bar's hatch, empty without a hatch."""
        hatch = patch.get_hatch()
        return HATCHES.get(hatch[0], "") if hatch else ""


def _look(artist: Artist) -> tuple[Any, ...]:
    if isinstance(artist, Line2D):
        color = matplotlib.colors.to_rgba(artist.get_color())
        return ("line", color, str(artist.get_linestyle()), str(artist.get_marker()))
    if isinstance(artist, StepPatch):
        return ("steps", matplotlib.colors.to_rgba(artist.get_edgecolor()))
    if isinstance(artist, Patch):
        return ("patch", matplotlib.colors.to_rgba(artist.get_facecolor()), artist.get_hatch() or "")
    return (id(artist),)
