"""ExecuTorch: what we know by our own writer, the rest by torch.export; XNNPACK multiplies."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgecompile.backends import Decoded, Export, Extent, Port, decoders, halves, schemes_of
from edgecompile.backends.executorch_graph import scope
from edgecompile.backends.quiet import quiet
from edgecompile.errors import UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32, Scheme, float_digest
from edgecompile.passes import Progress
from edgecompile.sources.heads import activation_option
from edgecompile.sources.towers import TEXT_PROJECTION
from edgecompile.structure import roles
from edgecompile.tasks import (
    EVERY,
    HALVES,
    IMAGE_TEXT,
    PAIRS,
    PICTURES,
    TASKS,
    TEXT_TO_TEXT,
    generates,
    has_several_graphs,
    takes_text,
)
from edgecompile.tokenizer import context_length

WHERE = "executorch backend"
HEADS = {"lm_head.weight", "proj_out.weight"}  # where one is a tensor of its own
GRAPH_BYTES, GRAPH_BYTES_PER_TENSOR = 30_000, 1_700  # subgraphs, program, alignment
CONTEXT = 2048  # tokens, where neither the target nor the model says less
PROMPT, ROWS = 512, 128  # tokens and rows of logits in one call, at most


@dataclass(frozen=True)
class Executorch:
    """XNNPACK quantizes each row of activations to int8 when a weight has codes.

    `context_length` is the size of a decoder's KV cache in the file, in tokens; 0: 2048 or the
    model's own, whichever is less. `partitioner` coreml or vulkan writes an encoder or a module for
    devices that are not here, which compute with the codes' values in `compute_precision`.
    """

    name: ClassVar[str] = "executorch"
    tasks: ClassVar[tuple[str, ...]] = EVERY
    partitioner: Literal["xnnpack", "coreml", "vulkan"] = "xnnpack"
    compute_precision: Literal["float32", "float16"] = "float32"
    context_length: int = 0

    @property
    def _device(self) -> scope.Device:
        return replace(scope.DEVICES[self.partitioner], precision=self.compute_precision)

    def refusal(self, model: Model) -> str:
        """Unknown tasks, decoders that we do not draw."""
        if reason := self._device_refusal(model):
            return reason
        if model.task not in self.tasks:
            return f"task {model.task!r} is not one of {', '.join(self.tasks)}"
        if has_several_graphs(model.task):
            return halves.refusal(model)
        if model.task != "text-generation":
            return ""
        if reason := decoders.refusal(model):
            return reason
        cap = decoders.capped(model)
        return cap and f"{cap}: llama::sdpa_with_kv_cache, its attention, has no cap on scores"

    def size(self, model: Model, schemes: Mapping[str, Scheme]) -> int:
        """Codes, scales, floats, subgraphs, and a decoder's rotary tables."""
        used = roles(model)
        _refuse_schemes(model, schemes, used)
        total = GRAPH_BYTES
        for name, info in model.weights.infos.items():
            if used[name] == "unused":
                continue
            elements = math.prod(info.shape)
            if name in schemes:
                scheme = schemes[name]
                scales = info.shape[0] * scheme.groups(info.matrix[1])
                total += elements * scheme.bits // 8 + scales * (2 if scheme.group_size else 4)
            else:
                total += elements * 4
            total += GRAPH_BYTES_PER_TENSOR
        if model.task == "text-generation":
            total += 4 * self._context(model) * decoders.rotary_width(model)
        return total

    def export(self, model: Model, folder: Path, progress: Progress) -> Export:
        """Write model.pte."""
        if reason := self.refusal(model):
            raise UnsupportedError(WHERE, reason, way_out="--target cpu or --target gguf")
        _refuse_schemes(model, schemes_of(model), roles(model))
        if model.task == "text-generation":
            return self._decoder(model, folder, progress)
        if self._device == scope.XNNPACK and not scope.refusal(model):
            drawn = {IMAGE_TEXT: self._towers, PICTURES: self._vit, TEXT_TO_TEXT: self._t5}
            return drawn.get(model.task, self._encoder)(model, folder, progress)
        if has_several_graphs(model.task):
            return self._several(model, folder, progress)
        return self._lowered(model, folder, progress)

    def decode(self, folder: Path, manifest: Mapping[str, Any]) -> Decoded:
        """Codes, floats and facts from the sealed file."""
        with quiet():
            from edgecompile.backends.executorch_graph.decode import decode

        return decode(folder, manifest)

    def extents(self, folder: Path) -> Iterator[Extent]:
        """The program's constants, data that delegates find by key, and what these compiled."""
        with quiet():
            from edgecompile.backends.executorch_graph.extents import extents

        return extents(folder / scope.FILE)

    def _device_refusal(self, model: Model) -> str:
        """What only XNNPACK has, and what only the others have."""
        if self.partitioner == "xnnpack":
            only = "compute_precision 'float16': XNNPACK computes in float32 and int8"
            return only if self.compute_precision != "float32" else ""
        if generates(model.task) or has_several_graphs(model.task):
            what = "decoders and models of several graphs"
            return f"partitioner {self.partitioner!r}: {what} are drawn for XNNPACK only"
        return ""

    def _context(self, model: Model) -> int:
        trained = decoders.context_limit(model)
        return min(trained, self.context_length or CONTEXT)

    def _decoder(self, model: Model, folder: Path, progress: Progress) -> Export:
        with quiet():
            from edgecompile.backends.executorch_graph import decoder

        plan, context = decoders.plan(model), self._context(model)
        shape = decoder.Shape(context, min(PROMPT, context), min(ROWS, context))
        decoder.write(model, plan, shape, folder, progress)
        options: dict[str, Any] = {
            "context_length": context, "prompt_tokens": shape.tokens, "logit_rows": shape.rows,
        }  # fmt: skip
        if schemes_of(model):
            options["activations"] = "dynamic"
        ids = Port("input_ids", "int64", (1, "length"))
        position = tuple(Port(name, "int64", (1,)) for name in ("start", "first"))
        logits = Port("logits", "float32", (1, "logits_length", plan.vocabulary))
        made = _export((ids, *position), (logits,), options, plan.unused)
        return replace(made, shifted=plan.shifted)

    def _t5(self, model: Model, folder: Path, progress: Progress) -> Export:
        with quiet():
            from edgecompile.backends.executorch_graph import t5

        longest = min(context_length(model), self.context_length or CONTEXT)
        done = t5.write(model, longest, folder, progress)
        options: dict[str, Any] = {"context_length": longest}
        if schemes_of(model):
            options["activations"] = "dynamic"
        return _export(*_answer_ports(done.row, done.words), options, done.unused)

    def _several(self, model: Model, folder: Path, progress: Progress) -> Export:
        with quiet():
            from edgecompile.backends.executorch_graph import lowered

        progress("lower graph", 0, 1)
        if generates(model.task):
            longest = min(context_length(model), self.context_length or CONTEXT)
            options: dict[str, Any] = {"context_length": longest}
        else:
            longest, options = scope.text_limit(model), _encoder_options(model)
        done = lowered.write_several(model, folder, longest)
        progress("lower graph", 1, 1)
        if schemes_of(model):
            options["activations"] = "dynamic"
        options["places"] = dict(sorted(done.places.items()))
        return _export(done.inputs, done.outputs, options, done.unused)

    def _towers(self, model: Model, folder: Path, progress: Progress) -> Export:
        with quiet():
            from edgecompile.backends.executorch_graph import towers

        unused = towers.write(model, folder, progress)
        return _export(*_tower_ports(model), _encoder_options(model), unused)

    def _vit(self, model: Model, folder: Path, progress: Progress) -> Export:
        with quiet():
            from edgecompile.backends.executorch_graph import vit

        unused = vit.write(model, folder, progress)
        pixels = Port("pixel_values", "float32", (1, *model.picture_shape))
        width = model.weights.infos["classifier.weight"].shape[0]
        scores = Port(TASKS[model.task].output, "float32", (1, width))
        return _export((pixels,), (scores,), _encoder_options(model), unused)

    def _lowered(self, model: Model, folder: Path, progress: Progress) -> Export:
        with quiet():
            from edgecompile.backends.executorch_graph import lowered

        progress("lower graph", 0, 1)
        longest, device = scope.text_limit(model), self._device
        done = lowered.write(model, folder, longest, device)
        progress("lower graph", 1, 1)
        options = _encoder_options(model)
        options["places"] = dict(sorted(done.places.items()))
        made = _export(done.inputs, done.outputs, options, done.unused)
        if device != scope.XNNPACK:
            return _for_device(made, model, device)
        own = {name: _folded(name, values) for name, values in done.folded.items()}
        return replace(made, own=own)

    def _encoder(self, model: Model, folder: Path, progress: Progress) -> Export:
        with quiet():
            from edgecompile.backends.executorch_graph import encoder, modernbert

        writer = modernbert if model.architecture == scope.MODERN else encoder
        unused = writer.write(model, folder, progress)
        name = TASKS[model.task].output
        pair = model.task in PAIRS and scope.has_kinds(model)
        given = ("input_ids", "token_type_ids") if pair else ("input_ids",)
        ids = tuple(Port(one, "int64", (1, "length")) for one in given)
        scores = Port(name, "float32", scope.answer_shape(model))
        return _export(ids, (scores,), _encoder_options(model), unused)


def _tower_ports(model: Model) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Of one text and of one picture a call."""
    side = int(model.config["vision_config"]["image_size"])
    width = model.weights.infos[TEXT_PROJECTION].shape[0]
    ids = Port("input_ids", "int64", (1, "length"))
    pixels = Port("pixel_values", "float32", (1, 3, side, side))
    names = ("text_embeds", "image_embeds")
    return (ids, pixels), tuple(Port(name, "float32", (1, width)) for name in names)


def _answer_ports(
    row: tuple[int, int, int], words: int
) -> tuple[tuple[Port, ...], tuple[Port, ...]]:
    """Of an encoder and a decoder; `row`: 2 layers, heads, size of a token's keys and values."""
    both, heads, size = row
    cross = Port("cross", "float32", (both, heads, "source_length", size))
    ids = Port("input_ids", "int64", (1, "source_length"))
    answer = Port("decoder_input_ids", "int64", (1, "length"))
    past, present = (
        Port(name, "float32", (length, *row))
        for name, length in (("past", "past_length"), ("present", "length"))
    )
    logits = Port("logits", "float32", (1, "length", words))
    return (ids, answer, past, cross), (cross, logits, present)


def _for_device(made: Export, model: Model, device: scope.Device) -> Export:
    """What the runtime must have, and that nothing here ran it."""
    options = {**made.options, "partitioner": device.name, "delegate": device.delegate}
    options.pop("activations", None)  # floats: nothing rounds them
    coded = schemes_of(model).keys() | made.unused.keys()
    half = [name for name in model.weights if name not in coded and device.precision == "float16"]
    floats = dict.fromkeys(half, "float16")
    note = f"for {device.name}, which runs on {device.runs_on}: written and read back, not run"
    return replace(made, options=options, float_dtypes=floats, notes=(*made.notes, note))


def _encoder_options(model: Model) -> dict[str, Any]:
    """What the runtime needs to know of a method that takes one text, or a module's inputs."""
    options: dict[str, Any] = {}
    if takes_text(model.task):
        options["length_limit"] = scope.text_limit(model)
        options["vocabulary"] = int(model.text_config["vocab_size"])
    if schemes_of(model):
        options["activations"] = "dynamic"
    if model.task == "classification" and scope.has_kinds(model):
        options["single_texts"] = True  # all tokens are of the first kind
    return options | activation_option(model.task, model.config)


def _export(
    inputs: tuple[Port, ...], outputs: tuple[Port, ...], options: Mapping[str, Any],
    unused: Mapping[str, str],
) -> Export:  # fmt: skip
    version = metadata.version("executorch")
    major, minor = (int(part) for part in version.split(".")[:2])
    return Export(
        engine="executorch", requires=f"executorch>={major}.{minor},<{major}.{minor + 1}",
        tested=version, file=scope.FILE, inputs=inputs, outputs=outputs, options=options,
        unused=unused,
    )  # fmt: skip


def _folded(name: str, values: Float32) -> dict[str, str]:
    """The manifest's entry of a tensor that took a batch norm: what the file holds."""
    digest = float_digest(name, values, "float32")
    return {"dtype": "float32", "folded": "batch norm", "sha256": digest}


def _refuse_schemes(
    model: Model, schemes: Mapping[str, Scheme], used: Mapping[str, str]
) -> None:
    """XNNPACK has no kernels for some schemes; ExecuTorch's embeddings take all."""
    tied = model.task == "text-generation" and bool(model.common_config.get("tie_word_embeddings"))
    tied = tied or (model.task in HALVES and not used.keys() & HEADS)
    for name, scheme in schemes.items():
        if used.get(name) == "convolution":
            raise UnsupportedError(
                WHERE, f"{name} is a convolution with codes", "floats: its kernels are XNNPACK's",
                "--set quantize.convolutions=false, or --target cpu",
            )  # fmt: skip
        if used.get(name) == "embedding" and not tied:
            continue
        if reason := scope.linear_refusal(name, scheme, model.weights.infos[name].matrix[1]):
            raise UnsupportedError(
                WHERE, reason, "int4 in groups of 32, 64, ... or int8 a row",
                "leave group_size to the recipe's bits (-1), with bits = 4 or 8",
            )  # fmt: skip
