"""Shortcuts around Numba's compilation, with the same generated code.

A quarter of a cold start was spent on lists of an instruction's variables (five type checks per value), on looking for
new registrations, and on listeners of every lock. A tenth was typing: Numba tries all overloads of an operator, for
arrays, strings, dates and sets, and repeats it whenever surrounding types become known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llvmlite.binding import ffi
from numba.core import base, compiler_lock, ir, postproc, transforms, types
from numba.core.targetconfig import ConfigStack
from numba.core.typing import context, templates

VARIABLE, INSTRUCTION, SEVERAL, NAMED, OTHER = range(5)
kinds: dict[type, int] = {}
numba_ir: Any = ir  # its stubs lack most classes


def keep_less_book() -> None:
    """Replace Numba's own ways, in this process."""
    calls: Any = types.Function
    calls.get_call_type = _typed_once(calls.get_call_type)
    numba_ir.Inst._rec_list_vars = lambda _, value: _collect((value,), [])
    for kind in (base.BaseContext, context.BaseContext):
        kind.refresh = _once(kind.refresh)  # type: ignore[method-assign]
    lifetimes: Any = postproc.PostProcessor
    lifetimes.run = _lives(lifetimes.run)
    lock: Any = compiler_lock.global_compiler_lock
    owned_lock: Any = lock._lock
    type(lock).acquire = lambda self: owned_lock.acquire()
    type(lock).release = lambda self: owned_lock.release()
    ffi.lib._lock._cblist.clear()  # who listens to LLVM's lock


def link_as(options: dict[str, Any]) -> None:
    """Compile what Numba has written in Python (`max`, `int`) with our options: nothing but its callers calls it."""
    kind: Any = templates._OverloadFunctionTemplate
    decorator_of = kind._get_jit_decorator

    def decorator(template: Any) -> Any:
        jit = decorator_of(template)
        return lambda **given: jit(**given if given.get("parallel") else given | options)

    kind._get_jit_decorator = decorator


def _typed_once(type_call: Any) -> Any:
    """Type a call of a function of Numba's own once for the same types and options."""
    known: dict[tuple[Any, ...], Any] = {}

    def type_once(function: Any, context: Any, args: Any, kws: Any) -> Any:
        flags = ConfigStack.top_or_none()  # type: ignore[no-untyped-call]
        options = repr(flags._values) if flags is not None else ""
        key = (context, function, tuple(args), tuple(dict(kws).items()), options)
        if key not in known:
            known[key] = type_call(function, context, args, kws)
        return known[key]

    return type_once


def _kind(cls: type) -> int:
    """What values of a class are."""
    every = {numba_ir.Var: VARIABLE, numba_ir.Inst: INSTRUCTION, list: SEVERAL, tuple: SEVERAL, dict: NAMED}
    return next((kind for base, kind in every.items() if issubclass(cls, base)), OTHER)


def _collect(values: Iterable[Any], variables: list[Any]) -> list[Any]:
    """Add the variables in some values, however deep, in their order."""
    for value in values:
        kind = kinds.get(type(value))
        if kind is None:
            kind = kinds[type(value)] = _kind(type(value))
        if kind == VARIABLE:
            variables.append(value)
        elif kind == INSTRUCTION:
            variables += value.list_vars()
        elif kind == SEVERAL:
            _collect(value, variables)
        elif kind == NAMED:
            _collect(value.values(), variables)
    return variables


def _once(refresh: Any) -> Any:
    """Look for new registrations only where a list of them has grown."""

    def look(self: Any) -> None:
        now = _registered(self)
        if self.__dict__.get("_looked") != now:
            refresh(self)
            self._looked = now  # what this look has brought in is looked at by the next

    return look


def _registered(of: Any) -> int:
    """How much the registries of a context, and of what types for it, hold."""
    typing = [of.typing_context] if hasattr(of, "typing_context") else []
    loaders = [loader for holder in (of, *typing) for loader in holder._registries.items()]
    return sum(len(getattr(registry, name)) for registry, loader in loaders for name in loader.registry_items)


def _lives(compute: Any) -> Any:
    """Numba's pass between passes without what lives where a block begins, which it asks for generators only."""

    def run(self: Any, emit_dels: bool = False, extend_lifetimes: bool = False) -> None:
        code = self.func_ir
        if code.is_generator:
            compute(self, emit_dels, extend_lifetimes)
            return
        code.blocks = transforms.canonicalize_cfg(code.blocks)  # type: ignore[no-untyped-call]
        code.variable_lifetime = postproc.VariableLifetime(code.blocks)  # type: ignore[no-untyped-call]
        code.generator_info = None
        if emit_dels:
            self._insert_var_dels(extend_lifetimes=extend_lifetimes)

    return run
