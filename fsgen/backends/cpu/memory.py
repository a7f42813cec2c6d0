"""Memory as compiled code sees it: addresses, and numbers by their bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

# Sums may be taken in any order, the same one each time; NaN and infinity stay what they are.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"}}
# What has sums becomes part of the one function that is kept: else a process that compiles it would link to other
# copies of these parts than one that reads it from the disk, which the compiler may have given another order of sums.
inlined = njit(forceinline=True, **OPTIONS)

# What an address is of.
FLOATS, HALVES, PAIRS, BYTES, WHOLES = np.float32(0), np.uint16(0), np.uint32(0), np.int8(0), np.int64(0)


@intrinsic
def at(context: Any, array: Any, offset: Any) -> Any:
    """The address of an entry of an array, counted from its first one."""

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        held = context.make_array(array)(context, builder, arguments[0])
        return builder.gep(held.data, [arguments[1]])

    return types.CPointer(array.dtype)(array, types.int64), code


@intrinsic
def float_of_bits(context: Any, bits: Any) -> Any:
    """The float32 that has these 32 bits."""

    def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), code


@intrinsic
def bits_of_float(context: Any, number: Any) -> Any:
    """The 32 bits of a float32."""

    def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), code


@intrinsic
def pointer(context: Any, address: Any, like: Any) -> Any:
    """An address, as that of numbers of a type."""

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(like)))

    return types.CPointer(like)(types.int64, like), code


@inlined
def array(address, like, shape):
    return carray(pointer(address, like), shape)


@inlined
def alike(numbers, like):
    """The same memory, as numbers of another type."""
    return carray(pointer(numbers.ctypes.data, like), 1)


@inlined
def view(array, offset, length):
    """Part of an array, counted from its first entry; a slice would take longer to make than to read."""
    return carray(at(array, offset), length)
