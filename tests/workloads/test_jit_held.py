"""Do tuples handed on by address, and code left out by type, compute what plain Python does?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import typeof

from opbyte.workloads.jit import compiled, compiled_by, compiled_given, compiled_part, int64
from opbyte.workloads.jit_address import AddressType, address_of, bring, by_address, called_at, code_of

F8 = npt.NDArray[np.float64]
I8 = npt.NDArray[np.int64]


@by_address
class Inner(NamedTuple):
    """A field that is a tuple itself."""

    weights: F8  # [N]
    factor: float


@by_address
class Outer(NamedTuple):
    """Arrays of one and two dimensions, numbers, a tuple, and one that may be missing."""

    rows: I8  # [N, 2]
    out: F8  # [N]
    inner: Inner
    on: bool
    extra: Inner | Any


@compiled_given("t.extra", otherwise=lambda t, i: 1.0)
def extra(t: Outer, i: int) -> float:
    """Weight of a row, where there is one."""
    return float(t.extra.weights[i] * t.extra.factor)


@compiled_part
def add(t: Outer, i: int) -> None:
    """Write into an array of the tuple between reads of its fields."""
    for j in range(t.rows.shape[1]):
        t.out[i] += t.rows[i, j] * t.inner.weights[i] * t.inner.factor
        t.rows[i, j] += 1


@compiled
def total(t: Outer, times: int) -> float:
    """Sum over all rows."""
    found, count = 0.0, int64(0)
    while t.on and count < times:
        for i in range(t.rows.shape[0]):
            add(t, i)
            found += t.out[i] * extra(t, i)
        count += 1
    return found


def by_hand(t: Outer, times: int) -> float:
    rows, out, found = t.rows.copy(), t.out.copy(), 0.0
    for _ in range(times if t.on else 0):
        for i in range(len(rows)):
            for j in range(2):
                out[i] += rows[i, j] * t.inner.weights[i] * t.inner.factor
                rows[i, j] += 1
            found += out[i] * (1.0 if t.extra is None else t.extra.weights[i] * t.extra.factor)
    return found


@by_address
class Kept(NamedTuple):
    """What code of any type is called with, by its address."""

    rows: I8
    extra: F8 | Any


@compiled
def count(t: Kept, times: int, weight: float) -> int:
    """Add to the rows, and more where there is more."""
    for i in range(t.rows.size):
        t.rows[i] += times
    return int(t.rows.sum() * weight) + weigh_more(t)


@compiled_given("t.extra", otherwise=lambda t: int64(0))
def weigh_more(t: Kept) -> int:
    """What a tuple of another type has beside."""
    return int64(t.extra[0])


@compiled
def call_all(codes: I8, where: I8, weight: float) -> int:
    """Call each of some functions with a tuple of its own; their sum."""
    found = int64(0)
    for k in range(codes.size):
        found += called_at(codes[k], where[k], (k + 1, weight))
    return found


def test_code_of_other_types_is_called_by_its_address() -> None:
    """The caller is compiled once, for tuples of two types; a second one of a type has the same code."""
    tuples = [Kept(np.arange(3), None), Kept(np.arange(4), np.array([100.0])), Kept(np.arange(2), None)]
    codes = np.array([code_of(count, t, 0, 0.0) for t in tuples])
    assert codes[0] == codes[2] != codes[1]
    assert [count(t, 0, 1.0) for t in tuples] == [3, 106, 1]  # which writes them down
    where = np.array([address_of(t) for t in tuples])
    assert call_all(codes, where, 2.0) == (3 + 3) * 2 + (6 + 8) * 2 + 100 + (1 + 6) * 2
    assert [t.rows.tolist() for t in tuples] == [[1, 2, 3], [2, 3, 4, 5], [3, 4]]
    calling: Any = call_all
    assert len(calling.overloads) == 1


@settings(deadline=None, max_examples=30)
@given(n=st.integers(0, 5), times=st.integers(0, 3), on=st.booleans(), has=st.booleans())
def test_fields_are_read_as_they_are(n: int, times: int, on: bool, has: bool) -> None:
    """Small whole numbers, so that sums are exact in any order."""
    more = Inner(np.arange(n) * 3.0, 2.0) if has else None
    t = Outer(np.arange(2 * n).reshape(n, 2), np.zeros(n), Inner(np.arange(n) + 1.0, 4.0), on, more)
    expected = by_hand(t, times)
    assert total(t, times) == expected
    assert expected == 0.0 or t.out.any()


def test_only_what_is_needed_is_compiled() -> None:
    @compiled_given("x", otherwise=lambda x: 0.0)
    def half(x: float) -> float:
        return x / 2.0

    @compiled
    def entry(x: Any) -> float:
        return half(x)

    either: Any = half
    assert entry(None) == 0.0
    assert not either._present.overloads
    assert entry(3.0) == 1.5
    assert len(either._present.overloads) == 1


def test_types_are_told_apart_by_their_symbols() -> None:
    """Two variants of one part are linked into one program: their names must differ."""
    names = set()
    for more in (None, Inner(np.zeros(1), 1.0)):
        type_: Any = typeof(Outer(np.zeros((1, 2), dtype=int), np.zeros(1), Inner(np.zeros(1), 1.0), True, more))
        assert isinstance(type_, AddressType)
        names.add(type_.mangling_args)
    assert len(names) == 2


@by_address
class Doubling(NamedTuple):
    """A record that brings a function."""

    factor: float


@by_address
class Squaring(NamedTuple):
    """Another one, with a function of the same name."""

    power: int


@by_address
class Model(NamedTuple):
    """Knows neither."""

    way: Any


@compiled_by("m.way")
def changed(m: Model, x: float) -> float:
    """The plain case."""
    return x


@compiled
def asked(m: Model, x: float) -> float:
    """What a caller of the library's does."""
    return changed(m, x) + 1.0


bring(Doubling, changed=compiled_part(lambda m, x: x * m.way.factor))
bring(Squaring, changed=compiled_part(lambda m, x: x**m.way.power))


@pytest.mark.parametrize(("way", "expected"), [(None, 4.0), (Doubling(2.0), 7.0), (Squaring(2), 10.0)])
def test_a_record_brings_its_function(way: Any, expected: float) -> None:
    assert asked(Model(way), 3.0) == expected


def test_equal_tuples_have_one_type() -> None:
    """Types are compared by identity wherever code is looked up, for thousands of engines."""
    made = [Outer(np.zeros((n, 2), dtype=np.int64), np.zeros(n), Inner(np.zeros(n), 1.0), True, None) for n in (1, 5)]
    assert typeof(made[0]) is typeof(made[1])
    assert typeof(made[0]) is not typeof(made[0]._replace(extra=made[0].inner))
    assert typeof(made[0]) is not typeof(made[0]._replace(out=np.zeros(4)[::2]))


def test_no_field_of_records_is_a_method_of_numpys(root: Path) -> None:
    """Compiled code would read the field where plain Python calls the method: ``record.sum``."""
    text = "".join(path.read_text(encoding="utf-8") for path in (root / "simulator").rglob("*.py"))
    names = re.findall(r"\w+", "".join(re.findall(r"\bnamed\(([^)]*)\)", text)))
    assert "arrival" in names
    assert not {*names} & {*dir(np.record)}
