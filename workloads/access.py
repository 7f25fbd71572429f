"""Access pattern of an op in main memory: contiguous or gathered data."""

from __future__ import annotations

from dataclasses import dataclass

ACCESSES = ("sequence", "pages", "slices", "gather", "scatter", "update")
"""Patterns: weights and activations in sequence; pages of a paged KV cache; experts in turn; items
read, or written, at random places; items read and written back."""


@dataclass(frozen=True, slots=True)
class Access:
    """The access pattern of an op, which does not depend on the batch.

    How large a page is and where it lies is the matter of a memory's layout, not of the op.

    Attributes
    ----------
    kind : str
        One of `ACCESSES`.
    item_bytes : float
        Size of one contiguous piece [B]: an expert's weights, a gathered row, the state of a sequence; for pages, keys
        and values of one token. For one device.
    items : int
        For slices: adjacent experts. For pages: tensors of a token, two for keys and values.
    """

    kind: str = "sequence"
    item_bytes: float = 0.0
    items: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ACCESSES:
            raise ValueError(f"access {self.kind!r} is none of {', '.join(ACCESSES)}")
        if self.kind != "sequence" and not self.item_bytes > 0.0:
            raise ValueError(f"access {self.kind!r} needs the bytes of an item")


IN_SEQUENCE = Access()
