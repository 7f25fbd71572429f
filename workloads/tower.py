"""Image towers of multimodal models: their weights, and the patches and tokens of an image.

A tower cuts an image into patches, runs a vision transformer over them, and merges neighbouring patches into tokens of
the language model. Its weights come from the checkpoint's ``vision_config`` (`hf.towers`).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from .errors import InputError
from .layers import ImageTower

MAX_SIDE = 1 << 16
"""Largest side of an image [pixels]."""
Size = tuple[int, int]
"""Width and height [pixels]."""


@dataclass(frozen=True, slots=True)
class Tower:
    """An image tower.

    Attributes
    ----------
    kind : str
        Its ``model_type``.
    part : ImageTower
        Its blocks and projector, as a part of a layer of the language model.
    patch, merge : int
        Side of a patch [pixels], and of the square of patches that becomes one token.
    side : int
        Longest side that is not scaled down, or the side of all images (`fixed`) or tiles [pixels]; 0 = any.
    fixed : int
        Tokens of every image, for any size; 0: they follow from its pixels.
    tiles : int
        Maximum tiles of `side` of an image, in addition to one small copy of the whole; 0: it is not cut.
    stated : tuple of int
        ``num_hidden_layers`` and ``hidden_size`` of its section (or Kimi's ``vt_`` keys); 0 where it has another key.
    """

    kind: str
    part: ImageTower
    patch: int
    merge: int
    side: int = 0
    fixed: int = 0
    tiles: int = 0
    stated: tuple[int, int] = (0, 0)

    @property
    def params(self) -> int:
        """Number of weights of the tower."""
        return sum(w.total for w in self.part.weights())

    def cut(self, size: Size) -> tuple[int, int, int]:
        """Return the number of pictures (tiles) of an image, and the patches and tokens of each.

        Sides are rounded to whole tokens (Qwen's ``smart_resize``, without limits of the preprocessor's own);
        tiles are chosen for the closest aspect ratio (InternVL's ``dynamic_preprocess``).
        """
        width, height = size
        unit = self.patch * self.merge
        if self.fixed and not self.tiles:
            patches = self.fixed * self.merge**2
            if self.side:
                patches = (self.side // self.patch) ** 2
            return 1, patches, self.fixed
        if self.tiles:
            cols, rows = _tiled(width, height, self.side, self.tiles)
            count = cols * rows
            patches = (self.side // self.patch) ** 2
            return count + (count > 1), patches, self.fixed or patches // self.merge**2
        if self.side and max(width, height) > self.side:
            scale = self.side / max(width, height)
            width, height = max(1, int(width * scale)), max(1, int(height * scale))
        cols, rows = (max(1, round(side / unit)) for side in (width, height))
        return 1, cols * rows * self.merge**2, cols * rows

    def tokens(self, size: Size) -> int:
        """Return the tokens of an image with `size` pixels in a prompt."""
        pictures, _, tokens = self.cut(size)
        return pictures * tokens


def _tiled(width: int, height: int, side: int, most: int) -> Size:
    """Return the columns and rows of tiles with the aspect ratio closest to the image's.

    For ties, the most tiles it fills.
    """
    best, off = (1, 1), math.inf
    for count in range(1, most + 1):
        for cols in range(1, count + 1):
            if count % cols:
                continue
            rows = count // cols
            away = abs(width / height - cols / rows)
            larger = away == off and width * height > 0.5 * side * side * cols * rows
            if away < off or larger:
                best, off = (cols, rows), away
    return best


def read_size(text: str) -> Size:
    """Parse an image size such as ``1920x1080``: width and height in pixels.

    Examples
    --------
    >>> read_size("1920x1080")
    (1920, 1080)
    """
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text)
    if not match or not all(1 <= int(side) <= MAX_SIDE for side in match.groups()):
        raise InputError(
            f"--image-size {text!r}", f"must be width x height in pixels from 1 to {MAX_SIDE}, such as 1920x1080"
        )
    return int(match[1]), int(match[2])
