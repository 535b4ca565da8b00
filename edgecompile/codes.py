"""Keep quantized tensors on disk between stages."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgecompile.numerics.schemes import QuantizedTensor, Scheme

CODES = "codes.safetensors"
SCHEMES = "schemes.json"


def save(folder: Path, quantized: Mapping[str, QuantizedTensor]) -> None:
    """codes.safetensors (`<name>.codes` int8, `<name>.scales` float32) and schemes.json."""
    from safetensors.numpy import save_file

    arrays: dict[str, NDArray[Any]] = {}
    for name, tensor in quantized.items():
        arrays[f"{name}.codes"] = tensor.codes
        arrays[f"{name}.scales"] = tensor.scales
    save_file(arrays, folder / CODES)
    schemes = {name: tensor.scheme.name for name, tensor in quantized.items()}
    (folder / SCHEMES).write_text(json.dumps(schemes, indent=1), encoding="utf-8")


def load(folder: Path, schemes_file: str = SCHEMES) -> dict[str, QuantizedTensor]:
    """What `save` kept, in the same order."""
    from safetensors import safe_open

    schemes = json.loads((folder / schemes_file).read_text(encoding="utf-8"))
    with safe_open(folder / CODES, framework="numpy") as arrays:
        return {
            name: QuantizedTensor(
                Scheme.parse(scheme), arrays.get_tensor(f"{name}.codes"),
                arrays.get_tensor(f"{name}.scales"),
            )
            for name, scheme in schemes.items()
        }
