"""What is done to the numbers of one token, compiled; all of it in float32."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from fsgen.backends.cpu.memory import bits_of_float, float_of_bits, inlined, view

ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)
LOG2E = np.float32(1.4426950408889634)
# 2^x on [-1/2, 1/2]: its series.
C1, C2, C3 = np.float32(0.69314718056), np.float32(0.24022650696), np.float32(0.05550410866)
C4, C5, C6 = np.float32(0.00961812911), np.float32(0.00133335581), np.float32(0.00015403530)
LEAST, MOST = np.float32(-126), np.float32(126)
SILU, GELU_TANH, GELU = range(3)
# GELU by tanh; and erf within 1.5e-7 (Abramowitz and Stegun 7.1.26).
ROOT_2_PI, CUBIC, ROOT_HALF = np.float32(0.7978845608), np.float32(0.044715), np.float32(0.7071067812)
ERF_P, ERF_1, ERF_2 = np.float32(0.3275911), np.float32(0.254829592), np.float32(-0.284496736)
ERF_3, ERF_4, ERF_5 = np.float32(1.421413741), np.float32(-1.453152027), np.float32(1.061405429)
INT16_TOP, ROUNDER, LEAST_NORMAL = np.float32(32767), np.float32(1.5 * 2**23), np.float32(2.0**-100)


def widen(number):
    """float32 of a float32 or of the bits of a bfloat16."""
    raise NotImplementedError


@overload(widen)
def _widen(number):
    if number == types.uint16:
        return lambda number: float_of_bits(np.uint32(number) << np.uint32(16))
    return lambda number: number


def narrow(number, like):
    """What an array that holds `like` takes of a float32: itself, or the bits of the nearest bfloat16."""
    raise NotImplementedError


@overload(narrow)
def _narrow(number, like):
    if like == types.uint16:

        def rounded(number, like):
            bits = bits_of_float(number)
            even = (bits >> np.uint32(16)) & np.uint32(1)
            return np.uint16((bits + np.uint32(0x7FFF) + even) >> np.uint32(16))

        return rounded
    return lambda number, like: number


@inlined
def exp(x):
    """e^x within a few units of the last place, in a form that runs on many numbers at a time."""
    power = min(max(x * LOG2E, LEAST), MOST)
    whole = np.floor(power + HALF)
    r = power - whole
    part = ONE + r * (C1 + r * (C2 + r * (C3 + r * (C4 + r * (C5 + r * C6)))))
    return part * float_of_bits(np.uint32(np.int32(whole) + np.int32(127)) << np.uint32(23))


@inlined
def rms_norm(x, weight, eps, out):
    """out = x / rms(x) * weight, for one token, or one head of it."""
    n, total = len(weight), ZERO
    for i in range(n):
        total += x[i] * x[i]
    scale = ONE / np.sqrt(total / np.float32(n) + eps)
    for i in range(n):
        out[i] = narrow(x[i] * scale * weight[i], out[0])


@inlined
def layer_norm(x, weight, bias, eps, out):
    """out = (x - mean) / deviation * weight + bias, for one token."""
    n, total, squares = len(weight), ZERO, ZERO
    for i in range(n):
        total += x[i]
    mean = total / np.float32(n)
    for i in range(n):
        squares += (x[i] - mean) * (x[i] - mean)
    scale = ONE / np.sqrt(squares / np.float32(n) + eps)
    for i in range(n):
        out[i] = narrow((x[i] - mean) * scale * weight[i] + bias[i], out[0])


@inlined
def apply_rope(half, head, cos, sin, scale, out):
    """A head of 2 * half numbers, times a scale, rotated by its position. Given by where each of them starts."""
    left, right, low, high = view(head, 0, half), view(head, half, half), view(out, 0, half), view(out, half, half)
    cos, sin = view(cos, 0, half), view(sin, 0, half)
    for i in range(half):  # in two loops, since the compiler gives up on telling more arrays apart
        low[i] = narrow(scale * (left[i] * cos[i] - right[i] * sin[i]), low[0])
    for i in range(half):
        high[i] = narrow(scale * (right[i] * cos[i] + left[i] * sin[i]), high[0])


@inlined
def silu(x):
    return x / (ONE + exp(-x))


@inlined
def tanh(x):
    return ONE - TWO / (exp(TWO * x) + ONE)


@inlined
def erf(x):
    t = ONE / (ONE + ERF_P * abs(x))
    tail = t * (ERF_1 + t * (ERF_2 + t * (ERF_3 + t * (ERF_4 + t * ERF_5)))) * exp(-x * x)
    return ONE - tail if x > ZERO else tail - ONE


@inlined
def activated(kind, x):
    """An activation of a number; of which kind is asked outside the loop that this is in, by the compiler."""
    if kind == SILU:
        return silu(x)
    if kind == GELU_TANH:
        return HALF * x * (ONE + tanh(ROOT_2_PI * (x + CUBIC * x * x * x)))
    return HALF * x * (ONE + erf(ROOT_HALF * x))


@inlined
def soft_cap(x, cap):
    """cap * tanh(x / cap), in place: no number is beyond the cap. NaN and infinity become NaN."""
    for i in range(len(x)):
        x[i] = cap * tanh(x[i] / cap) + ZERO * x[i]


@inlined
def ordered(bits):
    """The bits of a float32 as a number in the order of the floats, or back."""
    return bits ^ (np.int32(bits) >> np.int32(31) & np.int32(0x7FFFFFFF))


@inlined
def highest(numbers):
    """Of some float32, minus infinity of none; by whole numbers, of which the compiler looks at many at a time."""
    top = np.int32(-0x7F800001)
    for i in range(len(numbers)):
        top = max(top, ordered(np.int32(bits_of_float(numbers[i]))))
    return float_of_bits(np.uint32(ordered(top)))


@inlined
def argmax(logits):
    """The highest of some logits, and the first token that has it."""
    top, token = highest(logits), 0
    while token < len(logits) - 1 and logits[token] != top:
        token += 1
    return top, token


@inlined
def all_are_numbers(numbers):
    """Whether none of some float32 is NaN, of whichever sign; `highest` may not see one."""
    most = np.int32(0)
    for i in range(len(numbers)):
        most = max(most, np.int32(bits_of_float(numbers[i]) & np.uint32(0x7FFFFFFF)))
    return most <= np.int32(0x7F800000)


@inlined
def quantize(numbers, out, scale):
    """Of some float32 the nearest of 65,535 levels, as int16, and what one step stands for; NaN stays in the scale."""
    most = np.int32(0)
    for i in range(len(numbers)):
        most = max(most, np.int32(bits_of_float(numbers[i]) & np.uint32(0x7FFFFFFF)))
    top = float_of_bits(np.uint32(most))
    scale[0] = top / INT16_TOP
    per_step = INT16_TOP / top if top >= LEAST_NORMAL else ZERO
    for i in range(len(numbers)):  # 1.5 * 2^23 has the units in its last place: adding it rounds
        out[i] = np.int16(np.int32(bits_of_float(numbers[i] * per_step + ROUNDER)))


@inlined
def softmax(scores, out):
    """Of scores, which are lost."""
    top = highest(scores)
    total = ZERO
    for i in range(len(scores)):
        scores[i] = exp(scores[i] - top)
        total += scores[i]
    scale = ONE / total
    for i in range(len(scores)):
        out[i] = narrow(scores[i] * scale, out[0])


@inlined
def clear(numbers):
    for i in range(len(numbers)):
        numbers[i] = 0
