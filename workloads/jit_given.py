"""Code that is compiled only for runs that have a use for it, as the types of a call tell."""

from __future__ import annotations

import inspect
from typing import Any

from numba.core import types


class Either:
    """One of two parts, by the types of a call's arguments: whether one of them, or a field, is None.

    Compiled callers take it for a function like any other, and only the part that they need is
    compiled. Parameters as those of `jit.compiled_given`.
    """

    def __init__(self, present: Any, absent: Any, path: str) -> None:
        self._present, self._absent = present, absent
        argument, *self._fields = path.split(".")
        self.__signature__ = inspect.signature(getattr(present, "py_func", present))
        self._at = list(self.__signature__.parameters).index(argument)
        self._numba_type_ = types.Dispatcher(self)  # type: ignore[type-var]
        self.is_compiling = False  # by itself; a part never calls itself

    def _chosen(self, args: Any) -> Any:
        type_ = args[self._at]
        for name in self._fields:
            if not isinstance(type_, types.NoneType):
                type_ = type_.types[type_.fields.index(name)]
        return self._absent if isinstance(type_, types.NoneType) else self._present

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """What types a call: `numba.types.Dispatcher` asks."""
        return self._chosen(args).get_call_template(args, kws)

    def get_overload(self, args: Any) -> Any:
        """What a call of arguments of these types calls."""
        return self._chosen(args).get_overload(args)

    def __call__(self, *args: Any) -> Any:
        """Without Numba, for a debugger."""
        value = args[self._at]
        for name in self._fields:
            value = None if value is None else getattr(value, name)
        return (self._absent if value is None else self._present)(*args)
