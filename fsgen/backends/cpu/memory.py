"""Memory as compiled code sees it: addresses, and numbers by their bits."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic
from torch import Tensor

# Sums may be taken in any order, the same one each time; NaN and infinity stay what they are.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"}}
# What has sums becomes part of the one function that is kept: else a process that compiles it would link to other
# copies of these parts than one that reads it from the disk, which the compiler may have given another order of sums.
inlined = njit(forceinline=True, **OPTIONS)
# Of that function from the start, so that it is not compiled on its own first; for what calls other parts.
stage = njit(inline="always", **OPTIONS)

# One number of each type, to say what an address is of. A bfloat16 is the uint16 of its bits, a pair of them a uint32;
# of int8 a pair is an int16, of int16 an int32.
FLOAT32, INT8, INT16, INT64 = np.float32(0), np.int8(0), np.int16(0), np.int64(0)
BFLOAT16, BFLOAT16_PAIR = np.uint16(0), np.uint32(0)
INT8_PAIR, INT16_PAIR = np.int16(0), np.int32(0)


def fields(names: str, kind: Any = np.int64) -> list[tuple[str, Any]]:
    """Fields of a record type, of one kind each; a number, or an address."""
    return [(name, kind) for name in names.split()]


def advise_huge_pages(numbers: Tensor) -> None:
    """Asks for huge pages, of which fewer have to be looked up; for memory that nothing has been written to yet.

    Only advice: on a system that takes none, all works the same, a few percent slower for large weights.
    """
    if sys.platform == "linux":
        start = -(-numbers.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        length = numbers.data_ptr() + numbers.nbytes - start
        if length > 0:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)


@intrinsic
def pointer(context: Any, address: Any, like: Any) -> Any:
    """An address, as that of numbers of a type."""

    def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(types.CPointer(like)))

    return types.CPointer(like)(types.int64, like), code


@intrinsic
def address_of(context: Any, start: Any) -> Any:
    """What a pointer points to, as a number."""

    def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.ptrtoint(arguments[0], ir.IntType(64))

    return types.int64(start), code


@intrinsic
def at(context: Any, start: Any, offset: Any) -> Any:
    """A pointer, so many numbers further on."""

    def code(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return start(start, types.int64), code


@inlined
def view(start, offset, length):
    """An array: so many numbers, from an offset to a pointer on."""
    return carray(at(start, offset), length)


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
