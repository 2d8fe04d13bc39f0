"""Compiled functions, and how the threads that torch computes with run one together.

A second set of threads, such as numba's own, would compete with torch's for the cores: a helper of one that waits for
its next work spins, and the other's cannot begin. So the region that all threads enter is opened in the OpenMP runtime
that torch has loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba
import numpy as np

# Before the search for its OpenMP runtime, which it loads.
import torch  # noqa: F401
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from python_backends.openmp import loaded_runtimes

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be taken in any order, as vectors need; infinities and NaN keep their meaning.
_FAST_MATH = {"reassoc", "nsz", "contract", "arcp"}
_OPEN_REGION, _THREAD, _NUM_THREADS = "GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads"

_SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).digest()
_INT32, _BYTES, _VOID = ir.IntType(32), ir.IntType(8).as_pointer(), ir.VoidType()

# A thread that works alone. Plain whole numbers would have the function compiled once more, for just these two.
FIRST: Any = np.int64(0)
ALONE: Any = np.int64(1)


def compiled(function: Function) -> Function:
    """The function as machine code, made at its first call with arguments of these types.

    It is kept on disk, unless no folder can be written to.
    """
    # Without `nrt` nothing can be allocated, and no slice is counted.
    made = numba.njit(nogil=True, error_model="numpy", fastmath=_FAST_MATH, _nrt=False)(function)
    with suppress(RuntimeError):
        made.enable_caching()
        # numba compares the function's own file only, and what it calls is in others.
        kept = made._cache._cache_file
        kept._source_stamp = (kept._source_stamp, _SOURCES)
    return cast(Function, made)


def inlined(function: Function) -> Function:
    """A part of compiled functions."""
    decorate = numba.njit(inline="always", error_model="numpy", fastmath=_FAST_MATH, _nrt=False)
    return cast(Function, decorate(function))


def generated(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of compiled functions that says by itself what its machine code is."""
    return cast(Callable[..., Any], intrinsic(function))


@generated
def run_team(context: Any, body: Any, arguments: Any) -> Any:
    """Call `body(thread, num_threads, *arguments)` on each of torch's threads; returns when all have returned.

    `body` is a compiled function that cannot fail, `arguments` a tuple.
    """
    called = context.resolve_function_type(body, (types.intp, types.intp, *arguments.types), {})

    def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
        shared = cgutils.alloca_once_value(builder, values[1])
        region = _region(target, builder.module, body, called, shared.type)
        open_region = _external(builder.module, _OPEN_REGION, _VOID, [region.type, _BYTES, _INT32, _INT32])
        # No wish for a number of threads, no flags.
        builder.call(open_region, [region, builder.bitcast(shared, _BYTES), _INT32(0), _INT32(0)])
        return target.get_dummy_value()

    return types.void(body, arguments), generate


def _region(target: Any, module: Any, body: Any, called: Any, shared: Any) -> Any:
    """What each thread enters: it takes the arguments apart and calls the body."""
    region = ir.Function(module, ir.FunctionType(_VOID, [_BYTES]), module.get_unique_name("team_region"))
    region.linkage = "internal"
    builder = ir.IRBuilder(region.append_basic_block())
    arguments = builder.load(builder.bitcast(region.args[0], shared))
    numbers = [builder.call(_external(module, name, _INT32, []), []) for name in (_THREAD, _NUM_THREADS)]
    code = body.dispatcher.get_compile_result(called)
    target.active_code_library.add_linking_library(code.library)
    values = [builder.sext(number, target.get_value_type(types.intp)) for number in numbers]
    values += [builder.extract_value(arguments, index) for index in range(len(called.args) - len(values))]
    target.call_internal_no_propagate(builder, code.fndesc, called, values)
    builder.ret_void()
    return region


def _external(module: Any, name: str, result: Any, arguments: list[Any]) -> Any:
    return cgutils.get_or_insert_function(module, ir.FunctionType(result, arguments), name)


@compiled
def share(thread: int, num_threads: int, total: int) -> tuple[int, int]:
    """The first and the last (exclusive) of `total` things that are this thread's."""
    return total * thread // num_threads, total * (thread + 1) // num_threads


def _find_team() -> bool:
    for path in loaded_runtimes():
        runtime = ctypes.CDLL(path)
        if all(hasattr(runtime, name) for name in (_OPEN_REGION, _THREAD, _NUM_THREADS)):
            for name in (_OPEN_REGION, _THREAD, _NUM_THREADS):
                llvm.add_symbol(name, ctypes.cast(getattr(runtime, name), ctypes.c_void_p).value)
            return True
    return False


# Whether torch's threads can be used; without them nothing of this package can be called.
HAS_TEAM = _find_team()
