"""Are hooks called by their addresses, each with its state, and combined by their point's rule?"""

from __future__ import annotations

from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from opbyte.workloads.errors import InputError
from opbyte.workloads.jit import compiled, compiled_code
from opbyte.workloads.jit_address import by_address
from opbyte.workloads.jit_hooks import ANY, EACH, FAR, FEWEST, FIRST, POINTS, SOONEST, TOTAL, gathered, point

I8 = npt.NDArray[np.int64]
BEFORE = set(POINTS)


@by_address
class Host(NamedTuple):
    """What is called upon."""

    rows: I8
    hooks: Any


@by_address
class One(NamedTuple):
    """A state of one type."""

    add: int


@by_address
class Two(NamedTuple):
    """A state of another."""

    seen: I8
    factor: float


@point(TOTAL)
def test_sum(host: Host, i: int) -> int:
    """A sum."""


@point(SOONEST)
def test_soonest(host: Host) -> float:
    """A time."""


@point(FEWEST)
def test_fewest(host: Host, i: int) -> int:
    """A number of steps."""


@point(ANY)
def test_any(host: Host, i: int) -> bool:
    """Whether any says so."""


@point(EACH)
def test_each(host: Host, i: int) -> None:
    """All are told."""


@point(FIRST)
def test_pair(host: Host, i: int, x: float) -> tuple[int, float]:
    """Two results of the only one."""


NAMES = [name for name in POINTS if name not in BEFORE]
Hooks: Any = by_address(namedtuple("Hooks", tuple(POINTS)))  # type: ignore[misc]
EMPTY = Hooks(*(np.zeros((0, 2), dtype=np.int64) for _ in POINTS))
for name in ("test_sum", "test_soonest", "test_fewest", "test_any", "test_each", "test_pair"):
    globals()[name.replace("test_", "ask_")] = globals().pop(name)  # pytest is to leave them alone


@compiled
def ask_all(host: Host, i: int) -> tuple[int, float, int, bool, int, float]:
    """Call every point, the last one only where something is there."""
    one, other = 7, 0.5
    ask_each(host, i)  # type: ignore[name-defined]  # noqa: F821
    if host.hooks.test_pair.size > 0:
        one, other = ask_pair(host, i, 2)  # type: ignore[name-defined]  # noqa: F821
    total, soonest = ask_sum(host, i), ask_soonest(host)  # type: ignore[name-defined]  # noqa: F821
    return total, soonest, ask_fewest(host, i), ask_any(host, i), one, other  # type: ignore[name-defined]  # noqa: F821


@compiled_code
def add(own: One, host: Host, i: int) -> int:
    """Of the first state."""
    return own.add + i


@compiled_code
def times(own: Two, host: Host, i: int) -> int:
    """Of the second."""
    return int(own.factor * host.rows[i])


@compiled_code
def is_three(own: One, host: Host, i: int) -> bool:
    """Whether a number is three."""
    return i == 3


@compiled_code
def see(own: Two, host: Host, i: int) -> None:
    """Count a call."""
    own.seen[i] += 1


@compiled_code
def at(own: Two, host: Host) -> float:
    """A time."""
    return own.factor


@compiled_code
def pair(own: One, host: Host, i: int, x: float) -> tuple[int, float]:
    """Two results."""
    return own.add * i, x / 4


def test_no_hook_is_the_plain_case() -> None:
    assert ask_all(Host(np.arange(5) * 10, EMPTY), 3) == (0, np.inf, FAR, False, 7, 0.5)


def test_hooks_are_combined_and_the_caller_is_compiled_once() -> None:
    host, one, two = Host(np.arange(5) * 10, EMPTY), One(5), Two(np.zeros(5, dtype=np.int64), 1.5)
    brought = [
        (one, {"test_sum": add, "test_fewest": add, "test_any": is_three, "test_pair": pair}),
        (two, {"test_sum": times, "test_fewest": times, "test_each": see, "test_soonest": at}),
    ]
    full = host._replace(hooks=gathered(Hooks, brought, {"Host": host}))
    assert ask_all(full, 3) == (5 + 3 + 45, 1.5, 8, True, 15, 0.5)
    assert ask_all(full, 1) == (5 + 1 + 15, 1.5, 6, False, 5, 0.5)
    assert two.seen.tolist() == [0, 1, 0, 1, 0]
    large = One(100)  # found by its address: it must live
    other = full._replace(hooks=gathered(Hooks, [(large, brought[0][1])], {"Host": host}))
    assert ask_all(other, 2)[0] == 102
    calling: Any = ask_all
    assert len(calling.overloads) == 1


def test_a_point_of_one_result_has_one_hook() -> None:
    host, one = Host(np.arange(5), EMPTY), One(5)
    with pytest.raises(InputError, match="only one may define it"):
        gathered(Hooks, [(one, {"test_pair": pair})] * 2, {"Host": host})
