"""Quantized tensors on disk between stages: files that are whole or absent, read when asked."""
from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgecompile import sources
from edgecompile.model import Model, Rounded
from edgecompile.numerics.ranges import Range
from edgecompile.numerics.schemes import (
    Float32,
    QuantizedTensor,
    Scheme,
    float_digest,
    weights_digest,
)
from edgecompile.passes import LayerReport

PART = "codes-{:05d}.safetensors"
PARTS = "codes-*.safetensors"
RANGES = "ranges-{:05d}.json"
IMPORTANCE = "importance-{:05d}.safetensors"
FLOAT = "float32"  # in place of a scheme's name: a float tensor that a pass replaced


class Codes(Mapping[str, QuantizedTensor]):
    """Quantized tensors by source name, in the order of their parts; each access reads the file."""

    def __init__(self, places: Mapping[str, tuple[Path, Scheme]]) -> None:
        self._places = dict(places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> QuantizedTensor:
        """Codes and scales, read now; the caller's to keep or drop."""
        from safetensors import safe_open

        file, scheme = self._places[name]
        with safe_open(file, framework="numpy") as arrays:
            codes, scales = (arrays.get_tensor(f"{name}.{what}") for what in ("codes", "scales"))
            factors = f"{name}.inputs"
            inputs = arrays.get_tensor(factors) if factors in arrays.keys() else None  # noqa: SIM118
        return QuantizedTensor(scheme, codes, scales, inputs)

    @property
    def folder(self) -> Path | None:
        """Where the files are; None without any."""
        return next((file.parent for file, _ in self._places.values()), None)

    def scheme(self, name: str) -> Scheme:
        """A tensor's scheme, from the file's header."""
        return self._places[name][1]


@dataclass(frozen=True)
class Part:
    """What a pass finished in one step: codes, float tensors that it replaced, its report."""

    quantized: Mapping[str, QuantizedTensor]
    replaced: Mapping[str, Float32] = field(default_factory=dict)
    layers: Sequence[LayerReport] = ()


def add_part(folder: Path, number: int, part: Part) -> Path:
    """Write one part: `<name>.codes` int8, `.scales` and `.inputs` float32, `<name>` float32.

    The file gets its name when it is whole and on the disk, so that a killed pass can go on.
    """
    arrays: dict[str, NDArray[Any]] = {}
    schemes = {name: tensor.scheme.name for name, tensor in part.quantized.items()}
    for name, tensor in part.quantized.items():
        arrays |= {f"{name}.codes": tensor.codes, f"{name}.scales": tensor.scales}
        if tensor.inputs is not None:
            arrays[f"{name}.inputs"] = tensor.inputs
    for name, values in part.replaced.items():
        arrays[name], schemes[name] = np.ascontiguousarray(values, np.float32), FLOAT
    final = folder / PART.format(number)
    unfinished = final.with_suffix(".unfinished")
    layers = [asdict(layer) for layer in part.layers]
    _save(arrays, unfinished, {"schemes": json.dumps(schemes), "layers": json.dumps(layers)})
    with unfinished.open("rb") as stream:
        os.fsync(stream.fileno())
    return unfinished.rename(final)


def _save(
    arrays: dict[str, NDArray[Any]], file: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file; a full disk is an OSError, as it is for any other file."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(arrays, file, metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise OSError(int(number[1]) if number else 0, str(error), str(file)) from error


def parts(folder: Path) -> list[int]:
    """Numbers of the parts that are there, in order."""
    return sorted(int(file.stem.rpartition("-")[2]) for file in folder.glob(PARTS))


def layers(folder: Path) -> dict[str, LayerReport]:
    """The reports of all parts, by tensor."""
    from safetensors import safe_open

    found: dict[str, LayerReport] = {}
    for file in sorted(folder.glob(PARTS)):
        with safe_open(file, framework="numpy") as arrays:
            rows = json.loads(arrays.metadata()["layers"])
        found |= {row["name"]: LayerReport(**row) for row in rows}
    return found


def load(folder: Path) -> tuple[Codes, dict[str, Float32]]:
    """What `add_part` wrote: codes, read when asked, and replaced float tensors, read now."""
    from safetensors import safe_open

    places: dict[str, tuple[Path, Scheme]] = {}
    replaced: dict[str, Float32] = {}
    for file in sorted(folder.glob(PARTS)):
        with safe_open(file, framework="numpy") as arrays:
            for name, scheme in json.loads(arrays.metadata()["schemes"]).items():
                if scheme == FLOAT:
                    replaced[name] = arrays.get_tensor(name)
                else:
                    places[name] = file, Scheme.parse(scheme)
    return Codes(places), replaced


def digest(
    quantized: Mapping[str, QuantizedTensor], replaced: Mapping[str, Float32]
) -> str:
    """SHA-256 over codes, scales and replaced floats."""
    return weights_digest(itertools.chain(
        ((name, tensor.digest(name)) for name, tensor in quantized.items()),
        ((name, float_digest(name, values, FLOAT)) for name, values in replaced.items()),
    ))  # fmt: skip


def rounded(model: Model) -> Rounded:
    """A model's codes, before they are taught; a later `check` finds them by their digest."""
    found = digest(model.quantized, model.replaced)
    if isinstance(model.quantized, Codes) and model.quantized.folder is not None:
        sources.remember(found, model.quantized.folder)
    return Rounded(found, model.quantized, model.replaced)


def add_ranges(folder: Path, number: int, ranges: Mapping[str, Range]) -> None:
    """Write the ranges of a part's inputs, by weight; before the part, which makes them count."""
    text = json.dumps({name: asdict(one) for name, one in ranges.items()})
    (folder / RANGES.format(number)).write_text(text, encoding="utf-8")


def ranges(folder: Path) -> dict[str, Range]:
    """Calibrated ranges by weight, of the parts that are there."""
    found: dict[str, Range] = {}
    for number in parts(folder):
        file = folder / RANGES.format(number)
        table = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        found |= {name: Range(**row) for name, row in table.items()}
    return found


def add_importance(folder: Path, number: int, found: Mapping[str, Float32]) -> None:
    """Write mean squares float32 [in] of a part's inputs, by weight; before the part."""
    _save(dict(found), folder / IMPORTANCE.format(number))


def importance(folder: Path) -> dict[str, Float32]:
    """Mean squares of inputs by weight, of the parts that are there."""
    from safetensors.numpy import load_file

    found: dict[str, Float32] = {}
    for number in parts(folder):
        file = folder / IMPORTANCE.format(number)
        found |= load_file(file) if file.is_file() else {}
    return found
