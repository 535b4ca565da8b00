"""Reading a GGUF file that this backend wrote: names and rows in the source's order."""
from __future__ import annotations

from collections.abc import Iterable

import gguf
import numpy as np
from numpy.typing import NDArray

from edgecompile.backends.gguf_layout import LAYOUTS, Layout, rotated_heads, stored_names
from edgecompile.errors import UnsupportedError
from edgecompile.numerics.schemes import Float32
from edgecompile.sources.gguf_file import GgufFile, GgufTensor
from edgecompile.sources.gguf_rows import restored


def sources(file: GgufFile, listed: Iterable[str]) -> dict[str, str]:
    """GGUF name -> source name, by the map that `export` writes by."""
    layout = layout_of(file)
    layers = min(file.need(f"{layout.name}.block_count", int), len(file.tensors))
    places = stored_names(layout, layers, listed)
    return {stored: source for source, stored in places.items() if stored}


def layout_of(file: GgufFile) -> Layout:
    """The layout that the file's own architecture names."""
    name = file.need("general.architecture", str)
    for layout in LAYOUTS.values():
        if layout.name == name:
            return layout
    raise UnsupportedError(str(file.path), f"architecture {name!r}", ", ".join(LAYOUTS))


def source_order(file: GgufFile, tensor: GgufTensor) -> NDArray[np.uint8]:
    """The tensor's bytes with Llama's q and k rows in the source's order."""
    layout = layout_of(file)
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


def values(file: GgufFile, tensor: GgufTensor) -> Float32:
    """The tensor dequantized by the gguf package, float32 in the source's shape and order."""
    raw = np.ascontiguousarray(source_order(file, tensor))
    found = gguf.quants.dequantize(raw, tensor.type)
    return np.asarray(found.reshape(tensor.shape), np.float32)
