"""One attention node of a decoder's sizes: the runtime asks it whether a device computes prompts.

A file of some hundred bytes beside the graph (docs/gpu.md says what it found).
"""
from __future__ import annotations

from pathlib import Path

import onnx
from onnx import helper

from edgecompile.backends.decoders import DecoderPlan
from edgecompile.backends.onnx_graph import encode

FILE = "probe.onnx"
OPSET, IR_VERSION = 22, 10


def write(folder: Path, plan: DecoderPlan, element: int) -> None:
    """probe.onnx: GroupQueryAttention over float inputs of the ONNX type `element`."""
    queries, keys = plan.heads * plan.head_size, plan.kv_heads * plan.head_size
    node = helper.make_node(
        "GroupQueryAttention",
        ["query", "key", "value", "past_key", "past_value", "seqlens_k", "total_sequence_length"],
        ["output", "present_key", "present_value"], "attention", domain=encode.DOMAIN,
        num_heads=plan.heads, kv_num_heads=plan.kv_heads, scale=plan.attention_scale,
    )  # fmt: skip

    def port(name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, element, shape)

    caches = [(1, plan.kv_heads, length, plan.head_size) for length in ("past", "total")]
    lengths = [
        helper.make_tensor_value_info("seqlens_k", onnx.TensorProto.INT32, [1]),
        helper.make_tensor_value_info("total_sequence_length", onnx.TensorProto.INT32, []),
    ]
    inputs = [
        port("query", 1, "tokens", queries), port("key", 1, "tokens", keys),
        port("value", 1, "tokens", keys), port("past_key", *caches[0]),
        port("past_value", *caches[0]), *lengths,
    ]  # fmt: skip
    outputs = [
        port("output", 1, "tokens", queries), port("present_key", *caches[1]),
        port("present_value", *caches[1]),
    ]  # fmt: skip
    graph = helper.make_graph([node], "probe", inputs, outputs)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(encode.DOMAIN, 1)]
    proto = helper.make_model(
        graph, producer_name="edgecompile", opset_imports=opsets, ir_version=IR_VERSION
    )
    (folder / FILE).write_bytes(proto.SerializeToString(deterministic=True))
