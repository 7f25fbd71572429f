"""Labels of requests: read from a trace's columns, or sampled by the classes' shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from ..csvfile import Column, numbers
from ..errors import InputError, nearest
from .block import Labels, RequestBlock, RequestStream
from .classes import RequestClass
from .lengths import LENGTHS, Purpose, generator

I8 = npt.NDArray[np.int64]

COLUMNS = ("class", "priority", "tenant")
"""Optional columns of a trace. Classes and tenants are texts; priorities are whole numbers, and the smallest runs
first. Empty cells have no label."""

NO_PRIORITY = -(2**40)
"""Marks a request without a priority; -1 marks one without a class or tenant."""


@dataclass(slots=True)
class LabelReader:
    """Reader of the labels of a trace; classes and tenants are numbered in order of their first use."""

    kinds: list[str] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)

    def read(self, columns: dict[str, Column], count: int) -> Labels | None:
        """Return the labels of one chunk of rows; None if the trace has none of `COLUMNS`.

        Raises
        ------
        InputError
            If a priority is not an integer.
        """
        if not any(name in columns for name in COLUMNS):
            return None
        priority = np.full(count, NO_PRIORITY)
        if "priority" in columns:
            cells = [str(cell).strip() for cell in columns["priority"].cells]
            empty = np.array([not cell for cell in cells], dtype=np.bool_)
            column = replace(columns["priority"], cells=[cell or "0" for cell in cells])
            priority[~empty] = numbers(column, -(2**31), 2**31 - 1, whole=True)[~empty]
        kind, tenant = (
            _numbered(columns.get(name), names, count)
            for name, names in (("class", self.kinds), ("tenant", self.tenants))
        )
        return Labels(kind, priority, tenant, self.kinds, self.tenants)


def _numbered(column: Column | None, names: list[str], count: int) -> I8:
    """Return the numbers of the names in a column; -1 for empty cells."""
    if column is None:
        return np.full(count, -1)
    known = {"": -1} | {name: i for i, name in enumerate(names)}
    out = [known.setdefault(str(cell).strip(), len(known) - 1) for cell in column.cells]
    names[:] = list(known)[1:]
    return np.array(out, dtype=np.int64)


@dataclass(slots=True)
class _Book:
    """Names of classes and tenants in the order in which one pass meets them, after the classes of `--classes`."""

    classes: Sequence[RequestClass]
    kinds: list[str] = field(default_factory=list)
    tenants: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)  # of a tenant's name

    def tenant(self, name: str) -> int:
        """Return the number of a tenant."""
        number = self.numbers.setdefault(name, len(self.numbers))
        if number == len(self.tenants):
            self.tenants.append(name)
        return number


def labelled(
    stream: RequestStream, classes: Sequence[RequestClass], seed: int, lengths: str | None = None
) -> RequestStream:
    """Return the stream with a class, priority and tenant for each request.

    A trace's own class is used if it has any; for requests without one it is sampled by the shares.

    Parameters
    ----------
    lengths : str, optional
        A name in `LENGTHS`, of classes with separate lengths; None if requests have their own.

    Raises
    ------
    InputError
        Lengths of classes where requests have theirs, or grow by what was said before.
    """
    with_lengths = [c for c in classes if c.input_len is not None]
    if with_lengths and lengths is None:
        raise InputError(f"--classes {with_lengths[0].name}.input_len", "cannot be combined with --trace or --turns")

    def blocks() -> Iterator[RequestBlock]:
        book = _Book(classes, [c.name for c in classes])
        draws = generator(seed, Purpose.KINDS), generator(seed, Purpose.TENANTS)
        drawn = [_lengths(c, str(lengths), seed, k) for k, c in enumerate(classes)]
        for block in stream:
            yield _sized(_with_labels(stream.name, block, book, draws), drawn)

    return replace(stream, blocks=blocks, classes=tuple(classes))


def _lengths(c: RequestClass, name: str, seed: int, k: int) -> Callable[[int], tuple[I8, I8]] | None:
    """Sample the lengths of requests of the k-th class; None if it has none."""
    if c.input_len is None or c.output_len is None:
        return None
    if ":" in name:
        raise InputError(
            f"--lengths {name}", "cannot be combined with lengths of classes; use a name, such as lognormal"
        )
    inputs, outputs = LENGTHS[name](c.input_len, c.output_len)
    rng = generator(seed, Purpose.INPUT_LENGTHS, k), generator(seed, Purpose.OUTPUT_LENGTHS, k)
    return lambda n: (inputs(rng[0], n), outputs(rng[1], n))


def _sized(block: RequestBlock, drawn: Sequence[Callable[[int], tuple[I8, I8]] | None]) -> RequestBlock:
    """Return a block in which requests of classes with given lengths have those lengths."""
    if block.labels is None or not any(drawn):
        return block
    inputs, outputs = block.input_tokens.copy(), block.output_tokens.copy()
    for k, draw in enumerate(drawn):
        mine = block.labels.kind == k
        if draw is not None:
            inputs[mine], outputs[mine] = draw(int(mine.sum()))
            inputs[mine] += block.shared_tokens or 0
    return replace(block, input_tokens=inputs, output_tokens=outputs)


Draws = tuple[np.random.Generator, np.random.Generator]


def _with_labels(name: str, block: RequestBlock, book: _Book, draws: Draws) -> RequestBlock:
    """Return a block with all labels; -1 means that its reader did not find one."""
    labels, classes = block.labels, book.classes
    if labels is None and not classes:
        return block
    kind = _kinds(name, block, book, draws[0])
    priority = np.array([c.priority for c in classes] or [0])[kind if classes else 0 * kind]
    if labels is not None:
        priority = np.where(labels.priority == NO_PRIORITY, priority, labels.priority)
    tenant = np.empty(len(block), dtype=np.int64)
    which = draws[1].integers(0, 1 << 31, len(block))
    said = np.zeros(len(block), bool) if labels is None else labels.tenant >= 0
    for k in np.unique(kind[~said]).tolist():
        names = classes[k].tenant_names() if k < len(classes) else [book.kinds[k]]
        mine = (kind == k) & ~said
        tenant[mine] = np.array([book.tenant(n) for n in names])[which[mine] % len(names)]
    if labels is not None and said.any():
        known = {t: book.tenant(labels.tenants[t]) for t in np.unique(labels.tenant[said]).tolist()}
        tenant[said] = [known[t] for t in labels.tenant[said].tolist()]
    return replace(block, labels=Labels(kind, priority, tenant, book.kinds, book.tenants))


def _kinds(name: str, block: RequestBlock, book: _Book, draw: np.random.Generator) -> I8:
    """Return the class number of each request of a block."""
    labels, classes = block.labels, book.classes
    drawn = draw.random(len(block))
    said = np.zeros(len(block), bool) if labels is None else labels.kind >= 0
    kind = np.zeros(len(block), dtype=np.int64)
    if classes and not said.all():
        shares = [c.share for c in classes] if len(classes) > 1 else [1.0]
        for c, share in zip(classes, shares, strict=True):
            if share is None:
                raise InputError(f"--classes {c.name}", f"needs share=: {name} has requests without class")
        edges = np.cumsum(np.array(shares, dtype=np.float64))
        kind = np.minimum(np.searchsorted(edges, drawn, side="right"), len(classes) - 1)
    elif not classes:
        kind[:] = _number_of(name, block, 0, "all", book) if not said.all() else 0
    if labels is not None and said.any():
        for k in np.unique(labels.kind[said]).tolist():
            at = int(block.request_id[int(np.argmax(labels.kind == k))])
            kind[labels.kind == k] = _number_of(name, block, at, labels.kinds[k], book)
    return kind


def _number_of(name: str, block: RequestBlock, row: int, kind: str, book: _Book) -> int:
    """Return the number of a class by its name.

    Raises
    ------
    InputError
        A trace has a class that is not among the requested ones.
    """
    if kind not in book.kinds:
        if book.classes:
            known = nearest(kind, book.kinds)
            raise InputError(f"{name}: row {row + 1}", f"class {kind!r} is none of --classes{known}")
        book.kinds.append(kind)
    return book.kinds.index(kind)
