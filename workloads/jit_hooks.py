"""Hook points: calls in compiled code to which parts can add functions, each compiled once.

A point is a function without a body: its annotations are its signature. It is called like a function, its first
argument being a record (`jit_address.held`) with a field `hooks`, in which each point has an array of the addresses of code
and of the state that this code gets as its first argument. What several of them return is combined by the point's rule.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.core.errors import NumbaError

from .errors import InputError, nearest
from .jit_address import HELD, PLAIN, _call, _field, _found_at, address_of, build, code_at, numba, type_of_value

FAR = 1 << 40
"""A number of steps that exceeds any run."""
kinds: Any = types
SCALARS: dict[str, Any] = {
    "int": types.int64, "float": types.float64, "bool": types.boolean, "None": types.none,
    "I8": kinds.Array(types.int64, 1, "C"), "F8": kinds.Array(types.float64, 1, "C"),
}  # fmt: skip


class Combining(NamedTuple):
    """The rule that combines the results of several hooks: a start value and a function of two results."""

    start: Any
    combine: Callable[[Any, Any], Any]


FIRST = Combining(None, lambda one, other: one)
EACH = Combining(None, lambda one, other: None)
ANY = Combining(False, lambda one, other: one or other)
EVERY = Combining(True, lambda one, other: one and other)
TOTAL = Combining(0, lambda one, other: one + other)
FEWEST = Combining(FAR, min)
SOONEST = Combining(np.inf, min)
LATEST = Combining(-np.inf, max)


def _combined(builder: Any, rule: Combining, one: Any, other: Any) -> Any:
    """Emit code that combines two results by a rule."""
    real = isinstance(one.type, ir.DoubleType)
    if rule in (ANY, EVERY):
        return builder.or_(one, other) if rule is ANY else builder.and_(one, other)
    if rule is TOTAL:
        return builder.fadd(one, other) if real else builder.add(one, other)
    sign = ">" if rule is LATEST else "<"
    first = builder.fcmp_ordered(sign, one, other) if real else builder.icmp_signed(sign, one, other)
    return builder.select(first, one, other)


class HookPoint:
    """A hook point, built from the function that declares it."""

    def __init__(self, declared: Callable[..., Any], rule: Combining) -> None:
        signature = inspect.signature(declared)
        self.name, self.rule, self.declared = declared.__name__, rule, declared
        self.result = _result(str(signature.return_annotation))
        self.arguments = [str(parameter.annotation) for parameter in signature.parameters.values()]

    def types_of(self, known: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the types of the hook's arguments, given an example of each record class."""
        return tuple(SCALARS.get(name) or type_of_value(known[name]) for name in self.arguments)

    def typing(self, context: Any, *given: Any) -> Any:
        """Return the signature and code that Numba compiles a call of this hook point to."""
        arguments = tuple(SCALARS.get(name, given_type) for name, given_type in zip(self.arguments, given, strict=True))

        def made(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            table = _field(context, builder, arguments[0], values[0], "hooks")
            kind = arguments[0].plain.types[arguments[0].fields.index("hooks")]
            array_type = kind.plain.types[kind.fields.index(self.name)]
            entries = context.make_array(array_type)(context, builder, _field(context, builder, kind, table, self.name))

            def entry(k: Any) -> Any:
                at = [builder.load(builder.gep(entries.data, [builder.add(k, k.type(j))])) for j in range(2)]
                return _call(context, builder, at[0], at[1], self.result, arguments, values)

            zero = ir.IntType(64)(0)
            if self.rule is FIRST:
                return entry(zero)
            out = None
            if self.rule is not EACH:
                start = context.get_constant(self.result, self.rule.start)
                out = build.alloca_once_value(builder, start)
            with build.for_range_slice(builder, zero, entries.nitems, zero.type(2)) as (k, _):
                value = entry(k)
                if out is not None:
                    builder.store(_combined(builder, self.rule, builder.load(out), value), out)
            return context.get_dummy_value() if out is None else builder.load(out)

        return self.result(*arguments), made

    def __call__(self, record: Any, *arguments: Any) -> Any:
        """Call all hooks and combine their results without Numba."""
        hooks = getattr(record.hooks, self.name)
        results = [_found_at(code)(_found_at(hooked), record, *arguments) for code, hooked in hooks.tolist()]
        if self.rule is FIRST:
            return results[0]
        out = self.rule.start
        for result in results:
            out = self.rule.combine(out, result)
        return out


def _result(text: str) -> Any:
    """Return the Numba type that an annotation names."""
    if text.startswith("tuple["):
        return kinds.BaseTuple.from_types([SCALARS[name.strip()] for name in text[6:-1].split(",")])
    return SCALARS[text]


POINTS: dict[str, HookPoint] = {}
"""All declared hook points by name."""


def point(rule: Combining) -> Callable[[Callable[..., Any]], Any]:
    """Declare a hook point: the decorated function has a signature but no body.

    Parameters
    ----------
    rule : Combining
        How the results of several hooks make one result.
    """

    def declare(declared: Callable[..., Any]) -> Any:
        made = POINTS[declared.__name__] = HookPoint(declared, rule)
        if PLAIN:
            return made

        def typing(context: Any, *given: Any) -> Any:
            return made.typing(context, *given)

        # Numba matches arguments by name, so `typing` gets the parameter names of the declared function.
        shape, full_signature = inspect.signature(declared), inspect.signature(typing)
        first = next(iter(full_signature.parameters.values())).replace(name="typing_context")
        named = [first, *shape.parameters.values()]
        typing.__name__, typing.__doc__ = declared.__name__, declared.__doc__
        typing.__signature__ = shape.replace(parameters=named)  # type: ignore[attr-defined]
        return numba.intrinsic(typing)

    return declare


def reason_of(error: Exception, *classes: Any) -> str:
    """Return a one-line reason why code cannot be compiled; for an unknown field, list the known ones.

    Parameters
    ----------
    classes : type
        Named tuples that the code reads, in addition to those that are `by_address`.
    """
    if isinstance(error, KeyError):  # of an array of records Numba does not say which
        parts = (getattr(part, "dtype", None) for held in HELD.values() for part in held.plain.types)
        fields = {name for part in parts if isinstance(part, kinds.Record) for name in part.fields}
        return f"no record has a field `{error.args[0]}`{nearest(str(error.args[0]), sorted(fields))}"
    text = str(error)
    unknown = re.search(r"Unknown attribute '(\w+)' of type (\w+)(.*)", text)
    if unknown is None:
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("Failed in")]
        return lines[0] if lines else "unknown reason"
    field, kind, rest = unknown.groups()
    known = {cls.__name__: cls._fields for cls in (*(held.instance_class for held in HELD.values()), *classes)}
    there = known.get(kind, re.findall(r"(\w+)\[type=", rest))
    return f"no field `{field}`{nearest(field, there)}; {kind} has {', '.join(there)}"


def gathered(kind: Any, brought: Iterable[tuple[Any, Mapping[str, Any]]], known: Mapping[str, Any]) -> Any:
    """Build the record of hooks of all states: for each hook point, the addresses of functions and states.

    Parameters
    ----------
    kind : type
        Class of the record: a `by_address` class with a field per hook point.
    known : mapping of str to any
        Records of the classes that annotations of points name.
    """
    rows: dict[str, list[tuple[int, int]]] = {name: [] for name in kind._fields}
    for state, functions in brought:
        for name, function in functions.items():
            arguments = () if PLAIN else (type_of_value(state), *POINTS[name].types_of(known))
            try:
                code = code_at(function, arguments, POINTS[name].result)
            except (NumbaError, KeyError) as error:
                raise InputError(f"hook {name!r}", f"cannot be compiled: {reason_of(error)}") from error
            rows[name].append((code, address_of(state)))
            if POINTS[name].rule is FIRST and len(rows[name]) > 1:
                raise InputError(f"hook {name!r}", "is defined by two parts; only one may define it")
    return kind(*(np.array(row, dtype=np.int64).reshape(-1, 2) for row in rows.values()))
