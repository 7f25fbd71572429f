"""Numba's typing of calls, remembered: the same answers, found once.

Numba tries all that it knows of an operator, for arrays, strings, dates and sets, wherever one stands,
and again whenever the types around it become known: a tenth of a cold start.
"""

from __future__ import annotations

from typing import Any

from numba.core import types
from numba.core.targetconfig import ConfigStack


def remember_types() -> None:
    """Let Numba type a call of a function of its own once for the same types and options."""
    type_call = types.Function.get_call_type
    known: dict[tuple[Any, ...], Any] = {}

    def type_once(function: Any, context: Any, args: Any, kws: Any) -> Any:
        flags = ConfigStack.top_or_none()  # type: ignore[no-untyped-call]
        options = repr(flags._values) if flags is not None else ""
        key = (context, function, tuple(args), tuple(dict(kws).items()), options)
        if key not in known:
            known[key] = type_call(function, context, args, kws)
        return known[key]

    types.Function.get_call_type = type_once  # type: ignore[method-assign, assignment]
