"""Float graph of an encoder, a classifier or any torch module, by torch.onnx."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from edgecompile.backends.quiet import quiet
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.reference import Reference, flat_outputs

if TYPE_CHECKING:
    import torch

OPSET = 21
EXAMPLE_SHAPE = (2, 7)  # neither is 1: the exporter would take a size of 1 for a constant


def export(model: Model) -> onnx.ModelProto:
    """ONNX with dynamic batch and length (text), or batch (a module's first axis where it can).

    Floats that a pass replaced are in it; codes are not.
    """
    with Reference(model).quantized({}, model.replaced) as reference:
        return _exported(reference)


def _exported(reference: Reference) -> onnx.ModelProto:
    import torch

    model, module = reference.model, reference.torch_module()
    if model.task == "module":
        given = {name: torch.from_numpy(a) for name, a in reference.example_inputs.items()}
        outputs = [f"output_{i}" for i in range(len(flat_outputs(module(**given))))]
        try:
            return _export(module, given, _batch_axes(given), outputs)
        except UnsupportedError:
            return _export(module, given, None, outputs)
    # One tensor each: the exporter takes one tensor given twice for one input.
    given = {n: torch.ones(EXAMPLE_SHAPE, dtype=torch.int64) for n in reference.input_names}
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    axes: dict[str, Any] = {name: {0: batch, 1: length} for name in given}
    output = "sentence_embedding" if model.task == "embedding" else "logits"
    return _export(module, given, axes, [output])


def _batch_axes(given: dict[str, torch.Tensor]) -> dict[str, Any] | None:
    """The first axis is a batch where all inputs agree on it and the example is larger than 1."""
    import torch

    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in given.values()}
    if len(sizes) != 1 or max(sizes) < 2:
        return None
    batch = torch.export.Dim("batch")
    return {name: {0: batch} for name in given}


def _export(
    module: torch.nn.Module, given: dict[str, torch.Tensor], axes: dict[str, Any] | None,
    outputs: list[str],
) -> onnx.ModelProto:  # fmt: skip
    import torch

    try:
        with quiet():
            program = torch.onnx.export(
                module, (), kwargs=given, dynamo=True, dynamic_shapes=axes, opset_version=OPSET,
                input_names=list(given), output_names=outputs, verbose=False,
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
