"""A decoder's graph written by ourselves: each weight goes to the file when its node is drawn.

Operators of onnxruntime's ContribOperators.md: GroupQueryAttention (rotates q and k, keeps the KV
cache), MatMulNBits, GatherBlockQuantized, SimplifiedLayerNormalization (RMSNorm, Zhang & Sennrich
2019) and its form with the residual addition. Of the model one tensor at a time is in memory.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from edgecompile.backends import schemes_of
from edgecompile.backends.decoders import (
    DOWN,
    EMBEDDING,
    HEAD,
    HEAD_NORMS,
    NORM,
    OUT,
    POSITION_TABLE,
    DecoderPlan,
    plan,
)
from edgecompile.backends.joining import JOIN, joinable
from edgecompile.backends.onnx_graph import encode, probe, storage
from edgecompile.backends.onnx_graph.canvas import Canvas as _Canvas
from edgecompile.backends.onnx_graph.form import (
    LAST_TOKENS,
    LENGTHS,
    LOGITS_START,
    POSITION_IDS,
    GraphForm,
)
from edgecompile.backends.onnx_graph.norms import norm_of, norm_of_sum
from edgecompile.backends.onnx_graph.positions import positions
from edgecompile.model import Model
from edgecompile.passes import Progress

OPSET, IR_VERSION = 22, 10
END = np.iinfo(np.int64).max  # of a slice
SEQLENS, TOTAL = LENGTHS
PAST = "past_key_values.{layer}.{part}"
PRESENT = "present.{layer}.{part}"


def write(
    model: Model, folder: Path, form: GraphForm, progress: Progress
) -> tuple[onnx.ModelProto, DecoderPlan]:
    """Write model.onnx and model.onnx.data; returns the graph without its data.

    For a GPU the probe of its attention is written beside them.
    """
    planned = plan(model)
    with storage.DataFile(folder) as data:
        canvas = _Canvas(model, planned, data, form, schemes_of(model))
        _draw(canvas, progress)
    proto = _assemble(canvas)
    storage.write_graph(proto, folder)
    if form.gpu:
        probe.write(folder, planned, form.element)
    return proto, planned


def _draw(canvas: _Canvas, progress: Progress) -> None:
    layers = canvas.plan.layers
    if not canvas.form.gpu:
        _lengths(canvas)
    stream, added, norms = _embedding(canvas), "", canvas.plan.norms
    for layer in range(layers):
        progress("write file", layer, layers + 1)
        start = f"model.layers.{layer}."
        normed, stream = norm_of_sum(canvas, f"{start}{norms.into_attention}.weight", stream, added)
        added = _left(canvas, start, norms.out_of_attention, _attention(canvas, layer, normed))
        normed, stream = norm_of_sum(canvas, f"{start}{norms.into_mlp}.weight", stream, added)
        added = _left(canvas, start, norms.out_of_mlp, _mlp(canvas, start, normed))
    progress("write file", layers, layers + 1)
    normed, _ = norm_of_sum(canvas, NORM, stream, added)
    _head(canvas, normed)
    progress("write file", layers + 1, layers + 1)


def _lengths(canvas: _Canvas) -> None:
    """What GroupQueryAttention wants of the mask int64 [batch, total]: past + new - 1, total."""
    one = canvas.constant("one", np.array([1], np.int64))
    total = canvas.node("ReduceSum", ["attention_mask", one], "mask.sum", keepdims=0)
    last = canvas.node("Sub", [total, one], "mask.last")
    canvas.node("Cast", [last], SEQLENS, to=TensorProto.INT32)
    shape = canvas.node("Shape", ["attention_mask"], "mask.shape")
    index = canvas.constant("one.scalar", np.array(1, np.int64))
    length = canvas.node("Gather", [shape, index], "mask.length", axis=0)
    canvas.node("Cast", [length], TOTAL, to=TensorProto.INT32)


def _embedding(canvas: _Canvas) -> str:
    plan = canvas.plan
    rows = _times(canvas, _table_rows(canvas), "embedding.scale", plan.embedding_scale)
    if not plan.family.positions:
        return rows
    table = canvas.floats(POSITION_TABLE)
    places = canvas.node("Gather", [table, positions(canvas)], "positions.rows", axis=0)
    return canvas.node("Add", [rows, places], "embedding.placed")


def _table_rows(canvas: _Canvas) -> str:
    source = canvas.source(EMBEDDING)
    if source not in canvas.schemes:
        return canvas.node("Gather", [canvas.floats(EMBEDDING), "input_ids"], "embedding", axis=0)
    scheme, columns = canvas.schemes[source], canvas.model.weights.infos[source].shape[1]
    codes, scales = _codes(canvas, [source])
    row = np.array([-1, encode.row_bytes(scheme, columns, source)], np.int64)
    shape = canvas.constant(f"{source}.table_shape", row)
    table = canvas.node("Reshape", [codes, shape], f"{source}.table")
    return canvas.node(
        "GatherBlockQuantized", [table, "input_ids", scales], "embedding", domain=encode.DOMAIN,
        bits=scheme.bits,
        block_size=encode.block_size(scheme, columns, source), gather_axis=0, quantize_axis=1,
    )  # fmt: skip


def _left(canvas: _Canvas, start: str, norm: str, value: str) -> str:
    """What a block adds to the stream: its output, normalized or scaled as the family does."""
    if norm:
        value = norm_of(canvas, value, start + norm)
    return _times(canvas, value, "residual.scale", canvas.plan.residual_scale)


def _times(canvas: _Canvas, value: str, constant: str, factor: float) -> str:
    """A value times a number, which is a constant of that name; itself where that is 1."""
    if factor == 1:
        return value
    return canvas.node("Mul", [value, canvas.number(constant, factor)], f"{value}.scaled")


def _attention(canvas: _Canvas, layer: int, normed: str) -> str:
    shape, start = canvas.plan, f"model.layers.{layer}."
    past, present = (
        [pattern.format(layer=layer, part=part) for part in ("key", "value")]
        for pattern in (PAST, PRESENT)
    )
    tables = _rotary_tables(canvas, shape.turns[layer])
    mixed = canvas.node(
        "GroupQueryAttention", [*_qkv(canvas, start, normed), *past, SEQLENS, TOTAL, *tables],
        f"{start}self_attn", [f"{start}self_attn", *present], domain=encode.DOMAIN,
        num_heads=shape.heads, kv_num_heads=shape.kv_heads, scale=shape.attention_scale,
        local_window_size=shape.windows[layer], do_rotary=int(bool(tables)), rotary_interleaved=0,
        softcap=shape.attention_cap,
    )  # fmt: skip
    return _products(canvas, [start + OUT], mixed)[0]


def _rotary_tables(canvas: _Canvas, turn: int) -> list[str]:
    """cos and sin of a rotation; none for a layer without."""
    if turn < 0:
        return []
    rotary, end = canvas.plan.rotaries[turn], f".{turn}" if turn else ""
    return [
        canvas.constant(f"cos_cache{end}", canvas.form.cast(rotary.cos)),
        canvas.constant(f"sin_cache{end}", canvas.form.cast(rotary.sin)),
    ]


def _qkv(canvas: _Canvas, start: str, normed: str) -> list[str]:
    """q, k and v, or all three in one and two empty names, which the operator cuts itself."""
    names = [start + name for name in canvas.plan.qkv]
    if len(names) == 1:
        return [_products(canvas, names, normed)[0], "", ""]
    if canvas.plan.family.head_norms:
        q, k, v = _products(canvas, names, normed)
        q = _head_norm(canvas, start + HEAD_NORMS[0], q, canvas.plan.heads)
        return [q, _head_norm(canvas, start + HEAD_NORMS[1], k, canvas.plan.kv_heads), v]
    if len(joinable(names, canvas.plan.sources, canvas.schemes)) == 1:
        return [_product(canvas, names, normed, f"{start}self_attn.qkv"), "", ""]
    return _products(canvas, names, normed)


def _head_norm(canvas: _Canvas, name: str, value: str, heads: int) -> str:
    """RMSNorm over each head of q or k [batch, length, heads * size]."""
    size = canvas.plan.head_size
    one = canvas.constant(f"one_head.{size}", np.array([0, -1, size], np.int64))
    all_heads = canvas.constant(f"heads.{heads}", np.array([0, -1, heads * size], np.int64))
    split = canvas.node("Reshape", [value, one], f"{name}.split")
    normed = norm_of(canvas, split, name)
    return canvas.node("Reshape", [normed, all_heads], f"{name}.joined")


def _mlp(canvas: _Canvas, start: str, normed: str) -> str:
    """A gated MLP (Shazeer 2020): down(activation(gate(x)) * up(x)); or down(activation(up(x)))."""
    first, *gated = _gate_up(canvas, start, normed)
    active = _activated(canvas, start, first)
    if gated:
        active = canvas.node("Mul", [active, *gated], f"{start}mlp.product")
    return _products(canvas, [start + DOWN], active)[0]


def _gate_up(canvas: _Canvas, start: str, normed: str) -> list[str]:
    names = [start + name for name in canvas.plan.gate_up]
    made = _products(canvas, names, normed)
    if len(made) == 2 or not canvas.plan.family.gated:
        return made
    halves = [f"{start}mlp.gate", f"{start}mlp.up"]
    canvas.node("Split", made, f"{names[0]}.cut", halves, axis=-1, num_outputs=2)
    return halves


def _activated(canvas: _Canvas, start: str, gate: str) -> str:
    if canvas.plan.activation == "gelu_tanh" and canvas.form.gpu:  # Gelu itself is not everywhere
        return canvas.node("FastGelu", [gate], f"{start}mlp.gelu", domain=encode.DOMAIN)
    if canvas.plan.activation == "gelu_tanh":
        return canvas.node("Gelu", [gate], f"{start}mlp.gelu", approximate="tanh")
    sigmoid = canvas.node("Sigmoid", [gate], f"{start}mlp.sigmoid")
    return canvas.node("Mul", [gate, sigmoid], f"{start}mlp.silu")


def _head(canvas: _Canvas, normed: str) -> None:
    """Logits of the last positions alone, as many as `last_tokens` says."""
    end = canvas.constant("last_tokens.end", np.array([END], np.int64))
    axis = canvas.constant("last_tokens.axis", np.array([1], np.int64))
    first = LOGITS_START
    if not canvas.form.gpu:
        first = canvas.node("Neg", [LAST_TOKENS], "last_tokens.start")
    kept = canvas.node("Slice", [normed, first, end, axis], "last_tokens.hidden")
    name = (EMBEDDING if canvas.plan.tied else HEAD).removesuffix(".weight")
    scale, cap = canvas.plan.logits_scale, canvas.plan.logits_cap
    if scale == 1 and not cap:
        _product(canvas, [name], kept, "logits")
        return
    found = _product(canvas, [name], kept, "logits.product")
    if cap:
        narrow = _times(canvas, found, "logits.scale", scale / cap)
        bent = canvas.node("Tanh", [narrow], "logits.bent")
        canvas.node("Mul", [bent, canvas.number("logits.cap", cap)], "logits")
    else:
        canvas.node("Mul", [found, canvas.number("logits.scale", scale)], "logits")


def _products(canvas: _Canvas, names: Sequence[str], value: str) -> list[str]:
    """`value` times each of the weights [out, in] transposed, plus its bias if there is one.

    Neighbours on one scheme are one product, cut apart after it: a step of one token then waits
    for fewer starts of the threads.
    """
    results: list[str] = []
    for group in joinable(names, canvas.plan.sources, canvas.schemes):
        if len(group) == 1:
            results.append(_product(canvas, group, value, group[0]))
        else:
            joined = _product(canvas, group, value, JOIN.join(group))
            results += _cut(canvas, group, joined)
    return results


def _cut(canvas: _Canvas, names: Sequence[str], joined: str) -> list[str]:
    """The parts of a joint product, each under the name of its weight."""
    sizes = [canvas.rows(f"{name}.weight") for name in names]
    label = "cut." + ".".join(map(str, sizes))
    constant = canvas.constant(label, np.array(sizes, np.int64))
    canvas.node("Split", [joined, constant], f"{joined}.cut", names, axis=-1)
    return list(names)


def _product(canvas: _Canvas, names: Sequence[str], value: str, output: str) -> str:
    sources = [canvas.source(f"{name}.weight") for name in names]
    biases = [source for name in names if (source := canvas.source(f"{name}.bias"))]
    bias = JOIN.join(biases)
    if bias:
        canvas.constant(bias, *(canvas.form.cast(canvas.model.dense(name)) for name in biases))
    if sources[0] in canvas.schemes:
        return _coded(canvas, sources, [value, *_codes(canvas, sources)], bias, output)
    label = f"{output}.product" if bias else output
    made = _float_product(canvas, canvas.floats(f"{names[0]}.weight"), value, label)
    return canvas.node("Add", [made, bias], output) if bias else made


def _float_product(canvas: _Canvas, weight: str, value: str, output: str) -> str:
    """`value` times a weight [out, in] transposed: in one node where the engine has it (CPU)."""
    if not canvas.form.gpu:
        return canvas.node(
            "FusedMatMul", [value, weight], output, domain=encode.DOMAIN, transB=1
        )
    turned = canvas.node("Transpose", [weight], f"{output}.turned", perm=[1, 0])
    return canvas.node("MatMul", [value, turned], output)


def _coded(
    canvas: _Canvas, sources: Sequence[str], inputs: list[str], bias: str, output: str
) -> str:
    infos, scheme = canvas.model.weights.infos, canvas.schemes[sources[0]]
    columns = infos[sources[0]].shape[1]
    return canvas.node(
        "MatMulNBits", [*inputs, "", "", bias] if bias else inputs, output, domain=encode.DOMAIN,
        K=columns, N=sum(infos[source].shape[0] for source in sources), bits=scheme.bits,
        block_size=encode.block_size(scheme, columns, sources[0]),
        accuracy_level=canvas.form.accuracy_level,
    )  # fmt: skip


def _codes(canvas: _Canvas, sources: Sequence[str]) -> tuple[str, str]:
    """Names of the codes and scales of tensors that one product reads, rows below rows."""
    name = JOIN.join(sources)
    codes, scales = f"{name}.codes", f"{name}.scales"
    if codes not in canvas.tensors:
        stored = [encode.stored(canvas.model.quantized[source], source) for source in sources]
        canvas.constant(codes, *(part for part, _ in stored))
        canvas.constant(scales, *(canvas.form.cast(part) for _, part in stored))
    return codes, scales


def _assemble(canvas: _Canvas) -> onnx.ModelProto:
    shape, element = canvas.plan, canvas.form.element
    rows: list[str | int | None] = ["batch_size", "logits_length", shape.vocabulary]
    first, last = _given(canvas)
    inputs = [*first, *_caches(canvas, PAST, "past_sequence_length"), last]
    outputs = [
        helper.make_tensor_value_info("logits", element, rows),
        *_caches(canvas, PRESENT, "total_sequence_length"),
    ]
    tensors = list(canvas.tensors.values())
    graph = helper.make_graph(canvas.nodes, "decoder", inputs, outputs, tensors)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(encode.DOMAIN, 1)]
    return helper.make_model(
        graph, producer_name="edgecompile", opset_imports=opsets, ir_version=IR_VERSION
    )


def _given(canvas: _Canvas) -> tuple[list[onnx.ValueInfoProto], onnx.ValueInfoProto]:
    """Inputs before the caches, and the one after: which logits to compute."""
    port, int64, int32 = helper.make_tensor_value_info, TensorProto.INT64, TensorProto.INT32
    ids = port("input_ids", int64, ["batch_size", "sequence_length"])
    if canvas.form.gpu:
        lengths = port(SEQLENS, int32, ["batch_size"]), port(TOTAL, int32, [])
        places = [port(POSITION_IDS, int64, ["batch_size", "sequence_length"])]
        given = places if canvas.plan.family.positions else []
        return [ids, *given, *lengths], port(LOGITS_START, int64, [1])
    mask = port("attention_mask", int64, ["batch_size", "total_sequence_length"])
    return [ids, mask], port(LAST_TOKENS, int64, [1])


def _caches(canvas: _Canvas, pattern: str, length: str) -> list[onnx.ValueInfoProto]:
    """A key and a value cache [batch, kv heads, length, head size] for each layer."""
    shape = canvas.plan
    dims: list[str | int | None] = ["batch_size", shape.kv_heads, length, shape.head_size]
    names = (
        pattern.format(layer=layer, part=part)
        for layer in range(shape.layers) for part in ("key", "value")
    )  # fmt: skip
    return [helper.make_tensor_value_info(name, canvas.form.element, dims) for name in names]
