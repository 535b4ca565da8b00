"""What an engine's file computes: a model's torch module with named inputs and outputs."""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from edgecompile.backends import ReadWhenAsked
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model, Weights
from edgecompile.sources.towers import LOGIT_SCALE
from edgecompile.tasks import IMAGE_TEXT, SPEECH, TASKS, TEXT_TO_TEXT

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edgecompile.reference import Reference

Axes = Mapping[str, Mapping[int, str]]
Made = TypeVar("Made")

_ANSWER_AXES: Axes = {  # of an encoder-decoder's decoder
    "decoder_input_ids": {1: "length"}, "past": {0: "past_length"},
    "logits": {1: "length"}, "present": {0: "length"},
}  # fmt: skip
PORT_AXES: Mapping[str, Axes] = {  # of the inputs and outputs of tasks with several graphs
    TEXT_TO_TEXT: {
        **_ANSWER_AXES, "input_ids": {1: "source_length"}, "cross": {2: "source_length"},
    },
    SPEECH: {**_ANSWER_AXES, "input_features": {}, "cross": {}},  # a window has one size
    IMAGE_TEXT: {
        "input_ids": {0: "batch", 1: "length"}, "text_embeds": {0: "batch"},
        "pixel_values": {0: "batch"}, "image_embeds": {0: "batch"},
    },
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

    from edgecompile.modules import flat_outputs

    module, task = reference.torch_module(), TASKS[reference.model.task]
    if task.takes == "arrays":
        arrays = {n: torch.from_numpy(a) for n, a in reference.example_inputs.items()}
        count = len(flat_outputs(module(**arrays)))  # raises here what it raises for the user
        outputs = tuple(f"output_{index}" for index in range(count))
        return Graph(module, arrays, _batch_axes(arrays), outputs)
    if task.takes == "picture":
        pixels = {"pixel_values": torch.zeros((2, *reference.model.picture_shape))}
        return Graph(module, pixels, {"pixel_values": {0: "batch"}}, (task.output,))
    # One tensor each: the exporter takes one tensor given twice for one input.
    ids = {n: torch.ones(EXAMPLE_SHAPE, dtype=torch.int64) for n in reference.input_names}
    return Graph(module, ids, {n: {0: "batch", 1: "length"} for n in ids}, (task.output,))


def graphs(reference: Reference) -> tuple[Graph, ...]:
    """All graphs of a task, each with a name where there are several."""
    build = BUILDERS.get(reference.model.task)
    return build(reference) if build else (graph(reference),)


def _halves(reference: Reference) -> tuple[Graph, ...]:
    """An encoder-decoder's two graphs, of one text (numerics.halves)."""
    import torch

    from edgecompile.numerics.halves import Decoder, Encoder

    body = reference.body
    ids = torch.ones((1, EXAMPLE_SHAPE[1]), dtype=torch.int64)
    return _pair(TEXT_TO_TEXT, Encoder(body), Decoder(body), {"input_ids": ids})


def _of_sound(reference: Reference) -> tuple[Graph, ...]:
    """Those of one window of sound (numerics.whisper)."""
    import torch

    from edgecompile.numerics.whisper import Decoder, Encoder

    body, window = reference.body, torch.zeros((1, *reference.sound_shape))
    return _pair(SPEECH, Encoder(body), Decoder(body), {"input_features": window})


def _pair(
    task: str, first: nn.Module, second: Any, given: Mapping[str, Tensor]
) -> tuple[Graph, ...]:
    """Encoder, and decoder, whose `row` is the shape of a token's keys and values."""
    import torch

    encoder = Graph(first.eval(), given, _axes(task, given), ("cross",), "encoder")
    with torch.inference_mode():
        cross = first(**given)
    new, before = torch.ones((1, 3), dtype=torch.int64), 5
    past = torch.zeros((before, *second.row))
    given = {"decoder_input_ids": new, "past": past, "cross": cross.clone()}
    outputs, axes = ("logits", "present"), _axes(task, given)
    return encoder, Graph(second.eval(), given, axes, outputs, "decoder")


def _towers(reference: Reference) -> tuple[Graph, ...]:
    """A graph of texts and one of pictures (numerics.towers)."""
    import torch

    from edgecompile.numerics.towers import PictureTower, TextTower

    ids = {"input_ids": torch.ones(EXAMPLE_SHAPE, dtype=torch.int64)}
    pixels = {"pixel_values": torch.zeros((2, *reference.model.picture_shape))}
    text, picture = TextTower(reference.body).eval(), PictureTower(reference.body).eval()
    return (
        Graph(text, ids, _axes(IMAGE_TEXT, ids), ("text_embeds",), "text"),
        Graph(picture, pixels, _axes(IMAGE_TEXT, pixels), ("image_embeds",), "vision"),
    )


def _axes(task: str, given: Mapping[str, Tensor]) -> Axes:
    return {name: PORT_AXES[task][name] for name in given}


def part_of(model: Model, graph: str) -> Model:
    """The model with the tensors of one of its graphs alone."""
    readers = READERS[model.task]
    mine = [name for name in model.weights if graph in readers(name)]
    infos = {name: model.weights.infos[name] for name in mine}
    codes = ReadWhenAsked((n for n in mine if n in model.quantized), model.quantized.__getitem__)
    return replace(model, weights=Weights(infos), quantized=codes)


def _halves_readers(name: str) -> tuple[str, ...]:
    """The graphs that read a tensor: cross keys and values are computed where the source is."""
    if name.startswith("shared."):
        return ("encoder", "decoder")
    crossing = any(one in name for one in CROSSING)
    mine = name.removeprefix("model.").startswith("encoder.")
    return ("encoder",) if crossing or mine else ("decoder",)


def _tower_readers(name: str) -> tuple[str, ...]:
    """The graph that reads a tensor; what compares the two vectors is in the manifest."""
    if name == LOGIT_SCALE:
        return ()
    return ("text",) if name.startswith("text_") else ("vision",)


def unread(model: Model) -> dict[str, str]:
    """Tensors that no graph reads, and why."""
    reads = READERS[model.task]
    return dict.fromkeys((n for n in model.weights if not reads(n)), "in the manifest: similarity")


BUILDERS: Mapping[str, Callable[[Reference], tuple[Graph, ...]]] = {
    TEXT_TO_TEXT: _halves, SPEECH: _of_sound, IMAGE_TEXT: _towers,
}  # fmt: skip
READERS: Mapping[str, Callable[[str], tuple[str, ...]]] = {
    TEXT_TO_TEXT: _halves_readers, SPEECH: _halves_readers, IMAGE_TEXT: _tower_readers,
}  # fmt: skip


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
