"""OpenVINO: decoders by our own writer, the rest converted from torch; codes stay compressed."""
from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

import openvino as ov

from edgecompile.backends import Decoded, Export, Extent, Port, decoders, halves, schemes_of
from edgecompile.backends.openvino_graph import decoder_graph, float_encoder, rewrite, storage
from edgecompile.backends.openvino_graph.compressed import Constants
from edgecompile.backends.openvino_graph.decode import decode, extents
from edgecompile.errors import UnsupportedError
from edgecompile.graphs import PORT_AXES, part_of, unread
from edgecompile.model import Model
from edgecompile.numerics.ranges import Range
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import Progress
from edgecompile.sources.heads import activation_option
from edgecompile.structure import roles
from edgecompile.tasks import EVERY, generates, has_several_graphs

GROUPS = (32, 64, 128)  # columns of an input that may share a scale
GRAPH_BYTES_PER_TENSOR = 2600  # nodes, edges and names in the XML, per tensor of the source


@dataclass(frozen=True)
class Openvino:
    """How the engine computes.

    `activations`: `dynamic` (int8, `group` columns of an input share a scale found as it runs),
    `exact` (floats), `static` (uint8 in a calibrated range an input; encoders), `auto`: static
    where a pass calibrated ranges, else dynamic. `group` 0: 32, or the largest that fits where
    whole rows share a scale (a fifth faster, worst cosine of MiniLM 0.9983 instead of 0.9990);
    decoders 32. `precision`: of everything else; the processor must have it. `kv_cache`: of a
    decoder's keys and values.
    """

    name: ClassVar[str] = "openvino"
    tasks: ClassVar[tuple[str, ...]] = EVERY
    activations: Literal["auto", "dynamic", "exact", "static"] = "auto"
    group: Literal[0, 32, 64, 128] = 0
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    kv_cache: Literal["u8", "f16", "f32"] = "f16"

    def refusal(self, model: Model) -> str:
        """Unknown tasks and decoders; what torch cannot export is found as it is exported."""
        if model.task not in self.tasks:
            return f"task {model.task!r} is not one of {', '.join(self.tasks)}"
        if has_several_graphs(model.task):
            return halves.refusal(model)
        return decoders.refusal(model) if model.task == "text-generation" else ""

    def size(self, model: Model, schemes: Mapping[str, Scheme]) -> int:
        """Codes, float16 scales, floats and the graph."""
        total, used = 0, roles(model)
        for name, info in model.weights.infos.items():
            if used[name] == "unused":
                continue
            elements = math.prod(info.shape)
            if name in schemes:
                scheme = schemes[name]
                scales = info.shape[0] * scheme.groups(info.matrix[1])
                total += elements * scheme.bits // 8 + scales * 2
            else:
                total += elements * 4
            total += GRAPH_BYTES_PER_TENSOR
        return total

    def export(self, model: Model, folder: Path, progress: Progress) -> Export:
        """Write openvino_model.xml and openvino_model.bin."""
        if reason := self.refusal(model):
            raise UnsupportedError("openvino backend", reason)
        version = metadata.version("openvino")
        activations = self._activations(model)
        ranges = model.activations if activations == "static" else {}
        done = _write(model, folder, ranges, progress)
        options: dict[str, Any] = {"precision": self.precision, **done.options}
        if activations != "exact":
            options["dynamic_group"] = self._group(model)
        if activations == "static":
            names = sorted(done.rounded)
            found = {name: [ranges[name].scale, ranges[name].zero] for name in names}
            options |= {"activations": "static", "ranges": found}
        if model.task == "text-generation":
            options |= {"kv_cache": self.kv_cache, **decoders.context_option(model)}
        options |= activation_option(model.task, model.config)
        return Export(
            engine="openvino", requires=f"openvino>={'.'.join(version.split('.')[:2])}",
            tested=version, file=halves.main_file(done.graphs or {"": storage.GRAPH}),
            inputs=done.inputs, outputs=done.outputs,
            options=options, unused=done.unused, shifted=done.shifted, graphs=done.graphs,
        )  # fmt: skip

    def decode(self, folder: Path, manifest: Mapping[str, Any]) -> Decoded:
        """Codes, floats and facts from the sealed graph."""
        return decode(folder, manifest)

    def extents(self, folder: Path) -> Iterator[Extent]:
        """Constants."""
        return extents(folder)

    def _group(self, model: Model) -> int:
        """Columns that share a scale: the engine takes more than a weight's group for none."""
        used, schemes = roles(model), schemes_of(model)
        products = {name: one for name, one in schemes.items() if used[name] == "linear"}
        limits = [one.group_size or model.weights.infos[name].shape[1]
                  for name, one in products.items()]  # fmt: skip
        fitting = [size for size in GROUPS if all(limit % size == 0 for limit in limits)]
        if not self.group:
            return 32 if generates(model.task) else max(fitting, default=32)
        if self.group not in fitting:
            raise UnsupportedError(
                "[options] group", f"{self.group} with weights in groups of {min(limits)}",
                "a divisor of every weight's group", f"group={max(fitting, default=32)}",
            )  # fmt: skip
        return self.group

    def _activations(self, model: Model) -> str:
        """What `activations` means for this model."""
        if self.activations == "auto":
            static = bool(model.activations) and not generates(model.task)
            return "static" if static else "dynamic"
        if self.activations == "static" and generates(model.task):
            raise UnsupportedError(
                "openvino backend", "static activations of a decoder", "an encoder's or a module's",
                "activations=dynamic",
            )  # fmt: skip
        if self.activations == "static" and not model.activations:
            raise UnsupportedError(
                "openvino backend", "static activations, but no pass calibrated a range",
                "a range of each product's input", "quantize.method=smooth, or activations=dynamic",
            )  # fmt: skip
        return self.activations


@dataclass(frozen=True)
class _Written:
    """What the manifest says of the file: ports, options, tensors left out and why."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    options: Mapping[str, Any]
    unused: Mapping[str, str]
    rounded: frozenset[str] = frozenset()  # weights whose input has a range in the file
    shifted: Mapping[str, float] = field(default_factory=dict)
    graphs: Mapping[str, str] = field(default_factory=dict)  # name -> file, of several


def _write(
    model: Model, folder: Path, ranges: Mapping[str, Range], progress: Progress
) -> _Written:
    if model.task == "text-generation":
        return _write_decoder(model, folder, progress)
    if has_several_graphs(model.task):
        return _write_several(model, folder, progress)
    progress("export graph", 0, 3)
    graph = float_encoder.export(model)
    storage.number(graph, everything=True)
    progress("encode codes", 1, 3)
    done = rewrite.rewrite(graph, model, ranges)
    progress("write file", 2, 3)
    storage.write(graph, folder)
    progress("write file", 3, 3)
    options = {"shared": dict(sorted(done.shared.items()))} if done.shared else {}
    unused = dict.fromkeys(done.absent, "not part of the exported graph")
    return _Written(ports(graph.inputs), ports(graph.outputs), options, unused, done.rounded)


def _write_several(model: Model, folder: Path, progress: Progress) -> _Written:
    """Graphs, each with its part of the tensors, on one openvino_model.bin."""
    progress("export graph", 0, 2)
    graphs = float_encoder.exports(model)
    shared: dict[str, str] = {}
    absent: list[str] = []
    for name, graph in graphs.items():
        storage.number(graph, everything=True)
        done = rewrite.rewrite(graph, part_of(model, name), {})
        shared |= done.shared
        absent += done.absent
    progress("write file", 1, 2)
    files = storage.write_graphs(graphs, folder)
    progress("write file", 2, 2)
    inputs, outputs = (
        tuple(port for one in graphs.values() for port in _named(getattr(one, side), model.task))
        for side in ("inputs", "outputs")
    )
    return _Written(
        inputs, outputs, {"shared": dict(sorted(shared.items()))} if shared else {},
        dict.fromkeys(absent, "not part of the exported graph") | unread(model), graphs=files,
    )  # fmt: skip


def _write_decoder(model: Model, folder: Path, progress: Progress) -> _Written:
    plan = decoders.plan(model)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".graph-") as scratch:
        constants = Constants(Path(scratch))
        graph = decoder_graph.draw(model, plan, constants, progress)
        storage.write(graph, folder)
        return _Written(
            ports(graph.inputs), ports(graph.outputs), {}, plan.unused, shifted=plan.shifted
        )


def _named(values: Sequence[ov.Output], task: str) -> Iterator[Port]:
    """With the names that the graphs' axes have elsewhere."""
    for port in ports(values):
        free = PORT_AXES[task][port.name]
        yield replace(port, shape=tuple(free.get(at, n) for at, n in enumerate(port.shape)))


def ports(values: Sequence[ov.Output]) -> tuple[Port, ...]:
    """Inputs or outputs as the manifest lists them, sizes that vary under a name."""
    found = []
    for value in values:
        name, kind = value.get_any_name(), value.get_element_type().to_dtype().name
        lengths = {"attention_mask": "total_length"} if len(values) > 3 else {}
        free = ("batch", lengths.get(name, "length"), *(f"axis_{at}" for at in range(2, 9)))
        sizes = zip(value.get_partial_shape(), free, strict=False)
        shape = (size.get_length() if size.is_static else label for size, label in sizes)
        found.append(Port(name, kind, tuple(shape)))
    return tuple(found)
