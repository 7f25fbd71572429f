"""Conversion of an op's access pattern to a run of the DRAM model, and its share of the bandwidth."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...workloads.ops import Access
from .efficiency import efficiency, in_words
from .layout import DataLayout
from .pattern import Pattern, PatternRun
from .pim import PimStream, measure, stream_of
from .spec import DramSpec

NEAR = {"logic-pim": "pim_mac_bundle_rot", "bank-group-pim": "pim_mac_sb_rot", "bank-pim": "pim_mac_ab"}
"""Commands of processors near memory, by kind: to a bundle, to one bank of every group, to all banks."""

COMMANDS = 32_768
"""Number of commands in the run that gives the efficiency of a processor near memory."""

LONG = 4096
"""Size above which pieces are rounded down to a power of two, so that few patterns have to be run [B]."""
LONGEST = 1 << 17
"""Size from which a piece has the efficiency of a sequence [B]."""
STREAMS = 8
"""Maximum number of slices read in turn; for long slices more make no difference."""
UPDATED = 1024
"""Bytes of a channel that a state update reads and writes at once: a row [B]."""


def usual(memory: DramSpec, size_bytes: float) -> int:
    """Return the size of a piece in the DRAM model: whole atoms, and one of few sizes if it is long."""
    atom = memory.organisation.atom_bytes
    size = max(1, round(size_bytes / atom)) * atom
    if size > LONG:
        size = 1 << (size.bit_length() - 1)
    return min(size, LONGEST, memory.organisation.channel_bytes)


def run_of(memory: DramSpec, layout: DataLayout, access: Access, channels: int) -> PatternRun:
    """Return the run of one channel while an op with this access pattern runs.

    Parameters
    ----------
    channels : int
        Channels of the whole device.
    """
    size = access.item_bytes
    if access.kind == "pages":
        size = layout.page_bytes(size, access.items)
    piece = usual(memory, layout.on_channel(size, channels)) if size else 0
    pattern = Pattern()
    if access.kind in ("pages", "gather"):
        pattern = Pattern("rand", S=piece)
    elif access.kind == "scatter":
        pattern = Pattern("rand", S=piece, X=piece, reads=0, writes=1)
    elif access.kind == "update":
        pattern = Pattern("seq", X=min(piece, UPDATED), reads=1, writes=1, in_place=True)
    elif access.kind == "slices" and access.items > 1:
        many = 1 << (min(access.items, STREAMS).bit_length() - 1)
        pattern = Pattern("multistream", K=many, G=piece)
    return PatternRun(pattern=pattern, mapping=layout.mapping)


@dataclass(frozen=True, slots=True)
class AccessRate:
    """A pattern as text, and its share of the processor's memory bandwidth."""

    words: str
    fraction: float


def share_of_pins(memory: DramSpec, layout: DataLayout, access: Access, channels: int) -> AccessRate:
    """Return the share of the pins' bandwidth that a processor at the pins gets."""
    run = run_of(memory, layout, access, channels)
    return AccessRate(in_words(run), efficiency(memory, run).fraction)


def share_near(
    memory: DramSpec, layout: DataLayout, access: Access, channels: int, *, kind: str, multiple: float, spaces: int
) -> AccessRate:
    """Return the share of `multiple` times the pins' bandwidth that a processor near memory gets.

    Its commands read an atom in every bank of a set. If the data are in several sets, they are read in turn, and the
    next set is opened at the same time. Weights are in all sets. With several memory spaces, an expert is in one, and
    the KV cache in all but one (Duplex, section V-C). A piece that ends within a row leaves the rest of the row unread.

    Parameters
    ----------
    kind : str
        A key of `NEAR`.
    spaces : int
        Memory spaces of the device.
    """
    stream = stream_of(memory, NEAR[kind], COMMANDS, True)
    sets = sets_of(stream, access, spaces)
    size = access.item_bytes
    if access.kind == "pages":
        size = layout.page_bytes(size, access.items)
    columns, used = stream.columns, 1.0
    if access.kind not in ("sequence", "slices"):
        commands = layout.on_channel(size, channels) / (stream.banks * memory.organisation.atom_bytes)
        columns = min(columns, max(1, -int(-commands // 1)))
        used = min(1.0, commands / columns)
    measured = measure(memory, replace(stream, sets=sets, columns=columns))
    words = f"rows of {stream.banks} banks, {sets} sets in turn" if sets > 1 else (
        f"rows of {stream.banks} banks, one after another"
    )  # fmt: skip
    if columns < stream.columns:
        words += f", {columns} of {stream.columns} columns"
    return AccessRate(words, min(1.0, used * measured.over_pins / multiple))


def best_multiple(memory: DramSpec, kind: str) -> float:
    """Return the highest read rate of a kind of processor's commands, as a multiple of the pins' rate."""
    stream = stream_of(memory, NEAR[kind], COMMANDS, False)
    return stream.banks * memory.timings.BL / (stream.interval * stream.pseudo_channels)


def sets_of(stream: PimStream, access: Access, spaces: int) -> int:
    """Return the number of sets of banks that contain an op's data."""
    spaces_by_kind = {"slices": 1, "pages": max(spaces - 1, 1), "update": max(spaces - 1, 1)}
    return max(1, stream.sets * spaces_by_kind.get(access.kind, spaces) // spaces)
