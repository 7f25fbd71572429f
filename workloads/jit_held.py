"""Named tuples that compiled functions hand on by where they are, not field by field.

Numba passes a tuple as one argument per field, and an array as seven or more: a call with the state of an engine took
some two hundred, taken apart and put together again in every function. The tuples of classes marked `held` are written
down once, where Python calls; from there on a call passes one address, and a field is read where it is used.

Those of classes marked `kept` stay written down from their first call on, where compiled code can find many of
them by their addresses.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Hashable
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import _dispatcher, config, extending, typeof
from numba.core import cgutils, types
from numba.core.boxing import unbox_tuple

C = TypeVar("C", bound=type)

numba: Any = extending  # types of most of these are not known
build: Any = cgutils
tuple_of: Any = types.BaseTuple.from_types
type_of_value: Any = typeof
settings: Any = config  # its stubs lack this one
PLAIN: bool = settings.DISABLE_JIT
"""Whether everything runs as plain Python."""


class HeldType(types.NamedTuple):
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

    def type_of(value: Any, context: Any) -> HeldType:
        return HeldType([numba.typeof_impl(field, context) for field in value], cls)

    numba.typeof_impl.register(cls)(type_of)
    return cls


class KeptType(HeldType):
    """Type of a named tuple that stays written down."""


KEPT = "_written"
"""Attribute of a tuple of a class marked `kept`: what is written down of it and of the tuples in it, itself last;
None before its first call."""


def kept(cls: C) -> C:
    """Mark a class like `held`, whose tuples stay written down; no array in one may be resized in place."""
    what = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    keeping: Any = type(cls)(cls.__name__, (cls,), {**what, KEPT: None})  # with room for attributes

    def type_of(value: Any, context: Any) -> KeptType:
        value._numba_type_ = KeptType([numba.typeof_impl(field, context) for field in value], keeping)
        return cast(KeptType, value._numba_type_)  # where Numba looks for it first

    numba.typeof_impl.register(keeping)(type_of)
    return cast(C, keeping)


def address_of(value: Any) -> int:
    """Where a tuple of a class marked `kept` is written down, after its first call and as long as it lives."""
    if PLAIN:
        return id(value)
    return int(np.frombuffer(value._written[-1], dtype=np.uint8).ctypes.data)


def kind_of(value: Any) -> Hashable:
    """What tells tuples of one type from those of another, mostly found sooner than the type is."""
    try:
        return bytes(_dispatcher.compute_fingerprint(value))
    except NotImplementedError:  # functions are in it, a policy's from outside
        return cast(Hashable, type_of_value(value))


CODES: dict[tuple[Any, ...], int] = {}
"""What `code_of` has found, by functions and kinds of their arguments."""


def code_of(function: Any, *examples: Any) -> int:
    """Where the code of a `jit.compiled` function is for arguments of the types of examples: see `called_at`."""
    if PLAIN:
        return id(function)
    key = function, *map(kind_of, examples)
    if key not in CODES:
        kinds = tuple(type_of_value(example) for example in examples)
        function.compile(kinds)
        made = function.overloads[kinds]
        CODES[key] = int(made.library.get_pointer_to_function(made.fndesc.llvm_func_name))
    return CODES[key]


class _Address(numba.models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, type_: HeldType) -> None:
        super().__init__(manager, type_, manager[type_.plain].get_value_type().as_pointer())


def _write_down(type_: HeldType, value: Any, c: Any) -> Any:
    """Write the fields of a tuple of Python's where compiled code reads them."""
    fields = unbox_tuple(type_.plain, value, c)
    written = build.alloca_once_value(c.builder, fields.value)
    return numba.NativeValue(_hidden(c, written), cleanup=fields.cleanup, is_error=fields.is_error)


def _hidden(c: Any, written: Any) -> Any:
    # Fields are read as what never changes. The optimiser must not know that this is the memory
    # that was just written, or it might read first.
    hide = ir.FunctionType(written.type, [written.type])
    return c.builder.asm(hide, "", "=r,0,~{memory}", [written], side_effect=True)


def _write_to_keep(type_: HeldType, value: Any, c: Any, buffers: Any, failed: Any) -> Any:
    """Write a tuple, and those in it before, to new buffers of Python's; where it is."""
    builder, api, values = c.builder, c.pyapi, []
    for i, field in enumerate(type_.plain):
        own = api.tuple_getitem(value, i)
        if isinstance(field, HeldType):
            values.append(_write_to_keep(field, own, c, buffers, failed))
            continue
        native = c.unbox(field, own)
        assert native.cleanup is None  # nothing of it is lent for one call only
        builder.store(builder.or_(builder.load(failed), native.is_error), failed)
        values.append(native.value)
    fields = c.context.make_tuple(builder, type_.plain, values)
    source = builder.bitcast(build.alloca_once_value(builder, fields), api.cstring)
    size = ir.Constant(api.py_ssize_t, c.context.get_abi_sizeof(fields.type))
    copy = api.bytes_from_string_and_size(source, size)
    api.list_append(buffers, copy)
    api.decref(copy)  # the list has it
    return builder.bitcast(api.bytes_as_string(copy), fields.type.as_pointer())


def _find_or_write(type_: KeptType, value: Any, c: Any) -> Any:
    """Find what is written down of a tuple of Python's; write it down the first time."""
    builder, api = c.builder, c.pyapi
    for name in ("noinline", "optnone"):  # it runs once a call: optimising it took a twentieth of a cold start
        builder.function.attributes.add(name)
    pointer = c.context.get_value_type(type_)
    where = build.alloca_once(builder, pointer)
    failed = build.alloca_once_value(builder, build.false_bit)
    buffers = api.object_getattr_string(value, KEPT)
    new = builder.icmp_unsigned("==", buffers, api.borrow_none())
    with builder.if_else(new, likely=False) as (first, again):
        with first:
            written = api.list_new(ir.Constant(api.py_ssize_t, 0))
            builder.store(_write_to_keep(type_, value, c, written, failed), where)
            with builder.if_then(builder.not_(builder.load(failed))):
                api.object_setattr_string(value, KEPT, written)
            api.decref(written)
        with again:
            last = builder.sub(api.list_size(buffers), ir.Constant(api.py_ssize_t, 1))
            text = api.bytes_as_string(api.list_getitem(buffers, last))
            builder.store(builder.bitcast(text, pointer), where)
    api.decref(buffers)
    known = _hidden(c, builder.load(where))
    return numba.NativeValue(known, is_error=builder.load(failed))


def _held_at(context: Any, address: Any, like: Any) -> Any:
    """In compiled code: the tuple of the type of `like` that is written down at an address."""

    def made(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(like))

    return like(types.int64, like), made


def _found_at(address: int, like: Any) -> Any:
    """The same without Numba."""
    return ctypes.cast(int(address), ctypes.py_object).value


held_at = _found_at if PLAIN else numba.intrinsic(_held_at)


def _called_at(context: Any, code: Any, first: Any, more: Any) -> Any:
    """In compiled code: what a function gives, a whole number, whose code is at an address (`code_of`).

    Its first argument is a tuple of a class marked `kept`, by its address. Callers are compiled without it: they
    call functions of any types.
    """

    def made(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        convention, kinds = context.call_conv, (types.voidptr, *more)
        kind = convention.get_function_type(types.int64, kinds)
        callee = builder.inttoptr(args[0], kind.as_pointer())
        values = [builder.inttoptr(args[1], api_pointer), *build.unpack_tuple(builder, args[2])]
        status, result = convention.call_function(builder, callee, types.int64, kinds, values)
        with builder.if_then(status.is_error, likely=False):
            convention.return_status_propagate(builder, status)
        return result

    return types.int64(types.int64, types.int64, more), made


def _called(code: int, first: int, more: Any) -> Any:
    """The same without Numba."""
    return _found_at(code, None)(_found_at(first, None), *more)


api_pointer = ir.IntType(8).as_pointer()
called_at = _called if PLAIN else numba.intrinsic(_called_at)


def _field(context: Any, builder: Any, type_: HeldType, value: Any, name: str) -> Any:
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


numba.register_model(HeldType)(_Address)
numba.register_model(KeptType)(_Address)
numba.unbox(HeldType)(_write_down)
numba.unbox(KeptType)(_find_or_write)
numba.lower_getattr_generic(HeldType)(_field)
