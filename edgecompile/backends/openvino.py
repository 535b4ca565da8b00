"""OpenVINO: decoders by our own writer, the rest converted from torch; codes stay compressed."""
from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from edgecompile.backends import Decoded, Export, Port, schemes_of
from edgecompile.backends.onnx_graph import decoder_plan
from edgecompile.errors import MissingLibraryError, UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.ranges import Range
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import Progress
from edgecompile.structure import roles

if TYPE_CHECKING:
    from types import ModuleType

    import openvino as ov

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
    tasks: ClassVar[tuple[str, ...]] = ("embedding", "classification", "text-generation", "module")
    activations: Literal["auto", "dynamic", "exact", "static"] = "auto"
    group: Literal[0, 32, 64, 128] = 0
    precision: Literal["float32", "float16", "bfloat16"] = "float32"
    kv_cache: Literal["u8", "f16", "f32"] = "f16"

    def refusal(self, model: Model) -> str:
        """Unknown tasks; the exporters refuse the rest by themselves."""
        if model.task not in self.tasks:
            return f"task {model.task!r} is not one of {', '.join(self.tasks)}"
        return ""

    def size(self, model: Model, schemes: Mapping[str, Scheme]) -> int:
        """Codes, float16 scales, floats and the graph."""
        total, used = 0, roles(model)
        for name, info in model.weights.infos.items():
            if used[name] == "unused":
                continue
            elements = math.prod(info.shape)
            if name in schemes:
                scheme = schemes[name]
                scales = info.shape[0] * scheme.groups(info.shape[1])
                total += elements * scheme.bits // 8 + scales * 2
            else:
                total += elements * 4
            total += GRAPH_BYTES_PER_TENSOR
        return total

    def export(self, model: Model, folder: Path, progress: Progress) -> Export:
        """Write openvino_model.xml and openvino_model.bin."""
        if reason := self.refusal(model):
            raise UnsupportedError("openvino backend", reason)
        version = _library().__version__.partition("-")[0]
        from edgecompile.backends.openvino_graph import storage

        activations = self._activations(model)
        ranges = model.activations if activations == "static" else {}
        done = _write(model, folder, ranges, progress)
        options: dict[str, Any] = {"precision": self.precision, **done.options}
        if activations != "exact":
            options["dynamic_group"] = self._group(model)
        if activations == "static":
            options |= {"activations": "static", "ranges": _manifest_ranges(ranges, model)}
        if model.task == "text-generation":
            options["kv_cache"] = self.kv_cache
        if model.config.get("problem_type") == "multi_label_classification":
            options["activation"] = "sigmoid"
        return Export(
            engine="openvino", requires=f"openvino>={'.'.join(version.split('.')[:2])}",
            tested=version, file=storage.GRAPH, inputs=ports(done.graph.inputs),
            outputs=ports(done.graph.outputs), options=options, unused=done.unused,
        )  # fmt: skip

    def decode(self, folder: Path, manifest: Mapping[str, Any]) -> Decoded:
        """Codes, floats and facts from the sealed graph."""
        from edgecompile.backends.openvino_graph.decode import decode

        return decode(folder, manifest)

    def _group(self, model: Model) -> int:
        """Columns that share a scale: the engine takes more than a weight's group for none."""
        used, schemes = roles(model), schemes_of(model)
        products = {name: one for name, one in schemes.items() if used[name] == "linear"}
        limits = [one.group_size or model.weights.infos[name].shape[1]
                  for name, one in products.items()]  # fmt: skip
        fitting = [size for size in GROUPS if all(limit % size == 0 for limit in limits)]
        if not self.group:
            return max(fitting, default=32) if model.task != "text-generation" else 32
        if self.group > min(limits, default=self.group):
            raise UnsupportedError(
                "[options] group", f"{self.group} with weights in groups of {min(limits)}",
                "no more than a weight's group", f"group={max(fitting, default=32)}",
            )  # fmt: skip
        return self.group

    def _activations(self, model: Model) -> str:
        """What `activations` means for this model."""
        if self.activations == "auto":
            static = bool(model.activations) and model.task != "text-generation"
            return "static" if static else "dynamic"
        if self.activations == "static" and model.task == "text-generation":
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
    """The graph in the file, options that the runtime needs, tensors left out and why."""

    graph: ov.Model
    options: Mapping[str, Any]
    unused: Mapping[str, str]


def _write(
    model: Model, folder: Path, ranges: Mapping[str, Range], progress: Progress
) -> _Written:
    from edgecompile.backends.openvino_graph import float_encoder, rewrite, storage

    if model.task == "text-generation":
        return _write_decoder(model, folder, progress)
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
    return _Written(graph, options, unused)


def _write_decoder(model: Model, folder: Path, progress: Progress) -> _Written:
    from edgecompile.backends.openvino_graph import decoder_graph, storage
    from edgecompile.backends.openvino_graph.compressed import Constants

    if reason := decoder_plan.refusal(model):
        raise UnsupportedError(
            "openvino backend", reason, ", ".join(decoder_plan.ARCHITECTURES),
            "try another backend (`edgecompile targets`)",
        )  # fmt: skip
    plan = decoder_plan.plan(model)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".graph-") as scratch:
        constants = Constants(Path(scratch))
        graph = decoder_graph.draw(model, plan, constants, progress)
        storage.write(graph, folder)
    return _Written(graph, {}, plan.unused)


def _manifest_ranges(ranges: Mapping[str, Range], model: Model) -> dict[str, list[float]]:
    names = sorted(name for name in ranges if name in model.quantized)
    return {name: [ranges[name].scale, ranges[name].zero] for name in names}


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


def _library() -> ModuleType:
    try:
        import openvino
    except ImportError as error:
        way_out = "pip install 'openvino>=2026.4'"
        raise MissingLibraryError("openvino", str(error), way_out=way_out) from error
    library: ModuleType = openvino
    return library
