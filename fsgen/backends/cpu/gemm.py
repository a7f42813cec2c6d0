"""The matrix product that everything else is made of, as vector instructions.

    out[t, c] = add[t, c] + scale[c] * sum over i of x[t, i] * w[i, c]      t < num_tokens, c < 16 * vectors

With `ADD_FIRST` a sum starts from `add` instead, so that it can be taken in parts. Weights are float32,
bfloat16 (uint16, its bits) or int8; only int8 ones have a scale. Or they are pairs (uint32): bfloat16 of two
neighbouring inputs. Then the inputs are pairs too, i counts them, and one instruction multiplies and adds both.

The sums stay in registers, and each runs over i in order, by fused multiply-adds. So a sum is the same to the last bit
however many tokens or columns are computed beside it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fsgen.backends.cpu.memory import OPTIONS, at

LANES = 16  # numbers of a vector
PANEL = 32  # columns of a weight that lie together, [inputs, PANEL]
# Of the type that counts have: numba compiles `gemm` again for each literal number that it is given.
WIDTH, BROADCAST, ADD_LAST, ADD_FIRST = np.int64(PANEL), np.int64(0), np.int64(0), np.int64(1)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_SIZES = {types.float32: 4, types.uint16: 2, types.int8: 1, types.uint32: 4}
# Where numba adds no flags of its own, products and sums are rounded one by one, however many are computed.
_ROUNDED = ("nsz",)
# Whether the processor multiplies pairs of bfloat16.
HAS_PAIRS = bool(binding.get_host_cpu_features().get("avx512bf16", False))
# Weights are fetched so many inputs before they are needed: the processor's own prefetching ends with a memory page.
PREFETCHED = 64


class Rows(NamedTuple):
    """A matrix of float32, or of what products read: its first number, and how far one row is from the next.

    A stride of 0 gives every row the same numbers, as a bias does.
    """

    data: Any
    stride: int


class Columns(NamedTuple):
    """Columns of a weight, in panels.

    Attributes:
        data: the first number.
        stride: from one input to the next.
        panel: from one panel of 32 columns to the next.
        scales: of int8 columns.
    """

    data: Any
    stride: int
    panel: int
    scales: Any


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite has no types
    """LLVM's bfloat, for which llvmlite has no name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _load_weights(builder: Any, start: Any, kind: Any) -> Any:
    """Sixteen weights from memory, as float32; or sixteen pairs of them, as they are."""
    if kind == types.float32:
        return _load(builder, start)
    if kind == types.uint32:
        return builder.load(builder.bitcast(start, _INTS.as_pointer()), align=4)
    if kind == types.int8:
        bytes_ = builder.load(builder.bitcast(start, ir.VectorType(ir.IntType(8), LANES).as_pointer()), align=1)
        return builder.sitofp(builder.sext(bytes_, _INTS), _FLOATS)
    halves = builder.load(builder.bitcast(start, ir.VectorType(ir.IntType(16), LANES).as_pointer()), align=2)
    bits = builder.shl(builder.zext(halves, _INTS), ir.Constant(_INTS, [16] * LANES))
    return builder.bitcast(bits, _FLOATS)


def _load(builder: Any, start: Any) -> Any:
    return builder.load(builder.bitcast(start, _FLOATS.as_pointer()), align=4)


def _prefetch(builder: Any, start: Any) -> None:
    """Brings the line of memory at an address into the core's own second cache."""
    byte = ir.IntType(8).as_pointer()
    function = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32]), "llvm.prefetch.p0"
    )
    read, second_cache, data = _I32(0), _I32(2), _I32(1)
    builder.call(function, [builder.bitcast(start, byte), read, second_cache, data])


def _broadcast(builder: Any, number: Any) -> Any:
    nothing = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    one = builder.insert_element(nothing, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(_INTS, [0] * LANES))


def _multiply_add(builder: Any, total: Any, number: Any, vector: Any, kind: Any) -> Any:
    """total + number * vector, in one rounding for each product."""
    if kind == types.uint32:
        name, halves = "llvm.x86.avx512bf16.dpbf16ps.512", ir.VectorType(_BFloat(), 2 * LANES)
        function = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(_FLOATS, [_FLOATS, halves, halves]), name
        )
        return builder.call(function, [total, builder.bitcast(number, halves), builder.bitcast(vector, halves)])
    return builder.fadd(total, builder.fmul(number, vector, flags=("contract",)), flags=("contract",))


def _emit_product(builder: Any, tokens: int, vectors: int, kind: Any, width: int | None, arguments: Any) -> None:
    """The product for so many tokens and vectors of columns; `width` is their stride where that is known."""
    inputs, x, w, add, out, add_first = arguments
    x, x_stride = cgutils.unpack_tuple(builder, x)
    weights, w_stride, panel, scales = cgutils.unpack_tuple(builder, w)
    w_stride = w_stride if width is None else _I64(width)
    add, add_stride = cgutils.unpack_tuple(builder, add)
    out, out_stride = cgutils.unpack_tuple(builder, out)
    zero, from_add = ir.Constant(_FLOATS, [0.0] * LANES), builder.icmp_signed("!=", add_first, _I64(0))

    def place(start: Any, stride: Any, t: int, v: int) -> Any:
        return builder.gep(start, [builder.add(builder.mul(stride, _I64(t)), _I64(v * LANES))])

    given = [[_load(builder, place(add, add_stride, t, v)) for v in range(vectors)] for t in range(tokens)]
    sums = [[cgutils.alloca_once_value(builder, builder.select(from_add, one, zero)) for one in row] for row in given]
    starts = [builder.gep(x, [builder.mul(x_stride, _I64(t))]) for t in range(tokens)]
    with cgutils.for_range(builder, inputs, intp=_I64) as loop:
        row = builder.gep(weights, [builder.mul(loop.index, w_stride)])
        later = builder.gep(row, [builder.mul(w_stride, _I64(PREFETCHED))])
        columns, line = [], 64 // _SIZES[kind]
        prefetches = vectors < 4 or kind != types.float32
        for v in range(vectors):
            offset = _I64(v % 2 * LANES)
            if v > 1:
                offset = builder.add(offset, panel)
            if prefetches and v % 2 * LANES % line == 0:
                _prefetch(builder, builder.gep(later, [offset]))
            columns.append(_load_weights(builder, builder.gep(row, [offset]), kind))
        for t in range(tokens):
            number = _broadcast(builder, builder.load(builder.gep(starts[t], [loop.index])))
            for v, column in enumerate(columns):
                builder.store(_multiply_add(builder, builder.load(sums[t][v]), number, column, kind), sums[t][v])
    for t in range(tokens):
        for v in range(vectors):
            total = builder.load(sums[t][v])
            if kind == types.int8:
                scale = _load(builder, builder.gep(scales, [_I64(v * LANES)]))
                total = builder.fmul(total, scale, flags=_ROUNDED)
            total = builder.fadd(builder.select(from_add, zero, given[t][v]), total, flags=_ROUNDED)
            taken = builder.bitcast(place(out, out_stride, t, v), _FLOATS.as_pointer())
            builder.store(total, taken, align=4)


def _product(vectors: int, most: int, width: int | None) -> Any:
    """The product for 1 to `most` tokens and so many vectors of columns, of which a panel has two."""

    @intrinsic
    def product(context: Any, tokens: Any, inputs: Any, x: Any, w: Any, add: Any, out: Any, add_first: Any) -> Any:
        whole = types.int64

        def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            tokens, *rest = arguments
            done = builder.append_basic_block("done")
            choice = builder.switch(tokens, done)
            for count in range(1, most + 1):
                block = builder.append_basic_block(f"tokens.{count}")
                choice.add_case(_I64(count), block)
                builder.position_at_end(block)
                _emit_product(builder, count, vectors, w[0].dtype, width, rest)
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return types.void(whole, whole, x, w, add, out, whole), code

    return product


def _gemm(width: int | None) -> Any:
    # As many sums as fill half of the registers at most, and enough to keep the multipliers busy.
    four_vectors, two_vectors, one_vector = _product(4, 2, width), _product(2, 8, width), _product(1, 8, width)

    def gemm(num_tokens, inputs, vectors, x, w, add, out, add_first):
        """out = add + x w for `vectors` times 16 columns."""
        for t in range(0, num_tokens, 8):
            tokens = min(8, num_tokens - t)
            x_t = Rows(at(x.data, t * x.stride), x.stride)
            c = 0
            while c < vectors:
                w_c = Columns(at(w.data, c // 2 * w.panel), w.stride, w.panel, at(w.scales, c * LANES))
                add_tc = Rows(at(add.data, t * add.stride + c * LANES), add.stride)
                out_tc = Rows(at(out.data, t * out.stride + c * LANES), out.stride)
                if tokens <= 2 and vectors - c >= 4:
                    four_vectors(tokens, inputs, x_t, w_c, add_tc, out_tc, add_first)
                    c += 4
                elif vectors - c >= 2:
                    two_vectors(tokens, inputs, x_t, w_c, add_tc, out_tc, add_first)
                    c += 2
                else:
                    one_vector(tokens, inputs, x_t, w_c, add_tc, out_tc, add_first)
                    c += 1

    return njit(**OPTIONS)(gemm)  # compiled on its own, for it is long


# Of columns in panels; and of such as lie side by side, a stride apart.
gemm, gemm_strided = _gemm(PANEL), _gemm(None)
