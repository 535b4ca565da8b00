"""A GGUF file as a Hugging Face folder: dequantized weights, config, the file's own tokenizer."""
from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from edgecompile.architectures import common, norm_offsets, turned
from edgecompile.errors import BadInputError, ResourceError, UnsupportedError
from edgecompile.passes import Progress
from edgecompile.sources import card, gguf_card, gguf_config, gguf_tensors, gguf_tokenizer
from edgecompile.sources.gguf_file import AGAIN, GgufFile, GgufTensor, read_gguf
from edgecompile.sources.gguf_rows import restored

CHUNK_BYTES = 64 << 20  # of float32 at a time
# GGUF types that keep their bytes -> safetensors dtype, bytes a value, numpy dtype
_KEPT = {"F32": ("F32", 4, "<f4"), "F16": ("F16", 2, "<f2"), "BF16": ("BF16", 2, "<u2")}


@dataclass(frozen=True)
class Description:
    """What `convert` would write, from the header alone."""

    config: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], str]]  # source name -> shape, safetensors dtype
    licence: str  # "unknown" when the file is silent
    notes: tuple[str, ...]


def describe(path: Path) -> Description:
    """Config, tensors, licence and notes of a GGUF file; reads no weight."""
    file = read_gguf(path)
    config = gguf_config.config(file)
    tensors = {
        name: (file.tensors[stored].shape, _dtype(path, file.tensors[stored])[0])
        for name, stored in gguf_tensors.tensor_names(file, config).items()
    }
    gguf_tokenizer.check_kind(file)
    return Description(config, tensors, _licence(file), _notes(file))


def parts(path: Path) -> tuple[Path, ...]:
    """The model's files, the first one first."""
    return (path, *read_gguf(path).others)


def convert(path: Path, folder: Path, progress: Progress) -> tuple[str, ...]:
    """Write the model as safetensors, config, tokenizer and card into the empty `folder`.

    Memory stays at one chunk of one tensor, or one matrix that checkpoints have turned. The same
    file gives the same bytes. Returns notes.
    """
    file = read_gguf(path)
    config = gguf_config.config(file)
    names = gguf_tensors.tensor_names(file, config)
    documents = {
        "config.json": config,
        "generation_config.json": gguf_tokenizer.generation_config(file),
        "tokenizer.json": gguf_tokenizer.tokenizer_json(file),
        "tokenizer_config.json": gguf_tokenizer.tokenizer_config(
            file, common(config)["max_position_embeddings"]
        ),
    }
    for name, document in documents.items():
        text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
        (folder / name).write_text(text, encoding="utf-8")
    (folder / card.CARD).write_text(gguf_card.text(file), encoding="utf-8")
    _write_weights(file, names, config, folder / "model.safetensors", progress)
    return _notes(file)


def _write_weights(
    file: GgufFile,
    names: Mapping[str, str],
    config: Mapping[str, Any],
    target: Path,
    progress: Progress,
) -> None:
    header, total = _header(file, names, config)
    free = shutil.disk_usage(target.parent).free
    if total > free:
        found = f"{free >> 20} MiB free where the weights take {total >> 20} MiB"
        raise ResourceError(str(target.parent), found, "", "free some space, or set another folder")
    with target.open("wb") as out:
        out.write(header)
        for step, (name, stored) in enumerate(names.items()):
            progress(f"dequantize {stored}", step, len(names))
            heads = _permuted_heads(file, name, config)
            offset = norm_offsets(config["model_type"], [name]).get(name)
            chunks = _chunks(file, file.tensors[stored], heads)
            if turned(config["model_type"], name):
                chunks = iter([np.ascontiguousarray(np.concatenate(list(chunks)).T)])
            for chunk in chunks:
                _check_finite(file, file.tensors[stored], chunk)
                values = chunk if offset is None else _less(chunk, offset, file.tensors[stored])
                out.write(values.tobytes())
    progress("dequantize", len(names), len(names))


def _header(
    file: GgufFile, names: Mapping[str, str], config: Mapping[str, Any]
) -> tuple[bytes, int]:
    """The safetensors header (8 bytes of length, then JSON) and the size of the whole file."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, stored in names.items():
        tensor = file.tensors[stored]
        dtype, size = _dtype(file.path, tensor)
        start, end = end, end + tensor.rows * tensor.shape[-1] * size
        shape = tensor.shape[::-1] if turned(config["model_type"], name) else tensor.shape
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + end


def _dtype(path: Path, tensor: GgufTensor) -> tuple[str, int]:
    """Dtype in safetensors and bytes a value: floats keep theirs, quantized types become F32."""
    kind = tensor.type
    if kind.name in _KEPT:
        return _KEPT[kind.name][:2]
    if kind not in gguf.quants._type_traits:
        found = f"tensor {tensor.name!r} has type {kind.name}, which gguf cannot dequantize"
        way_out = "convert the model to F16, BF16 or Q8_0"
        raise UnsupportedError(str(path), found, "a float or quantized type", way_out)
    return "F32", 4


def _chunks(file: GgufFile, tensor: GgufTensor, heads: int) -> Iterator[NDArray[Any]]:
    """The values in the source's row order; whole rows, so that blocks stay whole."""
    raw = file.raw(tensor)
    order = restored(tensor.shape[0], heads) if heads else None
    if len(tensor.shape) == 1:
        values = _floats(raw, tensor.type).reshape(-1)
        yield values if order is None else values[order]
        return
    step = max(1, CHUNK_BYTES // (4 * tensor.shape[-1]))
    for start in range(0, tensor.rows, step):
        stop = start + step
        yield _floats(raw[start:stop] if order is None else raw[order[start:stop]], tensor.type)


def _less(values: NDArray[Any], offset: float, tensor: GgufTensor) -> NDArray[Any]:
    """A norm as checkpoints have it; llama.cpp's converter adds the offset in float32."""
    if tensor.type is not gguf.GGMLQuantizationType.F32:
        raise UnsupportedError(tensor.name, f"a norm of type {tensor.type.name}", "F32")
    less: NDArray[Any] = values - np.float32(offset)
    return less


def _floats(raw: NDArray[np.uint8], kind: gguf.GGMLQuantizationType) -> NDArray[Any]:
    """Bytes uint8 [rows, row_bytes] as values; BF16 stays in its 16 bits."""
    if kind.name in _KEPT:
        return np.ascontiguousarray(raw).view(_KEPT[kind.name][2])
    with np.errstate(all="ignore"):  # a damaged scale shows up as a value that is not finite
        values: NDArray[Any] = gguf.quants.dequantize(np.ascontiguousarray(raw), kind)
    return values.astype("<f4", copy=False)


def _check_finite(file: GgufFile, tensor: GgufTensor, values: NDArray[Any]) -> None:
    if tensor.type.name == "BF16":
        exponent, all_ones = values & np.uint16(0x7F80), 0x7F80
        finite = bool((exponent != all_ones).all())
    else:
        finite = bool(np.isfinite(values).all())
    if not finite:
        found = f"tensor {tensor.name!r} of type {tensor.type.name} has a value that is not finite"
        raise BadInputError(str(file.path), found, "numbers", AGAIN)


def _permuted_heads(file: GgufFile, name: str, config: Mapping[str, Any]) -> int:
    if not gguf_config.family(file).permuted:
        return 0
    if ".q_proj." in name:
        return int(config["num_attention_heads"])
    return int(config["num_key_value_heads"]) if ".k_proj." in name else 0


def _notes(file: GgufFile) -> tuple[str, ...]:
    kinds = Counter(tensor.type.name for tensor in file.tensors.values())
    quantized = {kind: n for kind, n in sorted(kinds.items()) if kind not in _KEPT}
    notes = []
    if quantized:
        counts = ", ".join(f"{n} of type {kind}" for kind, n in quantized.items())
        notes.append(f"the weights were quantized before ({counts}); that error is in the source")
    is_bpe = file.need("tokenizer.ggml.model", str) == "gpt2"
    if is_bpe and file.get("tokenizer.ggml.pre", str, "default") == "default":
        notes.append("the file names no pre-tokenizer: llama.cpp's default rule is used")
    return tuple(notes)


def _licence(file: GgufFile) -> str:
    """The licence's own name where the metadata gives one beside `other`."""
    name: str = file.get("general.license.name", str, "") or file.get("general.license", str, "")
    return name or "unknown"
