"""What a drawn artist means, for whoever points at it in an interactive figure."""

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
        Of each of its points or bars, lines apart by newlines.
    """

    name: str = ""
    texts: tuple[str, ...] = ()


def hover(artist: object, name: str = "", texts: Sequence[str] = ()) -> None:
    """Say of an artist, or a container of artists, what it means; see `ArtistText`."""
    vars(artist)[KEY] = ArtistText(name, tuple(texts))


def hover_of(artist: object) -> ArtistText:
    """What was told of an artist."""
    found = vars(artist).get(KEY)
    return found if isinstance(found, ArtistText) else ArtistText()
