"""Data layout as a choice: address mappings and KV block sizes, ranked by the bytes' time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from ...workloads.errors import InputError
from .efficiency import efficiency, pages
from .mapping import NAMED, widths
from .pattern import Run
from .spec import DramSpec


@dataclass(frozen=True, slots=True)
class RankedMapping:
    """A mapping with each pattern's fraction of peak and the mean over all bytes.

    `fraction` is the harmonic mean weighted by bytes: total bytes over total time.
    """

    mapping: str
    fraction: float
    each: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RankedPage:
    """A KV block of `tokens` tokens, `parts` of which lie apart from each other.

    Attributes
    ----------
    tokens, parts : int
        Tokens of a block; pieces that are placed apart (2: keys and values; x heads).
    page_bytes : float
        One piece.
    fraction : float
        Of the pins' rate while pieces are gathered.
    useful : float
        The same, less what the last, half filled block reads for nothing.
    mapping : str
    """

    tokens: int
    parts: int
    page_bytes: float
    fraction: float
    useful: float
    mapping: str


def candidate_mappings(memory: DramSpec) -> list[str]:
    """The named mappings, and those that put more columns of a row below the bank bits.

    Pseudo channel and bank group come first or behind some column bits; bank and stack id in
    either order; all with and without folded row bits.
    """
    columns = widths(memory.organisation)["co"]
    out = list(NAMED)
    for low, upper in product(range(columns + 1), ("ba,sid", "sid,ba")):
        below = [_columns(0, low)] if low else []
        above = [_columns(low, columns)] if low < columns else []
        out.append(",".join([*below, "pc", "bg", *above, upper, "ro"]))
    return [text + fold for text in out for fold in ("", "+xor")]


def _columns(first: int, end: int) -> str:
    """Column bits from `first` on, up to `end`, as a mapping writes them."""
    return f"co{first}" if end == first + 1 else f"co{end - 1}..{first}"


def rank_mappings(
    memory: DramSpec, work: Sequence[tuple[Run, float]], mappings: Iterable[str] | None = None
) -> list[RankedMapping]:
    """Rank address mappings for patterns with their bytes, best first.

    Parameters
    ----------
    memory : DramSpec
    work : sequence of (Run, bytes)
        What is read and written, and how much of each.
    mappings : iterable of str, optional
        Mappings to try; :func:`candidate_mappings` by default.
    """
    if not work or any(not size > 0 for _, size in work):
        raise InputError("work", "needs patterns with positive bytes")
    out = []
    for mapping in mappings if mappings is not None else candidate_mappings(memory):
        each = tuple(efficiency(memory, replace(run, mapping=mapping)).fraction for run, _ in work)
        seconds = sum(size / part for (_, size), part in zip(work, each, strict=True))
        out.append(RankedMapping(mapping, sum(size for _, size in work) / seconds, each))
    return sorted(out, key=lambda ranked: -ranked.fraction)


def rank_pages(
    memory: DramSpec,
    token_bytes: float,
    context: int,
    tokens: Sequence[int] = (8, 16, 32, 64, 128),
    parts: Mapping[str, int] | None = None,
    mappings: Sequence[str] = ("col64", "bgi", "col64+xor"),
    channels: int | None = None,
) -> list[RankedPage]:
    """Rank sizes and splits of KV blocks, best first.

    Parameters
    ----------
    memory : DramSpec
    token_bytes : float
        Keys and values of one token in one layer, on one device [B].
    context : int
        Tokens of a sequence, of which the last block is half empty on average.
    tokens : sequence of int
        Block sizes to try.
    parts : mapping of str to int, optional
        Pieces of a block that lie apart, by name; whole blocks and keys apart from values by
        default.
    mappings : sequence of str
    channels : int, optional
        Channels that a piece is spread over; all of the memory's by default.
    """
    if context < 1 or token_bytes <= 0:
        raise InputError("context", "must be positive, and so must the bytes of a token")
    out = []
    splits = parts or {"whole": 1, "keys and values apart": 2}
    for size, pieces, mapping in product(tokens, splits.values(), mappings):
        page = size * token_bytes / pieces
        run = replace(pages(memory, page, channels), mapping=mapping)
        fraction = efficiency(memory, run).fraction
        useful = fraction * context / (context + size / 2)
        out.append(RankedPage(size, pieces, page, fraction, useful, mapping))
    return sorted(out, key=lambda ranked: -ranked.useful)
