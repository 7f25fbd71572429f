"""Classes of requests: their shares, SLOs, and queue limits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, errors_in, nearest, typed_number
from ..latencies import QUANTILES, latency_of
from .options import check_count, check_real

LATENCIES = ("ttft", "tpot", "e2e", "client_ttft", "client_e2e")
"""Latencies that each single request has."""
KEYS = ("share", "priority", "tenants", "input_len", "output_len", "max_waiting", "max_wait")
"""Keys of a class besides its latencies."""
FORM = "NAME:KEY=VALUE,...;NAME:..., for example chat:share=0.7,ttft_p99=0.5;batch:share=0.3,priority=1"


@dataclass(frozen=True, slots=True)
class Promise:
    """An SLO: the maximum of one latency of a request.

    Attributes
    ----------
    name : str
        Name as written: one of `LATENCIES`, with or without a quantile.
    share : float or None
        Share of the class's requests that must keep the limit; None if not stated.
    """

    name: str
    latency: str
    most_s: float
    share: float | None = None


@dataclass(frozen=True, slots=True)
class RequestClass:
    """A class of requests, with its share, priority and SLOs.

    Attributes
    ----------
    share : float or None
        Share of all requests, if these do not state their class.
    priority : int
        The smaller, the sooner; of requests that do not say.
    promises : tuple of Promise
        Its SLOs.
    tenants : int
        Number of tenants, with equal shares of the requests that do not state theirs.
    input_len, output_len : int or None
        Mean lengths of generated requests [tokens]; default: the lengths of all others.
    max_waiting : int or None
        Requests of the class that may wait where another is let in.
    max_wait : float or None
        How long the first of them may have waited [s].
    """

    name: str
    share: float | None = None
    priority: int = 0
    promises: tuple[Promise, ...] = ()
    tenants: int = 1
    input_len: int | None = None
    output_len: int | None = None
    max_waiting: int | None = None
    max_wait: float | None = None

    @property
    def bounded(self) -> bool:
        """Return whether requests of this class may be rejected."""
        return self.max_waiting is not None or self.max_wait is not None

    def tenant_names(self) -> list[str]:
        """Return the names of the class's tenants."""
        if self.tenants == 1:
            return [self.name]
        return [f"{self.name}-{i}" for i in range(self.tenants)]


def read_classes(text: str) -> tuple[RequestClass, ...]:
    """Parse classes: ``NAME:KEY=VALUE,...;NAME:...``, or a YAML file of the same names and keys.

    Raises
    ------
    InputError
        Not of the form, an unknown key, or a value out of range.

    Examples
    --------
    >>> chat, batch = read_classes("chat:share=0.7,ttft_p99=0.5; batch:share=0.3,priority=1")
    >>> chat.promises[0].most_s, batch.priority
    (0.5, 1)
    """
    classes_found = dict(_of_file(text) if is_classes_path(text) else _of_text(text))
    if not classes_found:
        raise InputError("--classes", f"needs at least one: {FORM}")
    classes = tuple(_class_of(name, keys) for name, keys in classes_found.items())
    shares = [c.share for c in classes]
    if None not in shares and abs(sum(filter(None, shares)) - 1) > 1e-6:
        total = sum(filter(None, shares))
        raise InputError("--classes", f"the shares must add up to 1, not {total:g}")
    return classes


def check_slos(where: str, slos: Mapping[str, object]) -> None:
    """Refuse SLO attainment without classes, or if the SLOs of a class (name -> SLOs) are empty.

    Raises
    ------
    InputError
        The option that is missing, or the class.
    """
    if not slos:
        raise InputError(where, "needs --classes with a latency limit for each class, such as chat:ttft_p99=0.5")
    for name, promised in slos.items():
        if not promised:
            raise InputError(where, f"class {name!r} has no latency in --classes, such as ttft_p99=1")


def is_classes_path(text: str) -> bool:
    """Return whether a text names a file of classes."""
    return text.endswith((".yaml", ".yml"))


def without_bounds(text: str) -> str:
    """Return the text of classes that turn no request away, as `read_classes` takes it."""
    out = []
    for c in read_classes(text):
        names = ("share", "priority", "tenants", "input_len", "output_len")
        keys = {name: getattr(c, name) for name in names} | {p.name: p.most_s for p in c.promises}
        pairs = [f"{name}={value!r}" for name, value in keys.items() if value is not None]
        out.append(f"{c.name}:{','.join(pairs)}")
    return ";".join(out)


def _of_text(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names and keys of classes in the text of an option."""
    seen: set[str] = set()
    for entry in filter(None, (part.strip() for part in text.split(";"))):
        name, _, rest = (part.strip() for part in entry.partition(":"))
        if not (name and rest) or "=" in name or name in seen:
            raise InputError("--classes", f"must be {FORM}, each name once, not {entry!r}")
        seen.add(name)
        keys: dict[str, Any] = {}
        for pair in filter(None, (part.strip() for part in rest.split(","))):
            key, equals, value = (part.strip() for part in pair.partition("="))
            if not equals or key in keys:
                raise InputError(f"--classes {name}", f"must be KEY=VALUE, each once, not {pair!r}")
            keys[key] = _number(f"--classes {name}.{key}", value)
        yield name, keys


def _number(where: str, text: str) -> float | int:
    """Return a number that a user typed."""
    if math.isnan(number := typed_number(text)):
        raise InputError(where, f"must be a number, not {text!r}")
    return int(text) if text.lstrip("+-").isdecimal() else number


def _of_file(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the names and keys of classes in a file."""
    from ..yamlfile import read_yaml

    values = read_yaml(Path(text))
    for name, keys in values.items():
        if not isinstance(keys or {}, Mapping):
            raise InputError(f"{text}: {name}", f"must be keys with values: {', '.join(KEYS)}")
        yield str(name), {str(key): value for key, value in (keys or {}).items()}


def _class_of(name: str, keys: Mapping[str, Any]) -> RequestClass:
    """Return a class from its keys."""
    settings: dict[str, Any] = {}
    promises: list[Promise] = []
    for key, value in keys.items():
        where = f"--classes {name}.{key}"
        if key == "share":
            settings[key] = check_real(value, where, 1e-9, 1.0)
        elif key == "priority":
            settings[key] = check_count(value, where, -(2**31))
        elif key == "tenants":
            settings[key] = check_count(value, where, 1, 4096)
        elif key in ("input_len", "output_len"):
            settings[key] = check_count(value, where, 1)
        elif key == "max_waiting":
            settings[key] = check_count(value, where, 0)
        elif key == "max_wait":
            settings[key] = check_real(value, where, 0.0, 1e9)
        else:
            promises.append(_promise(key, value, where))
    if ("input_len" in settings) != ("output_len" in settings):
        raise InputError(f"--classes {name}", "needs both input_len and output_len, or neither")
    return RequestClass(name, promises=tuple(promises), **settings)


def _promise(key: str, value: Any, where: str) -> Promise:
    """Return an SLO from a latency's name and its limit."""
    with errors_in(where):
        latency = latency_of(key)
    name, share = key if latency is None else latency.measure, latency and latency.share
    if key.startswith("tbt") or (latency is not None and share is None):
        reason = "a single request has no percentile; use ttft, tpot or e2e, optionally with one such as _p50 or _p99.9"
        raise InputError(where, reason)
    if name not in LATENCIES:
        known = (*KEYS, *LATENCIES, *(f"{x}_{q}" for x in LATENCIES for q in QUANTILES[1:]))
        raise InputError(where, f"unknown key{nearest(key, known)}")
    return Promise(key, name, check_real(value, where, 1e-9, 1e9), share)
