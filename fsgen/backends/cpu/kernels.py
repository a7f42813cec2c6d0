"""The forward pass of Llama-like models on a CPU, compiled: one function, which every thread runs on its share.

All sums are taken in float32; keys and values are float32, or bfloat16, which numpy holds as the uint16 of its bits.
Where the processor multiplies pairs of bfloat16 (`gemm.HAS_PAIRS`), a bfloat16 model rounds what goes into a product,
as torch does, and two neighbours of a sum (inputs of a weight, entries of a key, slots of the values) lie together.
No sum depends on what else is computed in the same call (`gemm`), nor on the number of threads. So a token's logits
are the same to the last bit whether it comes alone, among drafted ones, in a prompt, or in a batch.
"""

from __future__ import annotations

from functools import cache

from numba import carray, types
from numba.extending import overload

from fsgen.backends.cpu.arguments import (
    AFTER_ATTENTION,
    AFTER_MLP,
    ARGUMENTS,
    BEFORE_ATTENTION,
    BEFORE_MLP,
    FINAL,
    TYPES,
)
from fsgen.backends.cpu.arithmetic import (
    ONE,
    ZERO,
    activated,
    layer_norm,
    narrow,
    quantize,
    rms_norm,
    soft_cap,
    widen,
)
from fsgen.backends.cpu.attention import attention, norm_all_heads
from fsgen.backends.cpu.compilation import source
from fsgen.backends.cpu.gemm import (
    ADD_LAST,
    BLOCK_PAIRS,
    BROADCAST,
    LANES,
    PANEL,
    WIDTH,
    Columns,
    Quantized,
    Rows,
    gemm,
)
from fsgen.backends.cpu.memory import FLOAT32, INT16, INT16_PAIR, address_of, at, pointer, stage, view
from fsgen.backends.cpu.threads import Parallel, Thread, barrier, share


def product_inputs(args, t, me, num_tokens, x, inputs):
    """Rows [num_tokens, inputs] as products with weights read them."""
    raise NotImplementedError


@overload(product_inputs, inline="always")
def _product_inputs(args, t, me, num_tokens, x, inputs):
    if t.types[0] in (types.int16, types.uint8):

        def quantized(args, t, me, num_tokens, x, inputs):
            size = 2 * BLOCK_PAIRS
            blocks, scales = (inputs + size - 1) // size, pointer(args.quantized_scales, FLOAT32)
            begin, end = share(me, num_tokens * blocks)
            for item in range(begin, end):
                token, first = item // blocks, item % blocks * size
                count, place = min(size, inputs - first), token * inputs + first
                source, out = (
                    view(pointer(x, FLOAT32), place, count),
                    view(pointer(args.quantized, INT16), place, count),
                )
                quantize(source, out, view(pointer(args.quantized_scales, FLOAT32), item, 1))
            barrier(me)
            return Quantized(pointer(args.quantized, INT16_PAIR), inputs // 2, scales, blocks)

        return quantized
    return lambda args, t, me, num_tokens, x, inputs: Rows(pointer(x, t.activation_read), inputs // t.per)


@stage
def linear(args, t, me, num_tokens, x, weights, layer, add, out):
    """out = add + x W, for this thread's share of the columns. x: [num_tokens, inputs], `t.activation`."""
    rows = product_inputs(args, t, me, num_tokens, x, weights.inputs)
    begin, end = share(me, weights.panels)
    inputs = weights.inputs // t.per_weight
    panel = inputs * WIDTH
    weight = at(pointer(weights.weight, t.weight), layer * weights.panels * panel)
    scales = at(pointer(weights.scales, t.scale), layer * weights.panels * weights.scale_panel)
    # Few tokens take all panels at once; with more, one panel stays in the core's cache for all of them.
    step = max(1, end - begin) if num_tokens <= 8 else 1
    for number in range(begin, end, step):
        column = number * WIDTH
        scales_of = at(scales, number * weights.scale_panel)
        columns = Columns(at(weight, number * panel), WIDTH, panel, scales_of, weights.scale_panel)
        add_to, into = Rows(at(add.data, column), add.stride), Rows(at(out.data, column), out.stride)
        gemm(num_tokens, inputs, step * PANEL // LANES, rows, columns, add_to, into, ADD_LAST)


@stage
def residual_stream(args):
    """The hidden states [num_tokens, hidden_size], filled up to whole panels."""
    return Rows(pointer(args.hidden_states, FLOAT32), args.o_proj.panels * WIDTH)


@stage
def bias_or_zeros(args, weights, layer):
    """What is added to a product: its bias, if it has one, to all tokens alike."""
    if weights.bias:
        return Rows(at(pointer(weights.bias, FLOAT32), layer * weights.panels * WIDTH), BROADCAST)
    return Rows(pointer(args.zeros, FLOAT32), BROADCAST)


@stage
def embed(args, t, me):
    hidden_size, x, scale = args.hidden_size, residual_stream(args), args.embed_scale
    begin, end = share(me, args.num_tokens)
    for token in range(begin, end):
        state = view(x.data, token * x.stride, hidden_size)
        token_id = args.input_ids[token]
        if args.embed_tokens:
            row = view(pointer(args.embed_tokens, t.cache), token_id * hidden_size, hidden_size)
            for i in range(hidden_size):
                state[i] = scale * widen(row[i])
        else:  # a column of the output head
            panel = args.lm_head.inputs * WIDTH
            columns = view(pointer(args.lm_head.weight, t.cache), token_id // WIDTH * panel, panel)
            for i in range(hidden_size):
                state[i] = scale * widen(columns[(i // t.per * WIDTH + token_id % WIDTH) * t.per + i % t.per])


@stage
def norm_numbers(args, norm, layer, x, out):
    """The norm of a token's numbers; only the numbers where there is none."""
    n = len(x)
    if norm.weight:
        weight = view(pointer(norm.weight, FLOAT32), layer * n, n)
        if args.layer_norm:
            layer_norm(x, weight, view(pointer(norm.bias, FLOAT32), layer * n, n), args.norm_eps, out)
        else:
            rms_norm(x, weight, args.norm_eps, out)
    else:
        for i in range(n):
            out[i] = narrow(x[i], out[0])


@stage
def norm_token(args, t, norm, layer, token, out):
    n, x = args.hidden_size, residual_stream(args)
    norm_numbers(
        args, norm, layer, view(x.data, token * x.stride, n), view(pointer(args.normed, t.activation), out * n, n)
    )


@stage
def norm(args, t, me, norm, layer):
    begin, end = share(me, args.num_tokens)
    for token in range(begin, end):
        norm_token(args, t, norm, layer, token, token)


@stage
def qkv_proj(args, t, me, layer):
    out = Rows(pointer(args.qkv, FLOAT32), args.qkv_proj.panels * WIDTH)
    bias = bias_or_zeros(args, args.qkv_proj, layer)
    linear(args, t, me, args.num_tokens, args.normed, args.qkv_proj, layer, bias, out)
    if args.norm_all_heads:
        barrier(me)
        norm_all_heads(args, me, layer)


@stage
def add_bias(args, me, weights, layer):
    """To the hidden states, on the columns that are this thread's in the product that comes next."""
    begin, end = share(me, weights.panels)
    x, first, count = residual_stream(args), begin * WIDTH, (end - begin) * WIDTH
    bias = view(pointer(weights.bias, FLOAT32), layer * x.stride + first, count)
    for token in range(args.num_tokens):
        state = view(x.data, token * x.stride + first, count)
        for i in range(count):
            state[i] += bias[i]


@stage
def add_product(args, t, me, inputs, weights, layer, norm):
    """Adds a product to the hidden states; where there is a norm after it, or a scale, not before these are applied."""
    x = residual_stream(args)
    scaled = norm.weight != 0 or args.residual_scale != ONE
    if weights.bias and not scaled:
        add_bias(args, me, weights, layer)
    add, out = x, x
    if scaled:
        add, out = bias_or_zeros(args, weights, layer), Rows(pointer(args.block_out, FLOAT32), x.stride)
    linear(args, t, me, args.num_tokens, inputs, weights, layer, add, out)
    barrier(me)
    if scaled:
        n = args.hidden_size
        begin, end = share(me, args.num_tokens)
        for token in range(begin, end):
            product, state = view(out.data, token * x.stride, n), view(x.data, token * x.stride, n)
            norm_numbers(args, norm, layer, product, product)
            for i in range(n):
                state[i] += args.residual_scale * product[i]
        barrier(me)


@stage
def activation(args, t, me):
    """Of the products of this thread."""
    inner, columns, kind = args.intermediate_size, args.gate_up_proj.panels * WIDTH, args.activation
    begin, end = share(me, args.gate_up_proj.panels)
    width = LANES if args.gated else PANEL  # of a panel, which has 16 columns of each where there is a gate
    for token in range(args.num_tokens):
        for number in range(begin, end):
            both = view(pointer(args.gate_up, FLOAT32), token * columns + number * PANEL, PANEL)
            done = view(pointer(args.activated, t.activation), token * inner + number * width, width)
            if args.gated:
                for i in range(LANES):
                    done[i] = narrow(activated(kind, both[i]) * both[LANES + i], done[0])
            else:
                for i in range(PANEL):
                    done[i] = narrow(activated(kind, both[i]), done[0])


@stage
def mlp(args, t, me, layer):
    out = Rows(pointer(args.gate_up, FLOAT32), args.gate_up_proj.panels * WIDTH)
    bias = bias_or_zeros(args, args.gate_up_proj, layer)
    linear(args, t, me, args.num_tokens, args.normed, args.gate_up_proj, layer, bias, out)
    activation(args, t, me)
    barrier(me)
    add_product(args, t, me, args.activated, args.down_proj, layer, args.norms[AFTER_MLP])


@stage
def logits(args, t, me):
    """Of the tokens of which they are wanted."""
    count, columns = args.num_logits, args.lm_head.panels * WIDTH
    begin, end = share(me, count)
    for i in range(begin, end):
        norm_token(args, t, args.norms[FINAL], 0, args.logits_to_keep[i], i)
    barrier(me)
    out = Rows(pointer(args.logits, FLOAT32), columns)
    linear(args, t, me, count, args.normed, args.lm_head, 0, bias_or_zeros(args, args.lm_head, 0), out)
    begin, end = share(me, args.lm_head.panels)
    for i in range(count):
        numbers = view(out.data, i * columns + begin * WIDTH, (end - begin) * WIDTH)
        if args.logit_scale != ONE:
            for k in range(len(numbers)):
                numbers[k] *= args.logit_scale
        if args.logit_cap > ZERO:
            soft_cap(numbers, args.logit_cap)


@stage
def forward_pass(args, t, me):
    """All layers for the tokens of a call."""
    embed(args, t, me)
    for layer in range(args.num_layers):
        norm(args, t, me, args.norms[BEFORE_ATTENTION], layer)
        barrier(me)
        qkv_proj(args, t, me, layer)
        barrier(me)
        attention(args, t, me, layer)
        # Of a family whose MLP reads what attention read: in its own norm, if it has one, of the same hidden states.
        if args.parallel and args.norms[BEFORE_MLP].weight:
            norm(args, t, me, args.norms[BEFORE_MLP], layer)
        barrier(me)
        add_product(args, t, me, args.attention_out, args.o_proj, layer, args.norms[AFTER_ATTENTION])
        if not args.parallel:
            norm(args, t, me, args.norms[BEFORE_MLP], layer)
            barrier(me)
        mlp(args, t, me, layer)
    if args.num_logits:
        logits(args, t, me)


@cache
def forward(kind: str) -> Parallel:
    """The compiled forward pass for weights of a kind (`arguments.TYPES`).

    Its variables from outside are plain values, by which numba finds it in its cache.
    """
    t, state = TYPES[kind], source()

    def forward(arguments, number, team):
        state  # noqa: B018 - other code is another function
        forward_pass(carray(arguments, 1)[0], t, Thread(number, team, address_of(arguments)))

    return Parallel(forward, ARGUMENTS)
