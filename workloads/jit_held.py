"""Named tuples that compiled functions hand on by where they are, not field by field.

Numba passes a tuple as one argument per field, and an array as seven or more: a call with the state
of an engine took some two hundred, taken apart and put together again in every function. The tuples
of classes marked `held` are written down once, where Python calls; from there on a call passes one
address, and a field is read where it is used.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.core.boxing import unbox_tuple

C = TypeVar("C", bound=type)

numba: Any = extending  # types of most of these are not known
build: Any = cgutils
tuple_of: Any = types.BaseTuple.from_types


class Held(types.NamedTuple):
    """Type of a named tuple that is known by its address."""

    def __init__(self, fields: list[Any], cls: type) -> None:
        super().__init__(fields, cls)  # type: ignore[no-untyped-call]
        self.plain = tuple_of(fields, cls)  # the fields themselves

    @property
    def mangling_args(self) -> tuple[str, tuple[()]]:
        """A short name in symbols: LLVM reads and compares them over and over."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:12]
        return f"{self.instance_class.__name__}_{digest}", ()


def held(cls: C) -> C:
    """Mark a class of named tuples, whose fields never change while compiled code runs."""

    def type_of(value: Any, context: Any) -> Held:
        return Held([numba.typeof_impl(field, context) for field in value], cls)

    numba.typeof_impl.register(cls)(type_of)
    return cls


class _Address(numba.models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, type_: Held) -> None:
        super().__init__(manager, type_, manager[type_.plain].get_value_type().as_pointer())


def _write_down(type_: Held, value: Any, c: Any) -> Any:
    """Write the fields of a tuple of Python's where compiled code reads them."""
    fields = unbox_tuple(type_.plain, value, c)
    written = build.alloca_once_value(c.builder, fields.value)
    # Fields are read as what never changes. The optimiser must not know that this is the memory
    # that was just written, or it might read first.
    hide = ir.FunctionType(written.type, [written.type])
    known = c.builder.asm(hide, "", "=r,0,~{memory}", [written], side_effect=True)
    return numba.NativeValue(known, cleanup=fields.cleanup, is_error=fields.is_error)


def _field(context: Any, builder: Any, type_: Held, value: Any, name: str) -> Any:
    at = build.gep_inbounds(builder, value, 0, type_.fields.index(name))
    return _read(builder, at, at.type.pointee)


def _read(builder: Any, at: Any, what: Any) -> Any:
    """Read a value, an array part by part: most uses need two or three parts of it."""
    if not isinstance(what, (ir.LiteralStructType, ir.ArrayType)):
        load = builder.load(at)
        load.set_metadata("invariant.load", builder.module.add_metadata([]))
        return load
    result = ir.Constant(what, ir.Undefined)
    for i in range(len(what)):
        part = build.gep_inbounds(builder, at, 0, i)
        result = builder.insert_value(result, _read(builder, part, part.type.pointee), i)
    return result


numba.register_model(Held)(_Address)
numba.unbox(Held)(_write_down)
numba.lower_getattr_generic(Held)(_field)
