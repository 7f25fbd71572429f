"""Compiled functions, cached on disk under a hash of the library's source code.

Numba's own cache does not notice an edit in a function that a cached one calls from another
file. Here the folder's name is a hash of every source file of the library, so a changed
library never meets an old cache, and an unchanged one starts warm, wherever it is installed.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core import serialize
from numba.core.caching import IndexDataCacheFile

from .errors import InputError
from .jit_hooks import reason_of
from .jit_parts import Either, PartCompiler, keep_less_book
from .own_folder import cache_folder

F = TypeVar("F", bound=Callable[..., object])
R = TypeVar("R")

int64: Callable[[int], int] = cast(Any, np.int64)
"""Integer type for initial values in compiled code. After ``n = 0`` Numba types `n` first as the literal 0, and
compiles a function that takes `n` twice, for the literal and for a number."""

ROOT = Path(__file__).resolve().parent.parent
"""Folder of the library."""


@lru_cache(maxsize=1)
def cache_dir() -> Path | None:
    """Return the folder of this library version's compiled code; None if no folder belongs only to the caller.

    ``OPBYTE_CACHE`` replaces the user's cache folder. The folder's content is executed.
    """
    digest = hashlib.sha256(f"{numba.__version__}".encode())
    for folder in ("workloads", "devices", "simulator", "kernels"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(file.relative_to(ROOT)).encode())
            digest.update(file.read_bytes())
    return cache_folder(digest.hexdigest()[:16])


def compiled(function: F) -> F:
    """Compile on first call (`numba.njit`) and keep the result in :func:`cache_dir`."""
    # Without the interpreter's lock, so that a signal can end a long call (analysis/show).
    return stored(lambda cache: _njit(function, cache=cache, no_cfunc_wrapper=True, nogil=True))


def compiled_code(function: F) -> F:
    """Like `compiled`, for functions that are only called by address (`jit_address.code_of`)."""
    return stored(lambda cache: _njit(function, cache=cache, no_cpython_wrapper=True, no_cfunc_wrapper=True))


def stored(make: Callable[[bool], F]) -> F:
    """Call `make` with the switch of Numba's cache while that cache is in :func:`cache_dir`, and return its result."""
    folder = cache_dir()
    config: Any = numba.config  # its stubs lack the setting
    before = config.CACHE_DIR
    config.CACHE_DIR = str(folder or "")
    try:
        return make(folder is not None)
    finally:
        config.CACHE_DIR = before


def compiled_part(function: F) -> F:
    """Compile a function that only compiled functions call.

    Without wrappers for Python callers and without a separate cache entry (it is stored in its caller's), which halves
    the time of a cold start. Python must not call it.
    """
    return _njit(function, **PART)


def plainly(part: Callable[..., Any]) -> Callable[..., Any]:
    """Return the plain Python function behind a compiled one. It must not call other compiled parts."""
    return cast(Callable[..., Any], getattr(part, "py_func", part))


def compiled_inside(function: F) -> F:
    """Like `compiled_part`, for a short function that is inlined into all its callers.

    A call passes every array of a state separately. If that costs more than the work itself, inlining is faster.
    """
    return _njit(function, **PART, forceinline=True)


def compiled_given(path: str, otherwise: Callable[..., object]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Like `compiled_part`, for a function that is needed only if an optional argument or field is present.

    If it is None, `otherwise` is called with the same arguments, and the decorated function is never compiled.

    Parameters
    ----------
    path : str
        An argument, or a field of one: ``state.pool``.
    otherwise : callable
        Another part, or a plain function to be compiled as one.
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        return cast(Callable[..., R], Either(_part(function), _part(otherwise), path))

    return decorate


def compiled_by(path: str, name: str = "") -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Like `compiled_given`, but the optional record brings the function.

    Without the record, the decorated function runs.

    The record's class has the function in its dictionary `brings`, under `name` or the decorated function's name. So
    the caller does not depend on the classes of such records.
    """

    def decorate(function: Callable[..., R]) -> Callable[..., R]:
        return cast(Callable[..., R], Either(None, _part(function), path, name or function.__name__))

    return decorate


def _part(function: Any) -> Any:
    """Return a function as a compiled part, unless it is one already."""
    return function if isinstance(function, Either) or hasattr(function, "py_func") else compiled_part(function)


def compiled_from_outside(function: F, entry: type, fields: Sequence[Any], where: str) -> F:
    """Compile a user-defined rule immediately, so that errors of compilation are reported before the run.

    Parameters
    ----------
    function : callable
        The rule, a function of one argument, which is a named tuple.
    entry : type
        Class of that tuple.
    fields : sequence of numba types
        Types of the tuple's fields.
    where : str
        What names the rule, for the message.

    Raises
    ------
    InputError
        Numba cannot compile it.
    """
    try:
        return cast(F, _rule(function, entry, tuple(fields)))
    except Exception as error:
        raise InputError(where, f"cannot be compiled: {reason_of(error, entry)}") from error


@cache
def _rule(function: Callable[..., object], entry: type, fields: tuple[Any, ...]) -> object:
    """Compile a rule once. Each rule has a separate type, so that an engine is compiled for each rule."""
    made: Any = compiled_part(function)
    named_tuple: Any = numba.types.NamedTuple
    made.compile((named_tuple(fields, entry),))
    return cast(object, made)


PART: Any = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "pipeline_class": PartCompiler}


keep_less_book()


def _njit(function: F, **options: Any) -> F:
    # Without reference counts (`_nrt`): compiled code allocates nothing, and counting the
    # references of every array view took half of its time. An allocation fails to compile.
    jit: Callable[..., Callable[[F], F]] = numba.njit  # its stubs lack some options
    return forgiving(jit(error_model="numpy", _nrt=False, **options)(function))


class _Forgiving:
    """A cache of compiled code that may fail: without it, code is compiled again.

    Numba's cache ends the program if its folder is full or a file is truncated.

    Parameters
    ----------
    inner : numba.core.caching.Cache
    threads : bool
        The code starts threads: what that needs is loaded before it. Other code does without
        what Numba's own method loads first, all that a compile would need.
    """

    def __init__(self, inner: Any, threads: bool) -> None:
        self._inner = inner
        inner._index_key = lambda signature, codegen: (signature, codegen.magic_tuple(), code_key(inner._py_func))
        plain = inner.load_overload
        self._load = plain if threads else getattr(inner, "_load_overload", plain)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def load_overload(self, *args: Any) -> Any:
        try:
            return self._load(*args)
        except Exception:  # noqa: BLE001  # whatever unpickling the bytes of a broken file raises
            with suppress(OSError):
                self._inner.flush()
            return None

    def save_overload(self, *args: Any) -> None:
        with suppress(OSError, TypeError):  # a class of a script, which is no module, cannot be pickled
            self._inner.save_overload(*args)


def code_key(function: Any) -> tuple[Any, ...]:
    """Return the key under which a function's compiled code is cached: its bytecode and the values of its closure.

    Numba's key identifies a compiled function in a closure by an id that differs in every process, so that such code
    would be compiled and stored again each time.
    """
    closed, value_of = [cell.cell_contents for cell in function.__closure__ or ()], cast(Any, serialize.dumps)
    return (
        hashlib.sha256(function.__code__.co_code).hexdigest(),
        tuple(code_key(value.py_func) if hasattr(value, "py_func") else value_of(value) for value in closed),
    )


def forgiving(function: F, threads: bool = False) -> F:
    """Make a compiled function work without a cache that cannot be read or written; see `_Forgiving`."""
    dispatcher, config = cast(Any, function), cast(Any, numba.config)  # whose stubs lack settings
    if config.DISABLE_JIT:  # plain Python, for a debugger
        return function
    with suppress(ValueError, TypeError):  # not of the library; no cache
        _share(dispatcher._cache, Path(inspect.getfile(dispatcher.py_func)))
    dispatcher._cache = _Forgiving(dispatcher._cache, threads)
    return function


def _share(cache: Any, file: Path) -> None:
    """Cache code under the source file's path within the library, so that all copies of equal sources share it.

    Numba uses the absolute path, so that a wheel would compile again what its checkout has compiled.
    """
    folder = Path(cache.cache_path).parent / file.resolve().relative_to(ROOT).parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    cache._cache_path = str(folder)
    cache._cache_file = IndexDataCacheFile(str(folder), cache._impl.filename_base, "")  # type: ignore[no-untyped-call]
