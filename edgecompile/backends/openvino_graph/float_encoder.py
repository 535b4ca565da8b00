"""Float graph of an encoder, a classifier or any torch module, by torch.export and the front end.

The front end is called itself: `openvino.convert_model` would send telemetry.
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openvino as ov

from edgecompile.backends.onnx_graph.float_encoder import EXAMPLE_SHAPE
from edgecompile.backends.quiet import quiet
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.reference import Reference, flat_outputs
from edgecompile.structure import filled_in

if TYPE_CHECKING:
    import torch

OUTPUTS = {"embedding": "sentence_embedding", "classification": "logits"}


def export(model: Model) -> ov.Model:
    """A graph with dynamic batch and length (text), or batch (a module's first axis where it can).

    Floats that a pass replaced are in it; codes are not. Its constants share torch's memory while
    the reference lives, so they are copied.
    """
    with _reference(model).quantized({}, model.replaced) as reference:
        graph, names = _exported(reference)
        return _with_ports(graph, names, _output_names(model, graph))


def _reference(model: Model) -> Reference:
    """With one attention operator that the engine knows, where the architecture has it.

    Not where layers see a window: a padded place that sees nothing gives NaN in that operator.
    """
    if model.task == "module":
        return Reference(model)
    if "sliding_attention" in (getattr(filled_in(model), "layer_types", None) or ()):
        return Reference(model)
    try:
        return Reference(model, "sdpa")
    except UnsupportedError:
        return Reference(model)


def _exported(reference: Reference) -> tuple[ov.Model, list[str]]:
    import torch

    module, axes = reference.torch_module(), torch.export.Dim.DYNAMIC
    if reference.model.task == "module":
        given = {name: torch.from_numpy(a) for name, a in reference.example_inputs.items()}
        flat_outputs(module(**given))  # raises here what it raises for the user
        sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in given.values()}
        if len(sizes) == 1 and max(sizes) > 1:
            try:
                return _converted(module, given, {name: {0: axes} for name in given})
            except UnsupportedError:
                pass  # its batch is fixed
        return _converted(module, given, None)
    # One tensor each: the exporter takes one tensor given twice for one input.
    given = {n: torch.ones(EXAMPLE_SHAPE, dtype=torch.int64) for n in reference.input_names}
    return _converted(module, given, {name: {0: axes, 1: axes} for name in given})


def _converted(
    module: torch.nn.Module, given: dict[str, torch.Tensor], axes: dict[str, Any] | None
) -> tuple[ov.Model, list[str]]:
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    try:
        with quiet():
            program = torch.export.export(module, (), given, dynamic_shapes=axes)
            decoder = TorchFXPythonDecoder.from_exported_program(program)
            frontend = FrontEndManager().load_by_framework("pytorch")
            graph = frontend.convert(frontend.load(decoder))
    except Exception as error:  # torch's and OpenVINO's classes share no base but Exception
        reason = str(error).strip().splitlines() or [repr(error)]
        raise UnsupportedError(
            "openvino backend", f"this module cannot be exported: {reason[0][:300]}",
            way_out="try another backend (`edgecompile targets`), or avoid the operation it names",
        ) from error  # fmt: skip
    _set_shapes(graph, given, axes or {})
    return graph, list(given)


def _set_shapes(
    graph: ov.Model, given: dict[str, torch.Tensor], axes: dict[str, Any]
) -> None:
    """The front end takes every size for one that varies; only `axes` do."""
    for node in graph.get_parameters():
        name = node.get_friendly_name()
        free = axes.get(name, {})
        shape = [-1 if axis in free else size for axis, size in enumerate(given[name].shape)]
        node.set_partial_shape(ov.PartialShape(shape))
    graph.validate_nodes_and_infer_types()


def _output_names(model: Model, graph: ov.Model) -> list[str]:
    if model.task in OUTPUTS:
        return [OUTPUTS[model.task]]
    return [f"output_{index}" for index in range(len(graph.outputs))]


def _with_ports(graph: ov.Model, inputs: list[str], outputs: list[str]) -> ov.Model:
    """The same graph with its ports in the order and under the names of the module's."""
    parameters = {node.get_friendly_name(): node for node in graph.get_parameters()}
    results = list(graph.get_results())
    for result, name in zip(results, outputs, strict=True):
        result.input_value(0).set_names({name})
    # A torch module may leave an input unused: it stays a port, as in other engines' files.
    return ov.Model(results, [parameters[name] for name in inputs], "encoder")
