"""The matrix product that everything else is made of, as vector instructions.

    out[t, c] = add[t, c] + scale[c] * sum over i of x[t, i] * w[i, c]      t < num_tokens, c < 16 * vectors

With `ADD_FIRST` a sum starts from `add` instead, so that it can be taken in parts. Weights are float32,
bfloat16 (uint16, its bits) or int8; only int8 ones have a scale. Or they are pairs of two neighbouring inputs, bfloat16
(uint32) or int8 (int16). Then the inputs are pairs too, i counts them, and one instruction multiplies and adds both.
With int8 pairs the inputs are int16, each block of them with a scale (`Quantized`); the sum of a block is exact.

The sums stay in registers, and each runs over i in order, by fused multiply-adds. So a sum is the same to the last bit
however many tokens or columns are computed beside it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding, ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from fsgen.backends.cpu.memory import OPTIONS, at

LANES = 16  # numbers of a vector
PANEL = 32  # columns of a weight that lie together, [inputs, PANEL]
# Of the type that counts have: numba compiles `gemm` again for each literal number that it is given.
WIDTH, BROADCAST, ADD_LAST, ADD_FIRST = np.int64(PANEL), np.int64(0), np.int64(0), np.int64(1)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_SIZES = {types.float32: 4, types.uint16: 2, types.int8: 1, types.uint32: 4, types.int16: 2}
# Where numba adds no flags of its own, products and sums are rounded one by one, however many are computed.
_ROUNDED = ("nsz",)
# Whether the processor multiplies pairs of bfloat16.
HAS_PAIRS = bool(binding.get_host_cpu_features().get("avx512bf16", False))
# Whether it multiplies and adds pairs of whole numbers of 16 bits.
HAS_INT8_PAIRS = bool(binding.get_host_cpu_features().get("avx512vnni", False))
# Inputs of a block of `Quantized`, in pairs: 512 products of int16 and int8 are less than 2^31.
BLOCK_PAIRS = np.int64(256)
# Weights are fetched so many inputs before they are needed: the processor's own prefetching ends with a memory page.
PREFETCHED = 64


class Rows(NamedTuple):
    """A matrix of float32, or of what products read: its first number, and how far one row is from the next.

    A stride of 0 gives every row the same numbers, as a bias does.
    """

    data: Any
    stride: int


class Quantized(NamedTuple):
    """Rows of pairs of int16: what one step stands for, of each block; and how many blocks a row has."""

    data: Any
    stride: int
    scales: Any
    blocks: int


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
    if kind == types.int16:  # of int8, to be multiplied as int16
        pairs = builder.load(builder.bitcast(start, ir.VectorType(ir.IntType(8), 2 * LANES).as_pointer()), align=2)
        return builder.bitcast(builder.sext(pairs, ir.VectorType(ir.IntType(16), 2 * LANES)), _INTS)
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
    """total + number * vector, in one rounding for each product, or, of whole numbers, in none."""
    if kind == types.int16:
        return builder.call(_instruction(builder, "avx512.vpdpwssd", _INTS, _INTS), [total, number, vector])
    if kind == types.uint32:
        halves = ir.VectorType(_BFloat(), 2 * LANES)
        function = _instruction(builder, "avx512bf16.dpbf16ps", _FLOATS, halves)
        return builder.call(function, [total, builder.bitcast(number, halves), builder.bitcast(vector, halves)])
    return builder.fadd(total, builder.fmul(number, vector, flags=("contract",)), flags=("contract",))


def _instruction(builder: Any, name: str, totals: Any, factors: Any) -> Any:
    """Of two vectors of factors the products, pair by pair added to totals."""
    name = f"llvm.x86.{name}.512"
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(totals, [totals, factors, factors]), name)


def _emit_sums(builder: Any, inputs: Any, starts: Any, weights: Any, sums: Any, kind: Any) -> None:
    """Adds to the sums [tokens][vectors] the products of so many inputs.

    Args:
        starts: of each token the first input.
        weights: the first one, and the strides of inputs and panels.
    """
    weights, stride, panel = weights
    vectors = len(sums[0])
    with cgutils.for_range(builder, inputs, intp=_I64) as loop:
        row = builder.gep(weights, [builder.mul(loop.index, stride)])
        later = builder.gep(row, [builder.mul(stride, _I64(PREFETCHED))])
        columns, line = [], 64 // _SIZES[kind]
        prefetches = vectors < 4 or kind != types.float32
        for v in range(vectors):
            offset = _I64(v % 2 * LANES)
            if v > 1:
                offset = builder.add(offset, panel)
            if prefetches and v % 2 * LANES % line == 0:
                _prefetch(builder, builder.gep(later, [offset]))
            columns.append(_load_weights(builder, builder.gep(row, [offset]), kind))
        for t, start in enumerate(starts):
            number = _broadcast(builder, builder.load(builder.gep(start, [loop.index])))
            for v, column in enumerate(columns):
                builder.store(_multiply_add(builder, builder.load(sums[t][v]), number, column, kind), sums[t][v])


def _emit_blocks(builder: Any, inputs: Any, x: Any, starts: Any, weights: Any, sums: Any, kind: Any) -> None:
    """As `_emit_sums`, of `Quantized` inputs: the sum of each block exactly, times what one step of it stands for."""
    _, _, scales, blocks = x
    weights, stride, panel = weights
    zero, block = ir.Constant(_INTS, [0] * LANES), _I64(BLOCK_PAIRS)
    exact = [[cgutils.alloca_once(builder, _INTS) for _ in row] for row in sums]
    with cgutils.for_range(builder, blocks, intp=_I64) as loop:
        first = builder.mul(loop.index, block)
        left = builder.sub(inputs, first)
        count = builder.select(builder.icmp_signed("<", left, block), left, block)
        for row in exact:
            for one in row:
                builder.store(zero, one)
        begun = builder.gep(weights, [builder.mul(first, stride)]), stride, panel
        _emit_sums(builder, count, [builder.gep(start, [first]) for start in starts], begun, exact, kind)
        for t, row in enumerate(exact):
            place = builder.add(builder.mul(blocks, _I64(t)), loop.index)
            scale = _broadcast(builder, builder.load(builder.gep(scales, [place])))
            for one, total in zip(row, sums[t], strict=True):
                added = builder.fmul(builder.sitofp(builder.load(one), _FLOATS), scale, flags=_ROUNDED)
                builder.store(builder.fadd(builder.load(total), added, flags=_ROUNDED), total)


def _emit_product(builder: Any, tokens: int, vectors: int, kind: Any, width: int | None, arguments: Any) -> None:
    """The product for so many tokens and vectors of columns; `width` is their stride where that is known."""
    inputs, x, w, add, out, add_first = arguments
    x = cgutils.unpack_tuple(builder, x)
    weights, w_stride, panel, scales = cgutils.unpack_tuple(builder, w)
    w_stride = w_stride if width is None else _I64(width)
    add, add_stride = cgutils.unpack_tuple(builder, add)
    out, out_stride = cgutils.unpack_tuple(builder, out)
    zero, from_add = ir.Constant(_FLOATS, [0.0] * LANES), builder.icmp_signed("!=", add_first, _I64(0))

    def place(start: Any, stride: Any, t: int, v: int) -> Any:
        return builder.gep(start, [builder.add(builder.mul(stride, _I64(t)), _I64(v * LANES))])

    given = [[_load(builder, place(add, add_stride, t, v)) for v in range(vectors)] for t in range(tokens)]
    sums = [[cgutils.alloca_once_value(builder, builder.select(from_add, one, zero)) for one in row] for row in given]
    starts = [builder.gep(x[0], [builder.mul(x[1], _I64(t))]) for t in range(tokens)]
    if kind == types.int16:
        _emit_blocks(builder, inputs, x, starts, (weights, w_stride, panel), sums, kind)
    else:
        _emit_sums(builder, inputs, starts, (weights, w_stride, panel), sums, kind)
    for t in range(tokens):
        for v in range(vectors):
            total = builder.load(sums[t][v])
            if kind in (types.int8, types.int16):
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


def from_token(rows, t):
    """Rows from the one of token t on."""
    raise NotImplementedError


@overload(from_token, inline="always")
def _from_token(rows, t):
    if rows.instance_class is Quantized:
        return lambda rows, t: Quantized(
            at(rows.data, t * rows.stride), rows.stride, at(rows.scales, t * rows.blocks), rows.blocks
        )
    return lambda rows, t: Rows(at(rows.data, t * rows.stride), rows.stride)


def _gemm(width: int | None) -> Any:
    # As many sums as fill half of the registers at most, and enough to keep the multipliers busy.
    four_vectors, two_vectors, one_vector = _product(4, 2, width), _product(2, 8, width), _product(1, 8, width)

    def gemm(num_tokens, inputs, vectors, x, w, add, out, add_first):
        """out = add + x w for `vectors` times 16 columns."""
        for t in range(0, num_tokens, 8):
            tokens = min(8, num_tokens - t)
            x_t = from_token(x, t)
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
