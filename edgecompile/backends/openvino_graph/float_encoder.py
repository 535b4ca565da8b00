"""Float graph of what one call answers, by torch.export and the front end.

The front end is called itself: `openvino.convert_model` would send telemetry.
"""
from __future__ import annotations

import openvino as ov

from edgecompile.backends.quiet import quiet
from edgecompile.errors import UnsupportedError
from edgecompile.graphs import Graph, graph, graphs, with_axes_if_possible
from edgecompile.model import Model
from edgecompile.reference import Reference
from edgecompile.structure import filled_in
from edgecompile.tasks import TEXT_TO_TEXT


def export(model: Model) -> ov.Model:
    """A graph with the sizes that vary (edgecompile.graphs).

    Floats that a pass replaced are in it; codes are not. Its constants share torch's memory while
    the reference lives, so they are copied.
    """
    with _reference(model).quantized({}, model.replaced) as reference:
        return with_axes_if_possible(_converted, graph(reference), model.task)


def exports(model: Model) -> dict[str, ov.Model]:
    """The same by name, of a task of several graphs."""
    with _reference(model).quantized({}, model.replaced) as reference:
        return {one.name: _converted(one) for one in graphs(reference)}


def _reference(model: Model) -> Reference:
    """With one attention operator that the engine knows, where the architecture has it.

    Not where layers see a window: a padded place that sees nothing gives NaN in that operator.
    """
    if model.entry_point or model.task == TEXT_TO_TEXT:  # whose attention is numerics.halves' own
        return Reference(model)
    if "sliding_attention" in (getattr(filled_in(model), "layer_types", None) or ()):
        return Reference(model)
    try:
        return Reference(model, "sdpa")
    except UnsupportedError:
        return Reference(model)


def _converted(one: Graph) -> ov.Model:
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder

    any_size = torch.export.Dim.DYNAMIC
    shapes = {name: dict.fromkeys(axes, any_size) for name, axes in one.axes.items()} or None
    try:
        with quiet():
            program = torch.export.export(one.module, (), dict(one.given), dynamic_shapes=shapes)
            decoder = TorchFXPythonDecoder.from_exported_program(program)
            frontend = FrontEndManager().load_by_framework("pytorch")
            found = frontend.convert(frontend.load(decoder))
    except Exception as error:  # torch's and OpenVINO's classes share no base but Exception
        reason = str(error).strip().splitlines() or [repr(error)]
        raise UnsupportedError(
            "openvino backend", f"this module cannot be exported: {reason[0][:300]}",
            way_out="try another backend (`edgecompile targets`), or avoid the operation it names",
        ) from error  # fmt: skip
    _set_shapes(found, one)
    return _with_ports(found, one)


def _set_shapes(found: ov.Model, one: Graph) -> None:
    """The front end takes every size for one that varies; only `axes` do."""
    for node in found.get_parameters():
        name = node.get_friendly_name()
        free = one.axes.get(name, {})
        shape = [-1 if axis in free else size for axis, size in enumerate(one.given[name].shape)]
        node.set_partial_shape(ov.PartialShape(shape))
    found.validate_nodes_and_infer_types()


def _with_ports(found: ov.Model, one: Graph) -> ov.Model:
    """The same graph with its ports in the order and under the names of the module's."""
    parameters = {node.get_friendly_name(): node for node in found.get_parameters()}
    results = list(found.get_results())
    for result, name in zip(results, one.outputs, strict=True):
        result.input_value(0).set_names({name})
    # A torch module may leave an input unused: it stays a port, as in other engines' files.
    return ov.Model(results, [parameters[name] for name in one.given], one.name or "encoder")
