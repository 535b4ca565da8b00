"""Places of a call's tokens in a text, for a decoder that has a table of positions."""
from __future__ import annotations

import numpy as np
from onnx import TensorProto

from edgecompile.backends.onnx_graph.canvas import Canvas
from edgecompile.backends.onnx_graph.form import LENGTHS, POSITION_IDS


def positions(canvas: Canvas) -> str:
    """Of each token int64 [batch, length]: those before it, as GroupQueryAttention counts them.

    A GPU's graph is given them: no node of integers is in it.
    """
    if canvas.form.gpu:
        return POSITION_IDS
    one = canvas.constant("one", np.array([1], np.int64))  # a number, and an axis
    zero = canvas.constant("zero.scalar", np.array(0, np.int64))
    step = canvas.constant("one.scalar", np.array(1, np.int64))
    before = canvas.node("Cast", [LENGTHS[0]], "positions.lengths", to=TensorProto.INT64)
    whole = canvas.node("Add", [before, one], "positions.total")
    shape = canvas.node("Shape", ["input_ids"], "positions.shape")
    length = canvas.node("Gather", [shape, step], "positions.length", axis=0)
    start = canvas.node("Sub", [whole, length], "positions.past")
    first = canvas.node("Max", [start, zero], "positions.first")  # a padded prompt has no past
    column = canvas.node("Unsqueeze", [first, one], "positions.column")
    row = canvas.node("Range", [zero, length, step], "positions.row")
    return canvas.node("Add", [column, row], "positions")
