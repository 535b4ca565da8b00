"""ONNX Runtime: decoders by our own writer, the rest by torch.onnx."""
from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

import onnx

from edgecompile.backends import Decoded, Export, Extent, Port, decoders, halves
from edgecompile.backends.onnx_graph import (
    decoder_graph,
    encode,
    float_encoder,
    gpu,
    half,
    ort_format,
    storage,
)
from edgecompile.backends.onnx_graph.activations import Form
from edgecompile.backends.onnx_graph.decode import decode, extents
from edgecompile.backends.onnx_graph.form import (
    LAST_TOKENS,
    LENGTHS,
    LOGITS_START,
    POSITION_IDS,
    GraphForm,
)
from edgecompile.backends.onnx_graph.rewrite import Rewritten, rewrite
from edgecompile.errors import UnsupportedError
from edgecompile.graphs import part_of, unread
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import Progress
from edgecompile.sources.heads import activation_option
from edgecompile.structure import roles
from edgecompile.tasks import EVERY, generates, has_several_graphs


@dataclass(frozen=True)
class _Written:
    """The graph in the file; `shared`: a source tensor -> the equal one that holds its values."""

    graph: onnx.GraphProto
    shared: Mapping[str, str]
    unused: Mapping[str, str]
    shifted: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Onnxruntime:
    """How the engine multiplies with quantized weights.

    MatMulNBits at accuracy_level 4 rounds activations to int8 a block, at 1 not at all
    (ContribOperators.md). Weights of 8 bits a row may have 8-bit activations a whole input instead:
    `dynamic` (the engine finds each input's range) or `static` (a calibrated one). `auto` is static
    where a pass calibrated ranges, else blocks. `format` ort is the file that reduced builds for
    phones open, with the list of operators that such a build needs. `device` gpu draws the graph
    for `providers`, in order of preference, and may compute in float16 (docs/gpu.md).
    """

    name: ClassVar[str] = "onnxruntime"
    tasks: ClassVar[tuple[str, ...]] = EVERY
    accuracy_level: Literal[1, 4] = 4
    activations: Literal["auto", "blocks", "dynamic", "static"] = "auto"
    format: Literal["onnx", "ort"] = "onnx"
    device: Literal["cpu", "gpu"] = "cpu"
    providers: tuple[str, ...] = ()
    compute_precision: Literal["float32", "float16"] = "float32"

    @property
    def cache_value_bytes(self) -> float:
        """Bytes of a number of the KV cache."""
        return 2.0 if self.half else 4.0

    @property
    def half(self) -> bool:
        """Whether the graph computes in float16."""
        return self.compute_precision == "float16"

    def refusal(self, model: Model) -> str:
        """Unknown tasks, unknown decoders; the exporters refuse the rest by themselves."""
        if model.task not in self.tasks:
            return f"task {model.task!r} is not one of {', '.join(self.tasks)}"
        if reason := gpu.refusal(self, model):
            return reason
        if has_several_graphs(model.task):
            return self._several_refused() or halves.refusal(model)
        return decoders.refusal(model) if model.task == "text-generation" else ""

    def size(self, model: Model, schemes: Mapping[str, Scheme]) -> int:
        """Codes, float32 scales, floats, the graph, and a decoder's rotary tables."""
        return file_bytes(model, schemes, 2 if self.half else 4)

    def export(self, model: Model, folder: Path, progress: Progress) -> Export:
        """Write model.onnx and model.onnx.data."""
        if reason := self.refusal(model):
            raise UnsupportedError("onnxruntime backend", reason)
        if has_several_graphs(model.task):
            return self._several(model, folder, progress)
        done = self._write(model, folder, progress)
        if self.format == "ort":
            ort_format.convert(folder)
        form = self._form(model)
        options: dict[str, Any] = {"accuracy_level": self.accuracy_level}
        if form.activations != "blocks":
            options["activations"] = form.activations
        if form.activations == "static":
            ranges = sorted(form.ranges.items())
            options["ranges"] = {name: [one.scale, one.zero] for name, one in ranges}
        if done.shared:
            options["shared"] = dict(sorted(done.shared.items()))
        if model.task == "text-generation":
            options |= decoder_options(done.graph) | decoders.context_option(model)
        if self.device == "gpu":
            options |= gpu.options(self, done.graph, model.task)
        options |= activation_option(model.task, model.config)
        requires, tested = self._wheel()
        return Export(
            engine="onnxruntime", requires=requires, tested=tested,
            float_dtypes=dict.fromkeys(model.weights, "float16") if self.half else {},
            file=ort_format.FILE if self.format == "ort" else storage.GRAPH,
            inputs=ports(done.graph.input),
            outputs=ports(done.graph.output), options=options, unused=done.unused,
            shifted=done.shifted,
        )  # fmt: skip

    def _wheel(self) -> tuple[str, str]:
        """The pip requirement, and what was tested."""
        if self.device == "gpu":
            return gpu.wheel(self)
        version = metadata.version("onnxruntime")
        return f"onnxruntime>={_minor(version)}", version

    def _several_refused(self) -> str:
        """What is there for one graph alone."""
        if self.format == "ort":
            return "format 'ort': this task has several graphs on one file of weights"
        only = "device 'gpu': this task has several graphs, which are drawn for the CPU only"
        return only if self.device == "gpu" else ""

    def _several(self, model: Model, folder: Path, progress: Progress) -> Export:
        """Graphs, each with its part of the tensors, on one model.onnx.data."""
        done: dict[str, Rewritten] = {}
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".graph-") as scratch:
            progress("export graph", 0, 2)
            for name, exported in float_encoder.exports(model).items():
                part = part_of(model, name)
                done[name] = rewrite(exported, Path(scratch), part, self._form(model))
        progress("write file", 1, 2)
        files = storage.write_graphs({name: one.model for name, one in done.items()}, folder)
        progress("write file", 2, 2)
        options: dict[str, Any] = {"accuracy_level": self.accuracy_level}
        if (activations := self._form(model).activations) != "blocks":
            options["activations"] = activations
        if shared := {n: at for one in done.values() for n, at in one.shared.items()}:
            options["shared"] = dict(sorted(shared.items()))
        version = metadata.version("onnxruntime")
        graphs = [one.model.graph for one in done.values()]
        absent = dict.fromkeys((n for one in done.values() for n in one.absent), ABSENT)
        absent |= unread(model)
        return Export(
            engine="onnxruntime", requires=f"onnxruntime>={_minor(version)}", tested=version,
            file=halves.main_file(files), graphs=files, options=options, unused=absent,
            inputs=tuple(port for graph in graphs for port in ports(graph.input)),
            outputs=tuple(port for graph in graphs for port in ports(graph.output)),
        )  # fmt: skip

    def _write(self, model: Model, folder: Path, progress: Progress) -> _Written:
        """Draw decoders ourselves, a tensor at a time; rewrite an exporter's graph else."""
        if model.task == "text-generation":
            drawn, plan = decoder_graph.write(model, folder, self._graph_form(), progress)
            return _Written(drawn.graph, {}, plan.unused, plan.shifted)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".graph-") as scratch:
            progress("export graph", 0, 3)
            exported = float_encoder.export(model)
            progress("encode codes", 1, 3)
            done = rewrite(exported, Path(scratch), model, self._form(model))
            if self.half:
                half.convert(done.model)
            progress("write file", 2, 3)
            storage.write(done.model, folder)
        progress("write file", 3, 3)
        return _Written(done.model.graph, done.shared, _unused(done))

    def _graph_form(self) -> GraphForm:
        return GraphForm(self.accuracy_level, self.device == "gpu", self.half)

    def _form(self, model: Model) -> Form:
        """What `activations` means for this model; decoders multiply one row: blocks."""
        chosen = self.activations
        if chosen == "auto":
            chosen = "static" if model.activations else "blocks"
        if generates(model.task):
            chosen = "blocks"
        if chosen == "static" and not model.activations:
            raise UnsupportedError(
                "onnxruntime backend", "static activations, but no pass calibrated a range",
                "a range of each product's input", "quantize.method=smooth, or activations=dynamic",
            )  # fmt: skip
        return Form(self.accuracy_level, chosen, model.activations)

    def decode(self, folder: Path, manifest: Mapping[str, Any]) -> Decoded:
        """Codes, floats and facts from the sealed graph."""
        return decode(folder, manifest)

    def extents(self, folder: Path) -> Iterator[Extent]:
        """Initializers, and what Constant nodes hold."""
        return extents(folder)


ABSENT = "not part of the exported graph"
GRAPH_BYTES_PER_TENSOR = 1350  # nodes, names, shapes and alignment, per tensor of the source


def file_bytes(model: Model, schemes: Mapping[str, Scheme], width: int = 4) -> int:
    """Bytes of model.onnx and model.onnx.data, from headers and schemes; `width` of a float."""
    total = 0
    used = roles(model)
    for name, info in model.weights.infos.items():
        if used[name] == "unused":
            continue
        elements = math.prod(info.shape)
        if name in schemes and used[name] == "convolution":
            total, elements = total + elements, info.shape[0]
        elif name in schemes:
            scheme, columns = schemes[name], info.matrix[1]
            block = scheme.group_size or encode.row_block(columns)
            blocks = -(-columns // block)
            elements = info.shape[0] * blocks
            total += elements * block * scheme.bits // 8
        total += elements * width + GRAPH_BYTES_PER_TENSOR
    if model.task == "text-generation":
        # cos and sin tables [context, half of what is turned of a head]
        total += width * decoders.context_limit(model) * decoders.rotary_width(model)
    return total


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _unused(done: Rewritten) -> dict[str, str]:
    return dict.fromkeys(done.absent, ABSENT)


def ports(values: Iterable[onnx.ValueInfoProto]) -> tuple[Port, ...]:
    """Inputs or outputs as the manifest lists them."""
    found = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
        found.append(Port(value.name, dtype, shape))
    return tuple(found)


def decoder_options(graph: onnx.GraphProto) -> dict[str, Any]:
    """What the runtime needs to bind the KV cache: layers, heads and the names of the inputs."""
    keys = [v for v in graph.input if re.fullmatch(r"past_key_values\.\d+\.key", v.name)]
    attention = [n for n in graph.node if n.op_type == "GroupQueryAttention"]
    if not keys or not attention:
        raise UnsupportedError("onnxruntime backend", "the exported decoder has no KV cache inputs")
    names = {value.name for value in graph.input}
    dims = [d.dim_value for d in keys[0].type.tensor_type.shape.dim]
    options: dict[str, Any] = {
        "layers": len(keys), "kv_heads": dims[1], "head_size": dims[3],
        "kv_dtype": ports(keys[:1])[0].dtype,
        "past": decoder_graph.PAST, "present": decoder_graph.PRESENT,
        "input_ids": "input_ids",
    }  # fmt: skip
    options |= {name: name for name in (POSITION_IDS,) if name in names}
    if LOGITS_START in names:
        return options | {name: name for name in (*LENGTHS, LOGITS_START)}
    return options | {"attention_mask": "attention_mask", "last_tokens": LAST_TOKENS}
