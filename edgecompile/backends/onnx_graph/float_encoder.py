"""Float graph of what one call answers: an encoder, pictures, any torch module; by torch.onnx."""
from __future__ import annotations

from typing import Any

import onnx

from edgecompile.backends.quiet import quiet
from edgecompile.errors import UnsupportedError
from edgecompile.graphs import Graph, graph, graphs, with_axes_if_possible
from edgecompile.model import Model
from edgecompile.reference import Reference

OPSET = 21


def export(model: Model) -> onnx.ModelProto:
    """ONNX with the sizes that vary (edgecompile.graphs).

    Floats that a pass replaced are in it; codes are not.
    """
    with Reference(model).quantized({}, model.replaced) as reference:
        return with_axes_if_possible(_export, graph(reference), model.task)


def exports(model: Model) -> dict[str, onnx.ModelProto]:
    """The same by name, of a task of several graphs."""
    with Reference(model).quantized({}, model.replaced) as reference:
        return {one.name: _export(one) for one in graphs(reference)}


def _export(one: Graph) -> onnx.ModelProto:
    import torch

    names = sorted({name for axes in one.axes.values() for name in axes.values()})
    sizes: dict[str, Any] = {name: torch.export.Dim(name) for name in names}
    shapes = {n: {at: sizes[name] for at, name in axes.items()} for n, axes in one.axes.items()}
    try:
        with quiet():
            program = torch.onnx.export(
                one.module, (), kwargs=dict(one.given), dynamo=True, dynamic_shapes=shapes or None,
                opset_version=OPSET, input_names=list(one.given), output_names=list(one.outputs),
                verbose=False,
            )  # fmt: skip
    except Exception as error:  # the exporter's classes share no base but Exception
        reason = str(error).strip().splitlines() or [repr(error)]
        raise UnsupportedError(
            "onnxruntime backend", f"torch.onnx cannot export this module: {reason[0][:300]}",
            way_out="try another backend (`edgecompile targets`), or avoid the operation it names",
        ) from error  # fmt: skip
    assert program is not None
    proto: onnx.ModelProto = program.model_proto
    return proto
