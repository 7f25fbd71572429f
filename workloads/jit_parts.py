"""Compilation of functions that only compiled functions call: as code to be linked, not to be run.

Numba compiles every function separately, with all its callees, and optimises each level of calls again within the one
above. For functions without callers in Python this is never run; it took a third of a cold start. Here they stay
lowered, and are optimised once, within the function that Python calls. Some (`Either`) are compiled only for runs that
use them.

Shortcuts around Numba's compilation, with the same generated code.

A tenth of a cold start was spent on looking for new registrations and on listeners of every lock. Another was typing:
Numba tries all overloads of an operator, for arrays, strings, dates and sets, whenever surrounding types become known.
"""

from __future__ import annotations

import inspect
from typing import Any

import llvmlite.binding as llvm
from llvmlite.binding import ffi
from numba import _dynfunc  # type: ignore[attr-defined]
from numba.core import base, compiler_lock, postproc, transforms, types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.targetconfig import ConfigStack
from numba.core.typed_passes import NativeLowering
from numba.core.typing import context


def keep_less_book() -> None:
    """Replace slow parts of Numba's compiler with the faster versions of this module, in this process."""
    calls: Any = types.Function
    calls.get_call_type = _typed_once(calls.get_call_type)
    for kind in (base.BaseContext, context.BaseContext):
        kind.refresh = _once(kind.refresh)  # type: ignore[method-assign]
    lifetimes: Any = postproc.PostProcessor
    lifetimes.run = _lives(lifetimes.run)
    lock: Any = compiler_lock.global_compiler_lock
    owned_lock: Any = lock._lock
    type(lock).acquire = lambda self: owned_lock.acquire()
    type(lock).release = lambda self: owned_lock.release()
    ffi.lib._lock._cblist.clear()  # who listens to LLVM's lock


def _typed_once(type_call: Any) -> Any:
    """Cache the typing of calls of Numba's built-in functions by argument types and options."""
    known: dict[tuple[Any, ...], Any] = {}

    def type_once(function: Any, context: Any, args: Any, kws: Any) -> Any:
        flags = ConfigStack.top_or_none()
        options = repr(flags._values) if flags is not None else ""
        key = (context, function, tuple(args), tuple(dict(kws).items()), options)
        if key not in known:
            known[key] = type_call(function, context, args, kws)
        return known[key]

    return type_once


def _once(refresh: Any) -> Any:
    """Make Numba's contexts look for new registrations only if a registry has grown."""

    def look(self: Any) -> None:
        now = _registered(self)
        if self.__dict__.get("_looked") != now:
            refresh(self)
            self._looked = now  # what this look has brought in is looked at by the next

    return look


def _registered(of: Any) -> int:
    """Return the number of entries in the registries of a context and its typing context."""
    typing = [of.typing_context] if hasattr(of, "typing_context") else []
    loaders = [loader for holder in (of, *typing) for loader in holder._registries.items()]
    return sum(len(getattr(registry, name)) for registry, loader in loaders for name in loader.registry_items)


def _lives(compute: Any) -> Any:
    """Return Numba's lifetime pass without the variables that live at block starts, which only generators need."""

    def run(self: Any, emit_dels: bool = False, extend_lifetimes: bool = False) -> None:
        code = self.func_ir
        if code.is_generator:
            compute(self, emit_dels, extend_lifetimes)
            return
        code.blocks = transforms.canonicalize_cfg(code.blocks)
        code.variable_lifetime = postproc.VariableLifetime(code.blocks)
        code.generator_info = None
        if emit_dels:
            self._insert_var_dels(extend_lifetimes=extend_lifetimes)

    return run


class _Part(JITCodeLibrary):
    """Code of one function and of all that it calls, for other code to link."""

    def _optimize_functions(self, ll_module: Any) -> None:
        """Run only the passes that reduce code size, because the linking function optimises the code again."""
        ll_module.data_layout = self._codegen._data_layout
        builder = self._codegen._pass_builder()
        for function in ll_module.functions:
            if function.is_declaration:
                continue
            passes = llvm.create_new_function_pass_manager()
            passes.add_sroa_pass()
            passes.add_simplify_cfg_pass()
            passes.add_instruction_combine_pass()
            passes.run(function, builder)

    def finalize(self) -> None:
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalize_dynamic_globals()
        self._verify_declare_only_symbols()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _PartLowering(NativeLowering):
    """Numba's lowering pass without its last step: the code is not made executable."""

    _name = "opbyte_part_lowering"

    def run_pass(self, state: Any) -> bool:
        library = _Part(state.targetctx.codegen(), state.func_id.func_qualname)
        library.enable_object_caching()
        state.library = library
        state.flags.no_compile = True
        super().run_pass(state)
        library.finalize()
        lowered, name = state.cr, state.func_id.func_name
        # What callers know the function by; Python finds no entry in it.
        handle = _dynfunc.make_function(state.func_id.func, name, "", 0, lowered.env, (library,))
        state.targetctx.insert_user_function(handle, lowered.fndesc, [library])
        state.reload_init.extend(library._reload_init)
        state.cr = lowered._replace(cfunc=handle)
        return True


class PartCompiler(CompilerBase):
    """Compiler pipeline for functions that only compiled functions call."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [(_PartLowering if kind is NativeLowering else kind, about) for kind, about in passes.passes]
        passes.finalize()
        return [passes]


class Either:
    """One of two functions, chosen at compile time by whether an argument, or a field of it, is None.

    With a `name` the class of the field has the first of them, by this name in its `brings`.

    Compiled callers take it for a function like any other, and only the part that they need is
    compiled. Parameters as those of `jit.compiled_given`.
    """

    def __init__(self, present: Any, absent: Any, path: str, name: str = "") -> None:
        self._present, self._absent, self._name = present, absent, name
        argument, *self._fields = path.split(".")
        self.__signature__ = inspect.signature(getattr(absent, "py_func", absent))
        self._at = list(self.__signature__.parameters).index(argument)
        self._numba_type_ = types.Dispatcher(self)  # type: ignore[type-var]
        self.is_compiling = False  # by itself; a part never calls itself

    def _chosen(self, args: Any) -> Any:
        type_ = args[self._at]
        for name in self._fields:
            if not isinstance(type_, types.NoneType):
                type_ = type_.types[type_.fields.index(name)]
        if isinstance(type_, types.NoneType):
            return self._absent
        return type_.instance_class.brings[self._name] if self._name else self._present

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """Return the template with which Numba types a call (`numba.types.Dispatcher` calls this)."""
        return self._chosen(args).get_call_template(args, kws)

    def get_overload(self, args: Any) -> Any:
        """Return the compiled code for arguments of these types."""
        return self._chosen(args).get_overload(args)

    def __call__(self, *args: Any) -> Any:
        """Call the chosen function in plain Python, for a debugger."""
        value = args[self._at]
        for name in self._fields:
            value = None if value is None else getattr(value, name)
        if value is None:
            return self._absent(*args)
        return (type(value).brings[self._name] if self._name else self._present)(*args)
