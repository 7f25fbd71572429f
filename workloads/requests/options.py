"""Checks of workload options; errors name the command-line option."""

from __future__ import annotations

import math
import operator

from ..errors import InputError

MAX_SIZE = 2**31 - 1
"""Largest accepted count or length."""

MIN_RATE, MAX_RATE = 1e-9, 1e9
"""Range of rates [1/s]; beyond it float64 cannot represent arrival times precisely enough."""

MIN_CV, MAX_CV = 1e-3, 1e3
MIN_TIME_S, MAX_TIME_S = 1e-9, 1e12
MAX_TURNS = 1e6


def check_size(value: object, option: str) -> int:
    """Return `value` if it is a whole number from 1 to `MAX_SIZE`; refuse others."""
    return check_count(value, option, 1)


def check_count(value: object, option: str, low: int, high: int = MAX_SIZE) -> int:
    """Return `value` as an int if it is a whole number (numpy's too) from `low` to `high`."""
    number = _index(value)
    if number is None or not low <= number <= high:
        raise InputError(option, f"must be a whole number from {low} to {high}, not {value!r}")
    return number


def check_whole(value: object, option: str) -> int | None:
    """Return `value` if it is a whole number or None; the caller checks its range."""
    number = _index(value)
    if value is not None and number is None:
        raise InputError(option, f"must be a whole number, not {value!r}")
    return number


def _index(value: object) -> int | None:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    return operator.index(value)


def check_real(value: object, option: str, low: float, high: float) -> float:
    """Return `value` if it is a number from `low` to `high`; refuse others."""
    number = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        number = float(value) if abs(value) <= high else math.inf
    if not low <= number <= high:
        raise InputError(option, f"must be a number from {low:g} to {high:g}, not {value!r}")
    return number


def check_rate(value: object, option: str = "--rate") -> float:
    """Return `value` if it is a usable request rate [1/s], positive and finite; refuse others."""
    return check_real(value, option, MIN_RATE, MAX_RATE)


def check_seed(value: object) -> int:
    """Return `value` if it can seed a generator: a whole number that is not negative; refuse others."""
    return check_count(value, "--seed", 0, 2**63 - 1)
