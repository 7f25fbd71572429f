"""Address mappings: the bits of a block's number that select its pseudo channel, bank, row and column.

A mapping is written from the lowest bit above the atom upwards, as comma-separated fields: ``pc``,
``sid``, ``bg`` (bank group), ``ba`` (bank), ``ro`` (row), ``co`` (column). A field may be split by
bits: ``co0`` is its lowest bit, ``co4..1`` its bits one to four (lowest first in the address).
``+xor`` behind it folds row bits into the bank: bg ^= lowest row bits, ba ^= the next, then sid
and pc.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError, nearest
from .spec import DramSpec, Organisation

FIELDS = ("pc", "sid", "bg", "ba", "ro", "co")

NAMED = {
    "bgi": "pc,bg,co,ba,sid,ro",
    "col64": "co0,pc,bg,co4..1,ba,sid,ro",
    "rowlin": "co,pc,sid,bg,ba,ro",
    "banklin": "co,ro,ba,bg,sid,pc",
}
"""Named mappings: bank groups interleaved by atom or by 64 B, whole rows, whole banks."""

_PART = re.compile(r"([a-z]+)(?:(\d+)(?:\.\.(\d+))?)?")

COL_SHIFT, ROW_SHIFT, BYTES = 8, 20, 5

Tables = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AddressMapping:
    """A mapping for the sizes of one organisation.

    Attributes
    ----------
    name : str
        As given.
    tables : array of int64, [BYTES, 256]
        What each byte of a block's number adds, by exclusive or, to its packed place: bank below
        `COL_SHIFT`, column below `ROW_SHIFT`, row above.
    row_low, row_high : int
        First address bit that belongs to the row, and the bit behind the last one.
    fold_bits : int
        Row bits that take part in ``+xor``.
    """

    name: str
    tables: Tables
    row_low: int
    row_high: int
    fold_bits: int


def widths(org: Organisation) -> dict[str, int]:
    """Return the number of address bits of each field."""
    sizes = (org.pseudo_channels, org.sids, org.bank_groups, org.banks, org.rows, org.columns)
    return {f: size.bit_length() - 1 for f, size in zip(FIELDS, sizes, strict=True)}


def read_mapping(text: str, memory: DramSpec) -> AddressMapping:
    """Parse ``col64``, ``bgi+xor`` or ``co0,pc,bg,co4..1,ba,sid,ro`` as an :class:`AddressMapping`.

    Raises
    ------
    InputError
        An unknown name or field, a bit named twice or left out, with the bit.
    """
    return _read(text, memory.organisation)


@lru_cache(maxsize=256)
def _read(text: str, organisation: Organisation) -> AddressMapping:
    base, plus, folding = text.partition("+")
    if plus and folding != "xor":
        raise InputError(f"mapping {text!r}", f"+{folding} is unknown; known: +xor")
    order = NAMED.get(base, base)
    if "," not in order:
        raise InputError(f"mapping {text!r}", f"unknown name{nearest(base, NAMED)}")
    width = widths(organisation)
    segments, used, at = [], dict.fromkeys(FIELDS, 0), 0
    for part in order.split(","):
        field, low, high = _part(part, text, width)
        bits = max(0, min(high, width[field] - 1) - low + 1)
        mask = ((1 << bits) - 1) << low
        if used[field] & mask:
            raise InputError(f"mapping {text!r}", f"{part!r} names bits of {field} twice")
        used[field] |= mask
        segments += [(field, low + i, at + i) for i in range(bits)]
        at += bits
    for field in FIELDS:
        missing = ((1 << width[field]) - 1) & ~used[field]
        if missing:
            bit = (missing & -missing).bit_length() - 1
            raise InputError(f"mapping {text!r}", f"leaves out bit {bit} of {field}")
    folds = _folds(width) if plus else []
    rows = sorted(at for field, _, at in segments if field == "ro")
    contiguous = rows == list(range(rows[0], rows[0] + len(rows))) if rows else False
    span = (rows[0], rows[-1] + 1) if contiguous else (0, 0)
    return AddressMapping(text, _tables(segments, folds, width), *span, len(folds))


def _part(part: str, text: str, width: dict[str, int]) -> tuple[str, int, int]:
    """Return the field and the lowest and highest bit of one part of a mapping."""
    match = _PART.fullmatch(part.strip())
    if not match or match[1] not in FIELDS:
        raise InputError(f"mapping {text!r}", f"unknown field {part.strip()!r}; known: {', '.join(FIELDS)}")
    field = match[1]
    if match[2] is None:
        return field, 0, max(width[field] - 1, 0)
    first, last = int(match[2]), int(match[3] or match[2])
    return field, min(first, last), max(first, last)


def _folds(width: dict[str, int]) -> list[tuple[str, int]]:
    """Return the bank bit that each row bit flips with ``+xor``, from the lowest row bit on."""
    places = [(field, bit) for field in ("bg", "ba", "sid", "pc") for bit in range(width[field])]
    return places[: width["ro"]]


def _tables(segments: list[tuple[str, int, int]], folds: list[tuple[str, int]], width: dict[str, int]) -> Tables:
    """Return the packed position by byte of the address: every address bit flips fixed bits of bank, column and row."""
    below = {"ba": 0, "bg": width["ba"], "sid": width["ba"] + width["bg"]}
    below["pc"] = below["sid"] + width["sid"]
    below |= {"co": COL_SHIFT, "ro": ROW_SHIFT}
    flips = np.zeros(8 * BYTES, np.int64)
    for field, bit, at in segments:
        flips[at] ^= 1 << (below[field] + bit)
        if field == "ro" and bit < len(folds):
            other, place = folds[bit]
            flips[at] ^= 1 << (below[other] + place)
    out = np.zeros((BYTES, 256), np.int64)
    for value in range(256):
        for bit in range(8):
            if value >> bit & 1:
                out[:, value] ^= flips[bit::8]
    return out
