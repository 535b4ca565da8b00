"""The GGUF backend: writes model.gguf for llama.cpp, and reads a sealed one back."""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from edgecompile.backends import (
    Decoded,
    Export,
    Port,
    ReadWhenAsked,
    gguf_blocks,
    gguf_metadata,
    gguf_stock,
    gguf_tokens,
    schemes_of,
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
from edgecompile.errors import MissingLibraryError, UnsupportedError
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme
from edgecompile.passes import Progress
from edgecompile.sources.gguf_config import ROPE_FREQS
from edgecompile.sources.gguf_file import GgufFile, GgufTensor, read_gguf
from edgecompile.sources.gguf_rows import interleaved, restored

FILE = "model.gguf"
TENSOR_INFO_BYTES = 100  # name, shape, type, offset and alignment of one tensor
_FLOAT_TYPES = {"f32": gguf.GGMLQuantizationType.F32, "f16": gguf.GGMLQuantizationType.F16}
_FILE_TYPES = {
    gguf.GGMLQuantizationType.F32: gguf.LlamaFileType.ALL_F32,
    gguf.GGMLQuantizationType.F16: gguf.LlamaFileType.MOSTLY_F16,
    gguf_blocks.Q4_0: gguf.LlamaFileType.MOSTLY_Q4_0,
    gguf_blocks.Q8_0: gguf.LlamaFileType.MOSTLY_Q8_0,
}


@dataclass(frozen=True)
class Gguf:
    """Options: `float_type` of matrices that no pass quantized; vectors and norms stay float32."""

    name: ClassVar[str] = "gguf"
    tasks: ClassVar[tuple[str, ...]] = ("embedding", "text-generation")

    float_type: Literal["f32", "f16"] = "f32"

    def refusal(self, model: Model) -> str:
        """Why llama.cpp cannot run that model (from config, headers, tokenizer.json), or empty."""
        if model.task not in self.tasks:
            return f"task {model.task!r} is not one of {', '.join(self.tasks)}"
        layout = LAYOUTS.get(model.architecture)
        if layout is None:
            return f"architecture {model.architecture!r} is not one of {', '.join(LAYOUTS)}"
        if layout.encoder and model.task != "embedding":
            return f"{model.architecture} is an encoder: it can embed, not do {model.task}"
        why = gguf_metadata.config_refusal(model, layout) or _tensor_refusal(model, layout)
        if why or _not_converted(model):
            return why
        return gguf_tokens.refusal(model.folder)

    def size(self, model: Model, schemes: Mapping[str, Scheme]) -> int:
        """Blocks of 32 (18 or 34 bytes), floats, and the vocabulary in the metadata."""
        total = _vocabulary_bytes(model)
        for source, stored in _places(model, LAYOUTS[model.architecture]).items():
            shape = model.weights.infos[source].shape
            kind = self._float_kind(stored, shape)
            if source in schemes:
                kind = gguf_blocks.Q4_0 if schemes[source].bits == 4 else gguf_blocks.Q8_0
            block, size = gguf.GGML_QUANT_SIZES[kind]
            total += int(np.prod(shape)) // block * size + TENSOR_INFO_BYTES
        return total

    def export(self, model: Model, folder: Path, progress: Progress) -> Export:
        """Write `folder`/model.gguf; the same model gives the same bytes."""
        why = self.refusal(model)
        if why:
            raise UnsupportedError(f"gguf: {model.name}", why, "", "choose another target")
        layout = LAYOUTS[model.architecture]
        places = _places(model, layout)
        kinds = self._kinds(model, places)
        writer = gguf.GGUFWriter(folder / FILE, layout.name)
        try:
            _write_metadata(writer, model, kinds)
            self._write_tensors(writer, model, places, kinds, progress)
        finally:
            writer.close()
        return _export(model, layout, places, folder / FILE)

    def decode(self, folder: Path, manifest: Mapping[str, Any]) -> Decoded:
        """Codes, floats and facts of `folder`/model.gguf under the manifest's tensor names.

        A tensor that the manifest does not list keeps its GGUF name, so that comparing finds it.
        """
        file = read_gguf(folder / FILE)
        schemes = {row["name"]: row["scheme"] for row in manifest.get("tensors", ())}
        listed = [*schemes, *(row["name"] for row in manifest.get("floats", ()))]
        sources = _sources(file, listed)
        there = {sources.get(n, n): tensor for n, tensor in file.tensors.items() if n != ROPE_FREQS}
        coded = {name for name, tensor in there.items() if tensor.type in gguf_blocks.BITS}

        def quantized(name: str) -> QuantizedTensor:
            kind, raw = there[name].type, _source_order(file, there[name])
            codes, scales = gguf_blocks.decode(raw, kind)
            per_row = schemes.get(name, "").endswith("-channel")
            return gguf_blocks.as_scheme(codes, scales, gguf_blocks.BITS[kind], per_row)

        def dense(name: str) -> Float32:
            raw = np.ascontiguousarray(_source_order(file, there[name]))
            values = gguf.quants.dequantize(raw, there[name].type)
            return np.asarray(values.reshape(there[name].shape), np.float32)

        return Decoded(
            ReadWhenAsked((name for name in there if name in coded), quantized),
            ReadWhenAsked((name for name in there if name not in coded), dense),
            gguf_metadata.facts(file),
        )

    def _kinds(
        self, model: Model, places: Mapping[str, str]
    ) -> dict[str, gguf.GGMLQuantizationType]:
        """Each tensor's type in the file, from schemes and headers."""
        schemes, kinds = schemes_of(model), {}
        for source, stored in places.items():
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
        places: Mapping[str, str],
        kinds: Mapping[str, gguf.GGMLQuantizationType],
        progress: Progress,
    ) -> None:
        factors = gguf_metadata.rope_factors(model.config)
        if factors is not None:
            writer.add_tensor_info(ROPE_FREQS, factors.shape, factors.dtype, factors.nbytes)
        for source, stored in places.items():
            shape, kind = model.weights.infos[source].shape, kinds[source]
            block, size = gguf.GGML_QUANT_SIZES[kind]
            count = int(np.prod(shape)) // block * size
            writer.add_tensor_info(stored, shape, np.dtype(np.float32), count, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for step, (source, stored) in enumerate(places.items()):
            progress("write file", step, len(places))
            writer.write_tensor_data(_data(model, source, stored, kinds[source]))
        progress("write file", len(places), len(places))


def _data(
    model: Model, source: str, stored: str, kind: gguf.GGMLQuantizationType
) -> NDArray[Any]:
    """The tensor's bytes as the file has them, rows interleaved where llama.cpp wants that."""
    data: NDArray[Any]
    if source in model.quantized:
        data = gguf_blocks.encode(source, model.quantized[source])
    else:
        data = model.dense(source)
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
    layers = int(model.config["num_hidden_layers"])
    for source, stored in stored_names(layout, layers, model.weights).items():
        if not has_place(layout, stored) and not unused_reason(source, model.config):
            return f"llama.cpp's {layout.name} has no place for tensor {source!r}"
        if source in model.quantized and stays_float32(stored, model.weights.infos[source].shape):
            return f"llama.cpp wants {source!r} in float32, but it was quantized: skip it"
    return ""


def _places(model: Model, layout: Layout) -> dict[str, str]:
    """Source name -> GGUF name of the tensors that are written, in the source's order."""
    names = stored_names(layout, int(model.config["num_hidden_layers"]), model.weights)
    return {
        source: stored
        for source, stored in names.items()
        if stored and not unused_reason(source, model.config)
    }


def _write_metadata(
    writer: gguf.GGUFWriter, model: Model, kinds: Mapping[str, gguf.GGMLQuantizationType]
) -> None:
    most = Counter(kinds[source] for source in kinds if len(model.weights.infos[source].shape) > 1)
    writer.add_type("model")
    writer.add_name(model.name)
    writer.add_license(model.licence.id)
    writer.add_license_link(model.licence.use_policy)
    writer.add_file_type(int(_FILE_TYPES[most.most_common(1)[0][0]]))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    rows = _vocabulary_rows(model)
    tokenizer = gguf_tokens.tokenizer_metadata(model.folder, rows)
    for key, value in (gguf_metadata.hyperparameters(model) | tokenizer).items():
        _ADD[type(value)](writer, key, value)


_ADD: Mapping[type, Callable[[gguf.GGUFWriter, str, Any], None]] = {
    bool: gguf.GGUFWriter.add_bool,
    int: gguf.GGUFWriter.add_uint32,
    float: gguf.GGUFWriter.add_float32,
    str: gguf.GGUFWriter.add_string,
    list: gguf.GGUFWriter.add_array,
}


def _not_converted(model: Model) -> bool:
    """A GGUF source before `load`: its tokenizer is in its own header, which was read."""
    return any(info.file.suffix == ".gguf" for info in model.weights.infos.values())


def _vocabulary_bytes(model: Model) -> int:
    """Metadata: tokens with length, score and type, and merges, each with an 8-byte length."""
    if _not_converted(model):
        file = read_gguf(next(iter(model.weights.infos.values())).file)
        return min(tensor.offset for tensor in file.tensors.values())
    table = json.loads((model.folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sum(len(token.encode()) + 12 for token in table.get("vocab", ()))
    merges = (m if isinstance(m, str) else " ".join(m) for m in table.get("merges", ()))
    return tokens + sum(len(merge.encode()) + 8 for merge in merges) + 4096


def _vocabulary_rows(model: Model) -> int:
    places = _places(model, LAYOUTS[model.architecture])
    source = next(source for source, stored in places.items() if stored == "token_embd.weight")
    return model.weights.infos[source].shape[0]


def _export(model: Model, layout: Layout, places: Mapping[str, str], file: Path) -> Export:
    try:
        tested = version("llama-cpp-python")
    except PackageNotFoundError as error:
        found, way_out = "llama-cpp-python is not installed", "pip install 'edgecompile[gguf]'"
        raise MissingLibraryError("gguf", found, way_out=way_out) from error
    options: dict[str, Any] = {"n_ctx": gguf_metadata.context_length(model.config)}
    if model.pooling:
        options["pooling"] = model.pooling.mode
    wrong, compared = gguf_stock.differing(file, model.folder)
    options["stock_tokenizer"] = "differs" if wrong else "same"
    notes = gguf_tokens.notes(model.folder)
    if wrong:
        notes += (f"llama.cpp's own tokenizer differs on {wrong} of {compared} hard strings",)
    ids = Port("input_ids", "int64", ("batch", "length"))
    output = Port("embedding", "float32", ("batch", int(model.config["hidden_size"])))
    if model.task == "text-generation":
        output = Port("logits", "float32", ("batch", "length", _vocabulary_rows(model)))
    left = {s: unused_reason(s, model.config) for s in model.weights if s not in places}
    return Export(
        engine="llama_cpp",
        requires="llama-cpp-python>=0.3.36",
        tested=tested,
        file=FILE,
        inputs=(ids,),
        outputs=(output,),
        options=options,
        unused=left,
        notes=notes,
    )


def _sources(file: GgufFile, listed: list[str]) -> dict[str, str]:
    """GGUF name -> source name, by the map that `export` writes by."""
    layout = _layout(file)
    layers = min(file.need(f"{layout.name}.block_count", int), len(file.tensors))
    places = stored_names(layout, layers, listed)
    return {stored: source for source, stored in places.items() if stored}


def _layout(file: GgufFile) -> Layout:
    name = file.need("general.architecture", str)
    for layout in LAYOUTS.values():
        if layout.name == name:
            return layout
    raise UnsupportedError(str(file.path), f"architecture {name!r}", ", ".join(LAYOUTS))


def _source_order(file: GgufFile, tensor: GgufTensor) -> NDArray[np.uint8]:
    """The tensor's bytes with Llama's q and k rows in the source's order."""
    layout = _layout(file)
    config = {
        "num_attention_heads": file.need(f"{layout.name}.attention.head_count", int),
        "num_key_value_heads": file.get(f"{layout.name}.attention.head_count_kv", int),
    }
    raw = file.raw(tensor)
    heads = rotated_heads(layout, tensor.name, config)
    if not heads:
        return raw
    if len(tensor.shape) == 1:
        values = raw.reshape(tensor.shape[0], -1)
        return values[restored(len(values), heads)].reshape(1, -1)
    return raw[restored(len(raw), heads)]
