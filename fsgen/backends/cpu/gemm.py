"""The product that everything else is made of, as vector instructions.

    out[t, c] = first[t, c] + scale[c] * sum over i of x[t, i] * w[i, c]      t < T tokens, c < 16 C columns

Where a sum goes `onward`, it starts from `first` instead, so that one can be taken in parts. Weights are float32,
bfloat16 (uint16, its bits) or int8; only int8 ones have a scale. Or they are pairs (uint32): bfloat16 of two
neighbouring inputs. Then the inputs are pairs too, i counts them, and one instruction multiplies and adds both.

The sums stay in registers, and each runs over i in order, by fused multiply-adds. So a sum is the same to the last bit
however many tokens or columns are computed beside it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_SIZES = {types.float32: 4, types.uint16: 2, types.int8: 1, types.uint32: 4}
# Whether the processor multiplies pairs of bfloat16.
HAS_PAIRS = bool(binding.get_host_cpu_features().get("avx512bf16", False))
# Weights are asked for so many inputs before they are needed: the processor's own foresight ends with a page of memory.
AHEAD = 64


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite has no types
    """LLVM's bfloat, for which llvmlite has no name."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _wide(builder: Any, pointer: Any, kind: Any) -> Any:
    """Sixteen weights from memory, as float32; or sixteen pairs of them, as they are."""
    if kind == types.float32:
        return _vector(builder, pointer)
    if kind == types.uint32:
        return builder.load(builder.bitcast(pointer, _INTS.as_pointer()), align=4)
    if kind == types.int8:
        bytes_ = builder.load(builder.bitcast(pointer, ir.VectorType(ir.IntType(8), LANES).as_pointer()), align=1)
        return builder.sitofp(builder.sext(bytes_, _INTS), _FLOATS)
    halves = builder.load(builder.bitcast(pointer, ir.VectorType(ir.IntType(16), LANES).as_pointer()), align=2)
    bits = builder.shl(builder.zext(halves, _INTS), ir.Constant(_INTS, [16] * LANES))
    return builder.bitcast(bits, _FLOATS)


def _vector(builder: Any, pointer: Any) -> Any:
    return builder.load(builder.bitcast(pointer, _FLOATS.as_pointer()), align=4)


def _prefetch(builder: Any, pointer: Any) -> None:
    """Asks for the line of memory at an address to be brought into the core's own second cache."""
    byte = ir.IntType(8).as_pointer()
    function = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32]), "llvm.prefetch.p0"
    )
    read, second_cache, data = _I32(0), _I32(2), _I32(1)
    builder.call(function, [builder.bitcast(pointer, byte), read, second_cache, data])


def _everywhere(builder: Any, number: Any) -> Any:
    nothing = ir.Constant(ir.VectorType(number.type, LANES), ir.Undefined)
    one = builder.insert_element(nothing, number, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, nothing, ir.Constant(_INTS, [0] * LANES))


def _plus_product(builder: Any, total: Any, number: Any, vector: Any, kind: Any) -> Any:
    """total + number * vector, in one rounding for each product."""
    if kind == types.uint32:
        name, halves = "llvm.x86.avx512bf16.dpbf16ps.512", ir.VectorType(_BFloat(), 2 * LANES)
        function = builder.module.globals.get(name) or ir.Function(
            builder.module, ir.FunctionType(_FLOATS, [_FLOATS, halves, halves]), name
        )
        return builder.call(function, [total, builder.bitcast(number, halves), builder.bitcast(vector, halves)])
    return builder.fadd(total, builder.fmul(number, vector, flags=("contract",)), flags=("contract",))


def _emit(builder: Any, tokens: int, columns: int, kind: Any, arguments: Any) -> None:
    """The product for so many tokens and vectors of columns."""
    inputs, x, x_stride, weights, w_stride, jump, scale, first, first_stride, out, out_stride, onward = arguments
    zero, goes_on = ir.Constant(_FLOATS, [0.0] * LANES), builder.icmp_signed("!=", onward, _I64(0))
    given = [
        [
            _vector(builder, builder.gep(first, [builder.add(builder.mul(first_stride, _I64(t)), _I64(c * LANES))]))
            for c in range(columns)
        ]
        for t in range(tokens)
    ]
    sums = [[cgutils.alloca_once_value(builder, builder.select(goes_on, one, zero)) for one in row] for row in given]
    starts = [builder.gep(x, [builder.mul(x_stride, _I64(t))]) for t in range(tokens)]
    with cgutils.for_range(builder, inputs, intp=_I64) as loop:
        row = builder.gep(weights, [builder.mul(loop.index, w_stride)])
        later = builder.gep(row, [builder.mul(w_stride, _I64(AHEAD))])
        vectors, line = [], 64 // _SIZES[kind]
        foresees = columns < 4 or kind != types.float32
        for c in range(columns):
            offset = _I64(c % 2 * LANES)
            if c > 1:
                offset = builder.add(offset, jump)
            if foresees and c % 2 * LANES % line == 0:
                _prefetch(builder, builder.gep(later, [offset]))
            vectors.append(_wide(builder, builder.gep(row, [offset]), kind))
        for t in range(tokens):
            number = _everywhere(builder, builder.load(builder.gep(starts[t], [loop.index])))
            for c, vector in enumerate(vectors):
                builder.store(_plus_product(builder, builder.load(sums[t][c]), number, vector, kind), sums[t][c])
    for t in range(tokens):
        for c in range(columns):
            taken = builder.gep(out, [builder.add(builder.mul(out_stride, _I64(t)), _I64(c * LANES))])
            total = builder.load(sums[t][c])
            if kind == types.int8:
                total = builder.fmul(total, _vector(builder, builder.gep(scale, [_I64(c * LANES)])))
            total = builder.fadd(builder.select(goes_on, zero, given[t][c]), total)
            builder.store(total, builder.bitcast(taken, _FLOATS.as_pointer()), align=4)


def _panel(columns: int, most: int) -> Any:
    """The product for 1 to `most` tokens and some vectors of columns; vectors 2 and 3 stand `jump` after 0 and 1."""

    @intrinsic
    def panel(
        context: Any,
        tokens: Any,
        inputs: Any,
        x: Any,
        x_stride: Any,
        w: Any,
        w_stride: Any,
        jump: Any,
        scale: Any,
        first: Any,
        first_stride: Any,
        out: Any,
        out_stride: Any,
        onward: Any,
    ) -> Any:
        whole, floats = types.int64, types.CPointer(types.float32)
        signature = types.void(whole, whole, x, whole, w, whole, whole, floats, floats, whole, floats, whole, whole)

        def code(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            tokens, *rest = arguments
            done = builder.append_basic_block("done")
            choice = builder.switch(tokens, done)
            for count in range(1, most + 1):
                block = builder.append_basic_block(f"tokens.{count}")
                choice.add_case(_I64(count), block)
                builder.position_at_end(block)
                _emit(builder, count, columns, w.dtype, rest)
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return signature, code

    return panel


# As many sums as fill half of the registers at most, and enough to keep the multipliers busy.
quadruple, double, single = _panel(4, 2), _panel(2, 8), _panel(1, 8)
