"""llama.cpp's own types: chosen and rounded by its quantizer, with an importance matrix if any.

What it chose is not on our grid; the manifest lists these tensors with their type, and a digest of
the values that the file dequantizes to.
"""
from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np

from edgecompile.backends import gguf_read
from edgecompile.config import nearest
from edgecompile.errors import EdgecompileError, MissingLibraryError, UsageError
from edgecompile.numerics.schemes import Float32, float_digest
from edgecompile.sources.gguf_file import read_gguf

Kind = gguf.GGMLQuantizationType
THREADS = 4  # of the quantizer: rows are rounded one by one, so the bytes do not depend on it
# File type -> the type of most of its matrices. Below 3 bits llama.cpp insists on an importance
# matrix for some tensors and not for others; those file types are left out.
FILE_TYPES: Mapping[str, Kind] = {
    "Q4_0": Kind.Q4_0, "Q4_1": Kind.Q4_1, "Q5_0": Kind.Q5_0, "Q5_1": Kind.Q5_1,
    "Q8_0": Kind.Q8_0, "Q2_K": Kind.Q2_K, "Q3_K_S": Kind.Q3_K, "Q3_K_M": Kind.Q3_K,
    "Q3_K_L": Kind.Q3_K, "Q4_K_S": Kind.Q4_K, "Q4_K_M": Kind.Q4_K, "Q5_K_S": Kind.Q5_K,
    "Q5_K_M": Kind.Q5_K, "Q6_K": Kind.Q6_K, "IQ3_S": Kind.IQ3_S, "IQ3_M": Kind.IQ3_S,
    "IQ4_NL": Kind.IQ4_NL, "IQ4_XS": Kind.IQ4_XS,
}  # fmt: skip
TENSOR_TYPES = {kind.name: kind for kind in FILE_TYPES.values()}
FLOATS = (Kind.F32, Kind.F16)
# What llama.cpp takes where rows do not divide into blocks of 256 (llama-quant.cpp)
_FALLBACK = {
    Kind.Q2_K: Kind.IQ4_NL, Kind.Q3_K: Kind.IQ4_NL, Kind.IQ3_S: Kind.IQ4_NL,
    Kind.IQ4_XS: Kind.IQ4_NL, Kind.Q4_K: Kind.Q5_0, Kind.Q5_K: Kind.Q5_1, Kind.Q6_K: Kind.Q8_0,
}  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What llama.cpp is asked for; overrides and importance by GGUF tensor name."""

    file_type: str
    overrides: Mapping[str, Kind]
    importance: Mapping[str, Float32]  # mean square of each column's input [in]


def refuse_unknown(types: str, overrides: Mapping[str, str]) -> None:
    """UsageError where a name is no type of llama.cpp, with the nearest one."""
    if types and types not in FILE_TYPES:
        raise UsageError("gguf: types", f"{types!r} is no file type", nearest(types, FILE_TYPES))
    for pattern, kind in overrides.items():
        if kind not in TENSOR_TYPES:
            where = f"gguf: type_overrides {pattern!r}"
            raise UsageError(where, f"{kind!r} is no type", nearest(kind, TENSOR_TYPES))
    if overrides and not types:
        way_out = 'add types = "Q4_K_M", or quantize.overrides for bits on our grid'
        raise UsageError("gguf: type_overrides", "given without types", way_out=way_out)


def matched(overrides: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Kind]:
    """Source tensor -> type, the last pattern that matches counting; `shapes` are of matrices."""
    found: dict[str, Kind] = {}
    for pattern, kind in overrides.items():
        hits = [name for name in shapes if fnmatchcase(name, pattern)]
        if not hits:
            found_text = f"{pattern!r} matches no matrix"
            raise UsageError("gguf: type_overrides", found_text, nearest(pattern, shapes))
        found |= dict.fromkeys(hits, TENSOR_TYPES[kind])
    return found


def block_refusal(chosen: Mapping[str, Kind], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The first override whose rows do not divide into its blocks, in words; or empty."""
    for name, kind in chosen.items():
        block, columns = gguf.GGML_QUANT_SIZES[kind][0], shapes[name][-1]
        if columns % block:
            return f"{name!r} has rows of {columns}, which {kind.name}'s blocks of {block} split"
    return ""


def likely(file_type: str, stored: str, columns: int) -> Kind:
    """The type that llama.cpp will take for most tensors of that kind; a guess for `size`."""
    kind = FILE_TYPES[file_type]
    if stored in ("token_embd.weight", "output.weight") and kind not in (Kind.Q8_0, Kind.Q4_0):
        kind = Kind.Q6_K
    if columns % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = _FALLBACK.get(kind, kind)
    return Kind.F16 if columns % gguf.GGML_QUANT_SIZES[kind][0] else kind


def quantize(float_file: Path, file: Path, wanted: Wanted, threads: int = THREADS) -> None:
    """Write `file` from a GGUF of floats by llama_model_quantize; the same bytes every time."""
    library = _library()
    parameters = library.llama_model_quantize_default_params()
    parameters.ftype = int(gguf.LlamaFileType[f"MOSTLY_{wanted.file_type}"])
    parameters.nthread = threads
    matrix, overrides = _matrix(library, wanted.importance), _overrides(library, wanted.overrides)
    if wanted.importance:
        parameters.imatrix = matrix
    if wanted.overrides:
        parameters.tt_overrides = overrides
    for name, field in (("token_embd", "token_embedding_type"), ("output", "output_tensor_type")):
        if f"{name}.weight" in wanted.overrides:
            setattr(parameters, field, int(wanted.overrides[f"{name}.weight"]))
    names = str(float_file).encode(), str(file).encode()
    code = library.llama_model_quantize(*names, ctypes.byref(parameters))
    if code:
        found = f"llama_model_quantize gave {code} for {wanted.file_type}"
        raise EdgecompileError("llama.cpp", found, "0", "look at its log: build with -v")
    _refuse_others(file, wanted.overrides)


def _refuse_others(file: Path, overrides: Mapping[str, Kind]) -> None:
    """llama.cpp may quietly take another type; an override that it did not follow is an error."""
    tensors = read_gguf(file).tensors
    for name, kind in overrides.items():
        if tensors[name].type is not kind:
            raise EdgecompileError("llama.cpp", f"{name} as {tensors[name].type.name}", kind.name)


def written(file: Path, sources: Iterable[str]) -> dict[str, dict[str, str]]:
    """Source tensor -> `dtype` (llama.cpp's type) and `sha256` of its values, but for floats."""
    opened = read_gguf(file)
    names = gguf_read.sources(opened, sources)
    found = {}
    for stored, tensor in opened.tensors.items():
        if stored in names and tensor.type not in FLOATS:
            name, dtype = names[stored], tensor.type.name
            digest = float_digest(name, gguf_read.values(opened, tensor), dtype)
            found[name] = {"dtype": dtype, "sha256": digest}
    return found


def _matrix(library: ModuleType, importance: Mapping[str, Float32]) -> Any:
    """An array of llama_model_imatrix_data that ends with an empty one."""
    array = (library.llama_model_imatrix_data * (len(importance) + 1))()
    kept = []
    for entry, (name, values) in zip(array, importance.items(), strict=False):
        data = np.ascontiguousarray(values, np.float32)
        entry.name, entry.size = name.encode(), data.size
        entry.data = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        kept.append(data)
    array._kept = kept  # ctypes keeps no reference to numpy's memory
    return array


def _overrides(library: ModuleType, overrides: Mapping[str, Kind]) -> Any:
    """An array of llama_model_tensor_override, patterns that match one name each, ends empty."""
    array = (library.llama_model_tensor_override * (len(overrides) + 1))()
    for entry, (name, kind) in zip(array, overrides.items(), strict=False):
        entry.pattern, entry.type = f"^{re.escape(name)}$".encode(), int(kind)
    return array


def _library() -> ModuleType:
    """llama_cpp, silent."""
    try:
        import llama_cpp
    except ImportError as error:
        way_out = "pip install 'edgecompile[gguf]'"
        raise MissingLibraryError("gguf", str(error), way_out=way_out) from error
    from edgecompile.runtime.llama_engine import silence

    llama_cpp.llama_log_set(silence(llama_cpp), ctypes.c_void_p())
    llama_cpp.llama_backend_init()
    library: ModuleType = llama_cpp
    return library
