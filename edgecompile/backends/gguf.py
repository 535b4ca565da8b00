"""The GGUF backend: writes model.gguf for llama.cpp, and reads a sealed one back."""
from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from edgecompile.architectures import norm_offsets, unknown
from edgecompile.backends import (
    Decoded,
    Export,
    Extent,
    Port,
    ReadWhenAsked,
    decoders,
    gguf_blocks,
    gguf_metadata,
    gguf_read,
    gguf_stock,
    gguf_tokens,
    gguf_types,
    schemes_of,
)
from edgecompile.backends.gguf_header import (
    not_converted,
    places,
    vocabulary_bytes,
    vocabulary_rows,
    write_metadata,
)
from edgecompile.backends.gguf_layout import (
    LAYOUTS,
    Layout,
    has_place,
    rotated_heads,
    stays_float32,
    stored_names,
    unused_reason,
)
from edgecompile.backends.gguf_parts import MB, first_file, split
from edgecompile.errors import MissingLibraryError, UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme
from edgecompile.passes import Progress
from edgecompile.sources.gguf_config import ROPE_FREQS
from edgecompile.sources.gguf_file import read_gguf
from edgecompile.sources.gguf_rows import interleaved
from edgecompile.structure import filled_in

FILE = "model.gguf"
TENSOR_INFO_BYTES = 100  # name, shape, type, offset and alignment of one tensor
_FLOAT_TYPES = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16}


@dataclass(frozen=True)
class Gguf:
    """Options: `float_type` of matrices that no pass quantized; vectors and norms stay float32.

    `types` lets llama.cpp's own quantizer choose and round (Q4_K_M; empty: codes of our grid), with
    the importance matrix of quantize_importance where it ran; `type_overrides` are types by pattern
    of source tensor. `kv_cache_bits` 8 keeps attention's keys and values in Q8_0. `split_mb`: MB of
    tensors in a file at most, as gguf-split counts them; 0: one file.
    """

    name: ClassVar[str] = "gguf"
    tasks: ClassVar[tuple[str, ...]] = ("embedding", "text-generation")

    float_type: Literal["f32", "f16"] = "f32"
    types: str = ""
    type_overrides: Mapping[str, str] = field(default_factory=dict)
    kv_cache_bits: Literal[8, 16] = 16
    split_mb: int = 0

    @property
    def cache_value_bytes(self) -> float:
        """Bytes a key or value takes: float16, or blocks of 32 int8 with a float16 scale."""
        return 2.0 if self.kv_cache_bits == 16 else 34 / 32

    def __post_init__(self) -> None:
        """Refuse names that are no types of llama.cpp, and a size below 0."""
        gguf_types.refuse_unknown(self.types, self.type_overrides)
        if self.split_mb < 0:
            raise UsageError("[options] split_mb", str(self.split_mb), "MB, or 0 for one file")

    def refusal(self, model: Model) -> str:
        """Why llama.cpp cannot run that model (from config, headers, tokenizer.json), or empty."""
        if model.task not in self.tasks:
            return f"task {model.task!r} is not one of {', '.join(self.tasks)}"
        layout = LAYOUTS.get(model.architecture)
        if layout is None:
            return unknown(model.architecture, LAYOUTS)
        if layout.encoder and model.task != "embedding":
            return f"{model.architecture} is an encoder: it can embed, not do {model.task}"
        why = gguf_metadata.config_refusal(model, layout) or _tensor_refusal(model, layout)
        why = why or self._engine_refusal(model, layout)
        if why or not_converted(model):
            return why
        return gguf_tokens.refusal(model.folder)

    def size(self, model: Model, schemes: Mapping[str, Scheme]) -> int:
        """Blocks of 32 (18 or 34 bytes) or llama.cpp's own, floats, and the vocabulary."""
        self._refuse_codes(len(schemes))
        chosen = self._chosen(model, LAYOUTS[model.architecture])
        total = vocabulary_bytes(model)
        for source, stored in places(model, LAYOUTS[model.architecture]).items():
            shape = model.weights.infos[source].shape
            kind = self._float_kind(stored, shape)
            if source in schemes:
                kind = gguf_blocks.Q4_0 if schemes[source].bits == 4 else gguf_blocks.Q8_0
            elif self.types and not stays_float32(stored, shape):
                likely = gguf_types.likely(self.types, stored, shape[-1])
                kind = chosen.get(source, likely)
            block, size = gguf.GGML_QUANT_SIZES[kind]
            total += int(np.prod(shape)) // block * size + TENSOR_INFO_BYTES
        return total

    def export(self, model: Model, folder: Path, progress: Progress) -> Export:
        """Write model.gguf, or its parts, into `folder`; the same model gives the same bytes."""
        why = self.refusal(model)
        if why:
            raise UnsupportedError(f"gguf: {model.name}", why, "", "choose another target")
        layout = LAYOUTS[model.architecture]
        if not self.types:
            there = self._write(model, folder, progress)
            return _export(self, model, layout, there, first_file(folder, FILE))
        self._refuse_codes(len(model.quantized))
        there = places(model, layout)
        chosen = {there[name]: kind for name, kind in self._chosen(model, layout).items()}
        importance = {there[n]: v for n, v in model.importance.items() if n in there}
        wanted = gguf_types.Wanted(self.types, chosen, importance)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            floats = dataclasses.replace(self, types="", type_overrides={}, split_mb=0)
            floats._write(model, Path(scratch), progress)
            progress("quantize with llama.cpp", 0, 1)
            whole = Path(scratch) / "quantized.gguf" if self.split_mb else folder / FILE
            gguf_types.quantize(Path(scratch) / FILE, whole, wanted)
            if self.split_mb:
                split(whole, folder, FILE, self.split_mb)
            progress("quantize with llama.cpp", 1, 1)
        file = first_file(folder, FILE)
        export = _export(self, model, layout, there, file)
        return dataclasses.replace(export, own=gguf_types.written(file, there))

    def _write(self, model: Model, folder: Path, progress: Progress) -> dict[str, str]:
        """Write `folder`/model.gguf; the places of its tensors."""
        there = places(model, LAYOUTS[model.architecture])
        kinds = self._kinds(model, there)
        name, size = LAYOUTS[model.architecture].name, self.split_mb * MB
        writer = gguf.GGUFWriter(folder / FILE, name, split_max_size=size)
        try:
            write_metadata(writer, model, kinds)
            self._write_tensors(writer, model, there, kinds, progress)
        finally:
            writer.close()
        return there

    def decode(self, folder: Path, manifest: Mapping[str, Any]) -> Decoded:
        """Codes, floats and facts of `folder`/model.gguf under the manifest's tensor names.

        A tensor that the manifest does not list keeps its GGUF name, so that comparing finds it.
        """
        file = read_gguf(first_file(folder, FILE))
        schemes = {row["name"]: row["scheme"] for row in manifest.get("tensors", ())}
        listed = [*schemes, *(row["name"] for row in manifest.get("floats", ()))]
        sources = gguf_read.sources(file, listed)
        there = {sources.get(n, n): tensor for n, tensor in file.tensors.items() if n != ROPE_FREQS}
        ours = gguf_blocks.BITS if not self.types else ()
        coded = {name for name, tensor in there.items() if tensor.type in ours}

        def quantized(name: str) -> QuantizedTensor:
            kind, raw = there[name].type, gguf_read.source_order(file, there[name])
            codes, scales = gguf_blocks.decode(raw, kind)
            per_row = schemes.get(name, "").endswith("-channel")
            return gguf_blocks.as_scheme(codes, scales, gguf_blocks.BITS[kind], per_row)

        def dense(name: str) -> Float32:
            return gguf_read.values(file, there[name])

        return Decoded(
            ReadWhenAsked((name for name in there if name in coded), quantized),
            ReadWhenAsked((name for name in there if name not in coded), dense),
            gguf_metadata.facts(file),
        )

    def extents(self, folder: Path) -> Iterator[Extent]:
        """By the file's table of tensors."""
        file = read_gguf(first_file(folder, FILE))
        for name, tensor in file.tensors.items():
            yield Extent(name, (tensor.file.name, tensor.offset), file.raw(tensor).reshape(-1))

    def halves(self, model: Model, there: Mapping[str, str]) -> dict[str, str]:
        """Source tensor -> `float16`, of floats that the file holds in halves."""
        half = gguf.GGMLQuantizationType.F16
        kinds = self._kinds(model, there)
        return {source: "float16" for source, kind in kinds.items() if kind is half}

    def _engine_refusal(self, model: Model, layout: Layout) -> str:
        """Why llama.cpp cannot do what the options ask for; empty if it can."""
        if self.kv_cache_bits == 8:
            if layout.encoder:
                return f"kv_cache_bits = 8, but {model.architecture} keeps no keys and values"
            size = decoders.head_size(filled_in(model))
            if size % gguf_blocks.BLOCK:
                return f"heads of {size} do not divide into Q8_0's blocks of {gguf_blocks.BLOCK}"
        return gguf_types.block_refusal(self._chosen(model, layout), _matrices(model, layout))

    def _chosen(self, model: Model, layout: Layout) -> dict[str, gguf.GGMLQuantizationType]:
        """Source tensor -> the type that an override names."""
        return gguf_types.matched(self.type_overrides, _matrices(model, layout))

    def _refuse_codes(self, count: int) -> None:
        if self.types and count:
            found = f"types = {self.types!r}, and a pass that puts {count} tensors on our grid"
            way_out = "--set quantize.method=importance (or none), or leave out types"
            raise UnsupportedError("gguf", found, "one of the two", way_out)

    def _kinds(
        self, model: Model, there: Mapping[str, str]
    ) -> dict[str, gguf.GGMLQuantizationType]:
        """Each tensor's type in the file, from schemes and headers."""
        schemes, kinds = schemes_of(model), {}
        for source, stored in there.items():
            shape = model.weights.infos[source].shape
            if source in schemes:
                kinds[source] = gguf_blocks.block_type(source, schemes[source], shape[1])
            else:
                kinds[source] = self._float_kind(stored, shape)
        return kinds

    def _float_kind(self, stored: str, shape: tuple[int, ...]) -> gguf.GGMLQuantizationType:
        if stays_float32(stored, shape):
            return gguf.GGMLQuantizationType.F32
        return _FLOAT_TYPES[self.float_type]

    def _write_tensors(
        self,
        writer: gguf.GGUFWriter,
        model: Model,
        there: Mapping[str, str],
        kinds: Mapping[str, gguf.GGMLQuantizationType],
        progress: Progress,
    ) -> None:
        factors = gguf_metadata.rope_factors(model)
        if factors is not None:
            writer.add_tensor_info(ROPE_FREQS, factors.shape, factors.dtype, factors.nbytes)
        for source, stored in there.items():
            shape, kind = model.weights.infos[source].shape, kinds[source]
            block, size = gguf.GGML_QUANT_SIZES[kind]
            count = int(np.prod(shape)) // block * size
            writer.add_tensor_info(stored, shape, np.dtype(np.float32), count, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for step, (source, stored) in enumerate(there.items()):
            progress("write file", step, len(there))
            writer.write_tensor_data(_data(model, source, stored, kinds[source]))
        progress("write file", len(there), len(there))


def _data(
    model: Model, source: str, stored: str, kind: gguf.GGMLQuantizationType
) -> NDArray[Any]:
    """The tensor's bytes as the file has them, rows interleaved where llama.cpp wants that."""
    data: NDArray[Any]
    if source in model.quantized:
        data = gguf_blocks.encode(source, model.quantized[source])
    else:
        added = norm_offsets(model.architecture, [source])
        data = model.dense(source) + np.float32(added.get(source, 0.0))
        if kind is gguf.GGMLQuantizationType.F16:
            data = _half(source, data)
    heads = rotated_heads(LAYOUTS[model.architecture], stored, model.config)
    return data[interleaved(len(data), heads)] if heads else np.ascontiguousarray(data)


def _half(source: str, values: Float32) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        found = f"a value of {float(np.abs(values).max())!r}"
        raise UnsupportedError(source, found, "at most 65504 in float16", 'float_type = "f32"')
    return halves


def _tensor_refusal(model: Model, layout: Layout) -> str:
    """The first tensor without a place, or quantized where llama.cpp wants floats; or empty."""
    layers = int(model.common_config["num_hidden_layers"])
    for source, stored in stored_names(layout, layers, model.weights).items():
        if not has_place(layout, stored) and not unused_reason(source, model.config):
            return f"llama.cpp's {layout.name} has no place for tensor {source!r}"
        if source in model.quantized and stays_float32(stored, model.weights.infos[source].shape):
            return f"llama.cpp wants {source!r} in float32, but it was quantized: skip it"
    return ""


def _matrices(model: Model, layout: Layout) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that llama.cpp may quantize, by source name."""
    infos = model.weights.infos
    return {
        source: infos[source].shape for source, stored in places(model, layout).items()
        if not stays_float32(stored, infos[source].shape)
    }  # fmt: skip


def _export(
    backend: Gguf, model: Model, layout: Layout, there: Mapping[str, str], file: Path
) -> Export:
    try:
        tested = version("llama-cpp-python")
    except PackageNotFoundError as error:
        found, way_out = "llama-cpp-python is not installed", "pip install 'edgecompile[gguf]'"
        raise MissingLibraryError("gguf", found, way_out=way_out) from error
    options: dict[str, Any] = {"n_ctx": gguf_metadata.context_length(model)}
    if backend.kv_cache_bits == 8:
        options["kv_cache_bits"] = 8
    if model.pooling:
        options["pooling"] = model.pooling.mode
    wrong, compared = gguf_stock.differing(file, model.folder)
    options["stock_tokenizer"] = "differs" if wrong else "same"
    notes = gguf_tokens.notes(model.folder)
    if wrong:
        notes += (f"llama.cpp's own tokenizer differs on {wrong} of {compared} hard strings",)
    ids = Port("input_ids", "int64", ("batch", "length"))
    output = Port("embedding", "float32", ("batch", int(model.common_config["hidden_size"])))
    if model.task == "text-generation":
        output = Port("logits", "float32", ("batch", "length", vocabulary_rows(model)))
    left = {s: unused_reason(s, model.config) for s in model.weights if s not in there}
    return Export(
        engine="llama_cpp",
        requires="llama-cpp-python>=0.3.36",
        tested=tested,
        file=file.name,
        inputs=(ids,),
        outputs=(output,),
        options=options,
        unused=left,
        float_dtypes=backend.halves(model, there),
        shifted=norm_offsets(model.architecture, there),
        notes=notes,
    )
