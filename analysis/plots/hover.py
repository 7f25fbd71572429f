"""Hover texts of plotted artists in an interactive plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

KEY = "opbyte_told"


@dataclass(frozen=True, slots=True)
class ArtistText:
    """Of an artist.

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
    """Say of an artist, or a container of artists, what it means; see `ArtistText`."""
    vars(artist)[KEY] = ArtistText(name, tuple(texts))


def hover_of(artist: object) -> ArtistText:
    """Return the hover text of an artist."""
    text = vars(artist).get(KEY)
    return text if isinstance(text, ArtistText) else ArtistText()
