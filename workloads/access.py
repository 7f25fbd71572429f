"""How an op goes through main memory: what lies in sequence there, and what does not."""

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
        What lies in one piece [B]: an expert's weights, a row that is gathered, the state of a
        sequence; of pages, keys and values of one token. As one device holds it.
    items : int
        Of slices: experts that lie beside each other. Of pages: tensors that hold a token, two for keys and values.
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
