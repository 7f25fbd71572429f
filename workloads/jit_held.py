"""Named tuples that compiled functions hand on by where they are, not field by field.

Numba passes a tuple as one argument per field, and an array as seven or more: a call with the state
of an engine took some two hundred, taken apart and put together again in every function. The tuples
of classes marked `held` are written down once, where Python calls; from there on a call passes one
address, and a field is read where it is used.
"""

from __future__ import annotations

import hashlib
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import _dispatcher, extending, typeof
from numba.core import cgutils, types
from numba.core.boxing import unbox_tuple

C = TypeVar("C", bound=type)

numba: Any = extending  # types of most of these are not known
build: Any = cgutils
tuple_of: Any = types.BaseTuple.from_types

KEPT = "_written"
"""Attribute of a tuple that holds its fields as compiled code reads them; None before its first call."""


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
    """Mark a class of named tuples, whose fields never change while compiled code runs.

    Each of its tuples keeps what was written down of it: an array of one must not be resized in place.
    """
    keeping: Any = type(cls)(cls.__name__, (cls,), {
        "__doc__": cls.__doc__, "__module__": cls.__module__, "__qualname__": cls.__qualname__,
        KEPT: None,
    })  # fmt: skip

    def type_of(value: Any, context: Any) -> Held:
        return Held([numba.typeof_impl(field, context) for field in value], keeping)

    numba.typeof_impl.register(keeping)(type_of)
    return cast(C, keeping)


class _Address(numba.models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, type_: Held) -> None:
        super().__init__(manager, type_, manager[type_.plain].get_value_type().as_pointer())


def _write_down(type_: Held, value: Any, c: Any) -> Any:
    """Write the fields of a tuple of Python's where compiled code reads them, once for each tuple."""
    builder, api = c.builder, c.pyapi
    plain = c.context.get_value_type(type_.plain)
    where = build.alloca_once(builder, plain.as_pointer())
    failed = build.alloca_once_value(builder, build.false_bit)
    kept = api.object_getattr_string(value, KEPT)
    new = builder.icmp_unsigned("==", kept, api.borrow_none())
    with builder.if_else(new, likely=False) as (first, again):
        with first:
            fields = unbox_tuple(type_.plain, value, c)
            assert fields.cleanup is None  # nothing of it is lent for one call only
            builder.store(fields.is_error, failed)
            written = build.alloca_once_value(builder, fields.value)
            size = ir.Constant(api.py_ssize_t, c.context.get_abi_sizeof(plain))
            copy = api.bytes_from_string_and_size(builder.bitcast(written, api.cstring), size)
            builder.store(builder.bitcast(api.bytes_as_string(copy), where.type.pointee), where)
            with builder.if_then(builder.not_(fields.is_error)):
                api.object_setattr_string(value, KEPT, copy)
            api.decref(copy)
        with again:
            builder.store(builder.bitcast(api.bytes_as_string(kept), where.type.pointee), where)
    api.decref(kept)
    # Fields are read as what never changes. The optimiser must not know that this is the memory
    # that was just written, or it might read first.
    at = builder.load(where)
    hide = ir.FunctionType(at.type, [at.type])
    known = builder.asm(hide, "", "=r,0,~{memory}", [at], side_effect=True)
    return numba.NativeValue(known, is_error=builder.load(failed))


class Handle:
    """A tuple in the place of an argument, of which nothing is looked at any more: a call costs a tenth.

    Parameters
    ----------
    value : named tuple of a class marked `held`
        Which has been an argument before.
    """

    __slots__ = ("_numba_type_", "_written", "value")

    def __init__(self, value: Any) -> None:
        self.value, self._written = value, value._written
        self._numba_type_ = typeof(value)


def address_of(value: Any) -> int:
    """Where a tuple that has been an argument before is written down, as long as it lives."""
    return int(np.frombuffer(value._written, dtype=np.uint8).ctypes.data)


def kind_of(value: Any) -> bytes:
    """What tells tuples of one type from those of another, found sooner than the type is."""
    return bytes(_dispatcher.compute_fingerprint(value))


@numba.intrinsic
def held_at(context: Any, address: Any, like: Any) -> Any:
    """In compiled code: the tuple of the type of `like` that is written down at an address."""

    def made(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(like))

    return like(types.int64, like), made


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
