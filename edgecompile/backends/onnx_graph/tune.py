"""Changes to a decoder's graph that keep its numbers: fewer logits, fewer and larger products."""
from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

LAST_TOKENS = "last_tokens"
END = np.iinfo(np.int64).max


def keep_last_logits(model: onnx.ModelProto) -> None:
    """Add the input `last_tokens` int64 [1]: logits of the last n positions of a call alone.

    A prompt needs the last one, perplexity needs them all; the head is a fifth of a small model.
    """
    graph = model.graph
    head = next(node for node in graph.node if "logits" in node.output)
    hidden = head.input[0]
    for name, value in (("last_tokens.end", END), ("last_tokens.axis", 1)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    graph.input.append(helper.make_tensor_value_info(LAST_TOKENS, onnx.TensorProto.INT64, [1]))
    start = helper.make_node("Neg", [LAST_TOKENS], ["last_tokens.start"], name="last_tokens.start")
    cut = helper.make_node(
        "Slice", [hidden, "last_tokens.start", "last_tokens.end", "last_tokens.axis"],
        ["last_tokens.hidden"], name="last_tokens.hidden",
    )  # fmt: skip
    head.input[0] = "last_tokens.hidden"
    position = list(graph.node).index(head)
    nodes = [*graph.node[:position], start, cut, *graph.node[position:]]
    del graph.node[:]
    graph.node.extend(nodes)
    length = graph.output[[o.name for o in graph.output].index("logits")].type.tensor_type.shape
    length.dim[1].dim_param = "logits_length"
