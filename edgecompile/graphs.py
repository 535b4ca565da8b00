"""What an engine's file computes: a model's torch module with named inputs and outputs."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from edgecompile.backends import ReadWhenAsked
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model, Weights
from edgecompile.tasks import HALVES, SPEECH, TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgecompile.reference import Reference

Axes = Mapping[str, Mapping[int, str]]
Made = TypeVar("Made")

HALVES_AXES: Axes = {  # of an encoder-decoder's ports, where its source has any length
    "input_ids": {1: "source_length"}, "cross": {2: "source_length"},
    "decoder_input_ids": {1: "length"}, "past": {0: "past_length"},
    "logits": {1: "length"}, "present": {0: "length"},
}  # fmt: skip
WINDOW_AXES: Axes = {  # where it is a window of sound
    **HALVES_AXES, "input_features": {}, "cross": {},
}  # fmt: skip
CROSSING = (
    ".EncDecAttention.k.", ".EncDecAttention.v.", ".encoder_attn.k_proj.", ".encoder_attn.v_proj.",
)  # fmt: skip
EXAMPLE_SHAPE = (2, 7)  # neither is 1: exporters take a size of 1 for a constant


@dataclass(frozen=True)
class Graph:
    """`given` are example inputs by name, in the order of the module's forward.

    `axes` are sizes that vary: input -> axis -> a name, the same one where sizes are equal.
    """

    module: nn.Module
    given: Mapping[str, Tensor]
    axes: Axes
    outputs: tuple[str, ...]
    name: str = ""  # where a model has several

    @property
    def fixed(self) -> Graph:
        """The same with the sizes of the example."""
        return replace(self, axes={})


def graph(reference: Reference) -> Graph:
    """The graph of a task that one call answers; its batch varies, and so does a text's length."""
    import torch

    from edgecompile.reference import flat_outputs

    module, task = reference.torch_module(), TASKS[reference.model.task]
    if task.takes == "arrays":
        arrays = {n: torch.from_numpy(a) for n, a in reference.example_inputs.items()}
        count = len(flat_outputs(module(**arrays)))  # raises here what it raises for the user
        outputs = tuple(f"output_{index}" for index in range(count))
        return Graph(module, arrays, _batch_axes(arrays), outputs)
    if task.takes == "picture":
        pixels = {"pixel_values": torch.zeros((2, *reference.picture_shape))}
        return Graph(module, pixels, {"pixel_values": {0: "batch"}}, (task.output,))
    # One tensor each: the exporter takes one tensor given twice for one input.
    ids = {n: torch.ones(EXAMPLE_SHAPE, dtype=torch.int64) for n in reference.input_names}
    return Graph(module, ids, {n: {0: "batch", 1: "length"} for n in ids}, (task.output,))


def graphs(reference: Reference) -> tuple[Graph, ...]:
    """All graphs of a task: an encoder-decoder has two, of one text or window of sound."""
    task = reference.model.task
    if task not in HALVES:
        return (graph(reference),)
    import torch

    first, second, given = _halves(reference)
    axes = halves_axes(task)
    encoder = Graph(first, given, {name: axes[name] for name in given}, ("cross",), "encoder")
    with torch.inference_mode():
        cross = first(**given)
    new, before = torch.ones((1, 3), dtype=torch.int64), 5
    past = torch.zeros((before, *second.row))
    given = {"decoder_input_ids": new, "past": past, "cross": cross.clone()}
    outputs = ("logits", "present")
    free = {name: axes[name] for name in given}
    return encoder, Graph(second, given, free, outputs, "decoder")


def halves_axes(task: str) -> Axes:
    """Sizes that vary of an encoder-decoder's ports, by port."""
    return WINDOW_AXES if task == SPEECH else HALVES_AXES


def _halves(reference: Reference) -> tuple[nn.Module, Any, Mapping[str, Tensor]]:
    """Encoder, decoder (whose `row` is the shape of a token's keys and values), an example."""
    import torch

    from edgecompile.numerics import halves, whisper

    body: Any = reference.body
    if reference.model.task == SPEECH:
        sound = torch.zeros((1, *reference.sound_shape))
        made = whisper.Encoder(body), whisper.Decoder(body)
        return made[0].eval(), made[1].eval(), {"input_features": sound}
    ids = torch.ones((1, EXAMPLE_SHAPE[1]), dtype=torch.int64)
    encoder, decoder = halves.Encoder(body), halves.Decoder(body)
    return encoder.eval(), decoder.eval(), {"input_ids": ids}


def part_of(model: Model, graph: str) -> Model:
    """The model with the tensors of one of an encoder-decoder's graphs alone."""
    mine = [name for name in model.weights if graph in _readers(name)]
    infos = {name: model.weights.infos[name] for name in mine}
    codes = ReadWhenAsked((n for n in mine if n in model.quantized), model.quantized.__getitem__)
    return replace(model, weights=Weights(infos), quantized=codes)


def _readers(name: str) -> tuple[str, ...]:
    """The graphs that read a tensor: cross keys and values are computed where the source is."""
    if name.startswith("shared."):
        return ("encoder", "decoder")
    crossing = any(one in name for one in CROSSING)
    mine = name.removeprefix("model.").startswith("encoder.")
    return ("encoder",) if crossing or mine else ("decoder",)


def _batch_axes(given: Mapping[str, Tensor]) -> Axes:
    """The first axis is a batch where all inputs agree on it and the example is larger than 1."""
    sizes = {tensor.shape[0] if tensor.ndim else 0 for tensor in given.values()}
    if len(sizes) != 1 or max(sizes) < 2:
        return {}
    return {name: {0: "batch"} for name in given}


def with_axes_if_possible(export: Callable[[Graph], Made], one: Graph, task: str) -> Made:
    """Export with sizes that vary; a user's own module with the example's where it must be."""
    if TASKS[task].takes != "arrays" or not one.axes:
        return export(one)
    try:
        return export(one)
    except UnsupportedError:
        return export(one.fixed)
