"""Which bits of a block's number choose its pseudo channel, bank, row and column.

A mapping is written from the lowest bit above the atom upwards, as comma-separated fields: ``pc``,
``sid``, ``bg`` (bank group), ``ba`` (bank), ``ro`` (row), ``co`` (column). A field may be split by
bits: ``co0`` is its lowest bit, ``co4..1`` its bits one to four (lowest first in the address).
``+xor`` behind it folds row bits into the bank: bg ^= lowest row bits, ba ^= the next, then sid
and pc.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...workloads.errors import InputError, nearest
from .spec import DramSpec, Organisation

FIELDS = ("pc", "sid", "bg", "ba", "ro", "co")
PC, SID, BG, BA, RO, CO = range(6)

NAMED = {
    "bgi": "pc,bg,co,ba,sid,ro",
    "col64": "co0,pc,bg,co4..1,ba,sid,ro",
    "rowlin": "co,pc,sid,bg,ba,ro",
    "banklin": "co,ro,ba,bg,sid,pc",
}
"""Mappings with a name: bank groups interleaved by atom, by 64 B, whole rows, whole banks."""

_PART = re.compile(r"([a-z]+)(?:(\d+)(?:\.\.(\d+))?)?")

Segments = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping fitted to an organisation.

    Attributes
    ----------
    name : str
        As given.
    segments : array of int64, [n, 4]
        Shift in the address, mask, field, shift inside the field.
    folds : array of int64, [m, 3]
        With ``+xor``: row bits (shift, mask) that flip a field.
    row_low, row_high : int
        First address bit that belongs to the row, and the bit behind the last one.
    """

    name: str
    segments: Segments
    folds: Segments
    row_low: int
    row_high: int

    @property
    def fold_bits(self) -> int:
        """Row bits that take part in ``+xor``."""
        return sum(int(mask).bit_length() for _, mask, _ in self.folds)


def widths(org: Organisation) -> dict[str, int]:
    """Address bits of each field."""
    sizes = (org.pseudo_channels, org.sids, org.bank_groups, org.banks, org.rows, org.columns)
    return {f: size.bit_length() - 1 for f, size in zip(FIELDS, sizes, strict=True)}


def read_mapping(text: str, memory: DramSpec) -> Mapping:
    """Turn ``col64``, ``bgi+xor`` or ``co0,pc,bg,co4..1,ba,sid,ro`` into a :class:`Mapping`.

    Raises
    ------
    InputError
        An unknown name or field, a bit named twice or left out, with the bit.
    """
    base, plus, folding = text.partition("+")
    if plus and folding != "xor":
        raise InputError(f"mapping {text!r}", f"+{folding} is unknown; known: +xor")
    order = NAMED.get(base, base)
    if "," not in order:
        raise InputError(f"mapping {text!r}", f"unknown name{nearest(base, NAMED)}")
    width = widths(memory.organisation)
    segments, used, at = [], {f: 0 for f in FIELDS}, 0
    for part in order.split(","):
        field, low, high = _part(part, text, width)
        bits = max(0, min(high, width[field] - 1) - low + 1)
        mask = ((1 << bits) - 1) << low
        if used[field] & mask:
            raise InputError(f"mapping {text!r}", f"{part!r} names bits of {field} twice")
        used[field] |= mask
        if bits:
            segments.append((at, (1 << bits) - 1, FIELDS.index(field), low))
            at += bits
    for field in FIELDS:
        missing = ((1 << width[field]) - 1) & ~used[field]
        if missing:
            bit = (missing & -missing).bit_length() - 1
            raise InputError(f"mapping {text!r}", f"leaves out bit {bit} of {field}")
    return Mapping(text, np.array(segments, np.int64).reshape(-1, 4), _folds(bool(plus), width),
                   *_row_span(segments))  # fmt: skip


def _part(part: str, text: str, width: dict[str, int]) -> tuple[str, int, int]:
    """Field, lowest and highest bit of one part of a mapping."""
    match = _PART.fullmatch(part.strip())
    if not match or match[1] not in FIELDS:
        raise InputError(
            f"mapping {text!r}", f"unknown field {part.strip()!r}; known: {', '.join(FIELDS)}"
        )
    field = match[1]
    if match[2] is None:
        return field, 0, max(width[field] - 1, 0)
    first, last = int(match[2]), int(match[3] or match[2])
    return field, min(first, last), max(first, last)


def _folds(folding: bool, width: dict[str, int]) -> Segments:
    """Row bits that ``+xor`` folds into bank group, bank, stack id and pseudo channel."""
    rows, at = [], 0
    for field in ("bg", "ba", "sid", "pc") if folding else ():
        bits = min(width[field], width["ro"] - at)
        if bits:
            rows.append((at, (1 << bits) - 1, FIELDS.index(field)))
            at += bits
    return np.array(rows, np.int64).reshape(-1, 3)


def _row_span(segments: list[tuple[int, int, int, int]]) -> tuple[int, int]:
    """First and last (exclusive) address bit of the row; (0, 0) where it is split."""
    spans = [(at, at + mask.bit_length()) for at, mask, field, _ in segments if field == RO]
    return spans[0] if len(spans) == 1 else (0, 0)
