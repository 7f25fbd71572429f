"""Named tuples passed by address, and functions called by address.

Numba passes a tuple as one argument per field, and an array as seven or more. Tuples of classes marked `by_address` are
stored once, in memory with their lifetime; a call passes one address, and a field is read where it is used. Compiled
code reads a tuple by its address (`held_at`) and calls code by its address (`called_at`), so that it is compiled once
for all targets.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
from llvmlite import ir
from numba import config, extending, typeof
from numba.core import cgutils, types

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., object])

numba: Any = extending  # types of most of these are not known
build: Any = cgutils
type_of_value: Any = typeof
kinds: Any = types
settings: Any = config  # its stubs lack this one
PLAIN: bool = settings.DISABLE_JIT
"""Whether all compiled functions run as plain Python (Numba's JIT is disabled)."""


class AddressType(types.NamedTuple):
    """Numba type of a named tuple that is passed by its address."""

    def __init__(self, fields: list[Any], cls: type) -> None:
        super().__init__(fields, cls)  # type: ignore[no-untyped-call]
        self.plain = kinds.BaseTuple.from_types(fields, cls)  # the fields themselves

    @property
    def mangling_args(self) -> tuple[str, tuple[()]]:
        """Return a short name for symbols, because LLVM reads and compares symbol names very often."""
        digest = hashlib.sha256(self.name.encode()).hexdigest()[:12]
        return f"{self.instance_class.__name__}_{digest}", ()


def by_address(cls: C) -> C:
    """Mark a class of named tuples as passed by address.

    Fields never change, and their arrays must not be resized in place.
    """
    what = {"__doc__": cls.__doc__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    written = cached_property(_written)
    made: Any = type(cls)(cls.__name__, (cls,), {**what, "_written": written, "__reduce__": _reduced})
    written.__set_name__(made, "_written")

    def type_of(value: Any, context: Any) -> AddressType:
        fields = [_type_of_field(field, context) for field in value]
        key = made, *map(id, fields)  # types are unique; the one that is kept keeps those of its fields
        if key not in HELD:
            HELD[key] = AddressType(fields, made)
        value._numba_type_ = HELD[key]  # where Numba looks for it first
        return HELD[key]

    numba.typeof_impl.register(made)(type_of)
    return cast(C, made)


HELD: dict[tuple[Any, ...], AddressType] = {}
"""Types of tuples by class and the ids of their fields' types. Numba would hash all field types at every look-up."""
ARRAYS: dict[tuple[Any, ...], Any] = {}
"""Numba types of arrays by number format, dimensions and flags."""


def _type_of_field(value: Any, context: Any) -> Any:
    """Return the Numba type of a tuple's field."""
    if not isinstance(value, np.ndarray):
        return getattr(value, "_numba_type_", None) or numba.typeof_impl(value, context)
    key = value.dtype, value.ndim, value.flags.num
    if key not in ARRAYS:
        ARRAYS[key] = numba.typeof_impl(value, context)
    return ARRAYS[key]


def bring(cls: Any, **functions: Any) -> None:
    """Set the functions that the records of a class bring; see `jit.compiled_by`."""
    cls.brings = functions


def _reduced(value: Any) -> Any:
    """Return what pickling and copying need to build the tuple again, without its memory layout for compiled code."""
    return type(value), tuple(value)


def _written(value: Any) -> bytes:
    """Return a tuple as bytes in the memory layout that compiled code reads."""
    numbers: list[Any] = []
    kind = type_of_value(value)
    for field, part in zip(kind.plain.types, value, strict=True):
        _number(field, part, numbers)
    if id(kind) not in LAYOUTS:
        LAYOUTS[id(kind)] = struct.Struct("@" + "".join(_codes(kind.plain))), kind
    return LAYOUTS[id(kind)][0].pack(*numbers)


LAYOUTS: dict[int, tuple[struct.Struct, AddressType]] = {}
"""Memory layout (`struct` format) of each type of tuple, by the type's id, and the type itself."""


def _codes(kind: Any) -> list[str]:
    """Return the `struct` codes of a type; "0q" aligns to an 8-byte word."""
    if isinstance(kind, kinds.BaseTuple) and not isinstance(kind, AddressType):
        inner = [code for field in kind.types for code in _codes(field)]
        pad = ["0q"] if any(code != "?" for code in inner) else []
        return [*pad, *inner, *pad]
    if isinstance(kind, kinds.Array):
        return ["PPqqP", "q" * 2 * kind.ndim]
    for code, known in CODED.items():
        if isinstance(kind, known):
            return [code]
    raise TypeError(f"{kind} cannot be written down")


CODED: dict[str, tuple[type, ...]] = {
    "P": (AddressType, kinds.NoneType, kinds.Dispatcher), "?": (kinds.Boolean,), "d": (kinds.Float,), "q": (kinds.Integer,),
}  # fmt: skip


def _number(kind: Any, value: Any, numbers: list[Any]) -> None:
    """Append the numbers that represent a value of the type `kind` in memory."""
    if isinstance(value, np.ndarray):
        plain = np.asarray(value)  # records answer more slowly, and describe all their fields with their address
        numbers += 0, 0, plain.size, plain.itemsize, plain.ctypes.data, *plain.shape, *plain.strides
    elif isinstance(kind, AddressType):
        numbers.append(address_of(value))
    elif isinstance(kind, kinds.BaseTuple):
        for field, part in zip(kind.types, value, strict=True):
            _number(field, part, numbers)
    else:
        numbers.append(0 if isinstance(kind, (kinds.NoneType, kinds.Dispatcher)) else value)


def address_of(value: Any) -> int:
    """Return the address of a `by_address` tuple's memory, which is valid while the tuple exists."""
    if PLAIN:
        return id(value)
    return int(np.frombuffer(value._written, dtype=np.uint8).ctypes.data) if len(value) else 0


CODES: dict[tuple[Any, ...], int] = {}
"""Addresses that `code_at` has found, by function and the ids of its argument types."""
KEPT: list[tuple[Any, ...]] = []
"""Argument types of `CODES`, kept alive so that no other type gets the id of one of them."""


def code_at(function: Any, arguments: tuple[Any, ...], result: Any = types.int64) -> int:
    """Return the code address of a `jit.compiled_code` function for the given argument types; see `called_at`."""
    if PLAIN:
        return id(function)
    key = function, *map(id, arguments)
    if key not in CODES:
        KEPT.append(arguments)
        function.compile(result(*arguments))
        made = function.overloads[arguments]
        CODES[key] = int(made.library.get_pointer_to_function(made.fndesc.llvm_func_name))
    return CODES[key]


def code_of(function: Any, *examples: Any) -> int:
    """Return the code address of a function that returns an integer, for arguments of the types of the examples."""
    return code_at(function, tuple(map(type_of_value, examples)))


class _Address(numba.models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, type_: AddressType) -> None:
        super().__init__(manager, type_, manager[type_.plain].get_value_type().as_pointer())


def _find(type_: AddressType, value: Any, c: Any) -> Any:
    """Convert a Python tuple to the address of its memory, for Numba."""
    text = c.pyapi.object_getattr_string(value, "_written")
    address = c.builder.ptrtoint(c.pyapi.bytes_as_string(text), ir.IntType(64))
    c.pyapi.decref(text)  # the tuple has it
    return numba.NativeValue(c.builder.inttoptr(address, c.context.get_value_type(type_)))


def _held_at(context: Any, address: Any, like: Any) -> Any:
    """Return the tuple at an address as a value of the type of `like`, in compiled code."""

    def made(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(like))

    return like(types.int64, like), made


def _found_at(address: int, like: Any = None) -> Any:
    """Return the object at an address: `held_at` without Numba."""
    return ctypes.cast(int(address), ctypes.py_object).value


held_at = _found_at if PLAIN else numba.intrinsic(_held_at)


def _call(context: Any, builder: Any, code: Any, first: Any, result: Any, arguments: Any, values: Any) -> Any:
    """Emit a call of the code at an address, with the tuple at address `first` and further arguments."""
    convention, argument_types = context.call_conv, (types.voidptr, *arguments)
    callee = builder.inttoptr(code, convention.get_function_type(result, argument_types).as_pointer())
    values = [builder.inttoptr(first, ir.IntType(8).as_pointer()), *values]
    status, value = convention.call_function(builder, callee, result, argument_types, values)
    with builder.if_then(status.is_error, likely=False):
        convention.return_status_propagate(builder, status)
    return value


def reader(kind: np.dtype[Any]) -> Callable[[Any], Any]:
    """Return a function for compiled code that reads the first numbers of a contiguous vector as a record, in place.

    It does not use `view`, which Numba would compile for every record.
    """
    record = type_of_value(np.zeros(1, kind)[0])

    def typing(context: Any, values: Any) -> Any:
        if values.layout != "C":
            return None  # no code: its numbers do not lie side by side

        def made(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = context.make_array(values)(context, builder, args[0]).data
            return builder.bitcast(data, context.get_value_type(record))

        return record(values), made

    count = len(kind.names or ())
    return (lambda values: values[:count].view(kind)[0]) if PLAIN else numba.intrinsic(typing)


def _caller(result: Any) -> Any:
    """Return a function for compiled code that calls code at an address and returns a value of type `result`.

    Its first argument is the address of a `by_address` tuple. A caller's compilation does not depend on that tuple's
    type, so it can call functions of any type.
    """

    def typing(context: Any, code: Any, first: Any, more: Any) -> Any:
        def made(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _call(context, builder, args[0], args[1], result, more, build.unpack_tuple(builder, args[2]))

        return result(types.int64, types.int64, more), made

    return _called if PLAIN else numba.intrinsic(typing)


def _called(code: int, first: int, more: Any) -> Any:
    """Call the function at an address: `called_at` without Numba."""
    return _found_at(code)(_found_at(first), *more)


called_at = _caller(types.int64)
seconds_at = _caller(types.float64)


def _field(context: Any, builder: Any, type_: AddressType, value: Any, name: str) -> Any:
    at = build.gep_inbounds(builder, value, 0, type_.fields.index(name))
    return _read(builder, at, at.type.pointee)


def _read(builder: Any, at: Any, what: Any) -> Any:
    """Emit a load of a value; arrays are loaded part by part, because most uses need only two or three parts."""
    if not isinstance(what, (ir.LiteralStructType, ir.ArrayType)):
        load = builder.load(at)
        load.set_metadata("invariant.load", builder.module.add_metadata([]))
        return load
    result = ir.Constant(what, ir.Undefined)
    for i in range(len(what)):
        part = build.gep_inbounds(builder, at, 0, i)
        result = builder.insert_value(result, _read(builder, part, part.type.pointee), i)
    return result


numba.register_model(AddressType)(_Address)
numba.unbox(AddressType)(_find)
numba.lower_getattr_generic(AddressType)(_field)
