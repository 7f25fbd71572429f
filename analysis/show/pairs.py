"""Options of the form ``key=value,key=value``."""

from __future__ import annotations

from collections.abc import Mapping

from ...workloads.errors import InputError


def pairs(text: str, option: str) -> dict[str, str]:
    """Keys and values of an option, as text.

    Raises
    ------
    InputError
        If a part is not ``key=value``, or a key occurs twice.

    Examples
    --------
    >>> pairs("m=16, n=4096", "--shape")
    {'m': '16', 'n': '4096'}
    """
    out: dict[str, str] = {}
    for part in map(str.strip, text.split(",") if text.strip() else ()):
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals or not key or not value:
            raise InputError(option, f"{part!r:.60} is not KEY=VALUE")
        if key in out:
            raise InputError(option, f"{key} is given twice")
        out[key] = value
    return out


def real_numbers(given: Mapping[str, str], option: str) -> dict[str, float]:
    """The values as numbers.

    Raises
    ------
    InputError
        If a value is not a finite number.
    """
    out = {}
    for key, value in given.items():
        try:
            out[key] = float(value)
        except ValueError:
            out[key] = float("nan")
        if not abs(out[key]) < 1e100 or "_" in value:
            raise InputError(option, f"{key} must be a number, not {value!r:.40}")
    return out


def whole_numbers(given: Mapping[str, str], option: str) -> dict[str, int]:
    """The values as whole numbers.

    Raises
    ------
    InputError
        A value that is none.
    """
    numbers = real_numbers(given, option)
    for key, value in numbers.items():
        if value != int(value):
            raise InputError(option, f"{key} must be a whole number, not {given[key]!r:.40}")
    return {key: int(value) for key, value in numbers.items()}
