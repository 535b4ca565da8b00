"""No engine: codes and floats as safetensors, for tests of the pipeline without one."""
from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from edgecompile import codes, facts
from edgecompile.backends import Decoded, Export, Extent, ReadWhenAsked
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32, Scheme
from edgecompile.passes import Progress
from edgecompile.tasks import EVERY

FLOATS = "floats.safetensors"
FACTS = "facts.txt"


@dataclass(frozen=True)
class Null:
    """Writes every model; nothing runs it, so its bundles are never proven."""

    name: ClassVar[str] = "null"
    tasks: ClassVar[tuple[str, ...]] = EVERY

    def refusal(self, model: Model) -> str:
        """Nothing is refused."""
        return ""

    def size(self, model: Model, schemes: Mapping[str, Scheme]) -> int:
        """Bytes: a code a byte, four a scale and a float."""
        total = 0
        for name, info in model.weights.infos.items():
            rows = math.prod(info.shape[:1])
            elements = math.prod(info.shape)
            groups = schemes[name].groups(info.matrix[1]) if name in schemes else 0
            total += elements + 4 * rows * groups if name in schemes else 4 * elements
        return total

    def export(self, model: Model, folder: Path, progress: Progress) -> Export:
        """Codes, floats.safetensors and the facts."""
        from safetensors.numpy import save_file

        progress("write file", 0, 1)
        file = codes.add_part(folder, 0, codes.Part(model.quantized))
        floats = {n: model.dense(n) for n in model.weights if n not in model.quantized}
        save_file(floats, folder / FLOATS)
        (folder / FACTS).write_text(json.dumps(facts.of_config(model.config)), encoding="utf-8")
        progress("write file", 1, 1)
        return Export("null", "edgecompile", "1", file.name, (), ())

    def decode(self, folder: Path, manifest: Mapping[str, Any]) -> Decoded:
        """What `export` wrote."""
        from safetensors import safe_open

        def dense(name: str) -> Float32:
            with safe_open(folder / FLOATS, framework="numpy") as arrays:
                return np.asarray(arrays.get_tensor(name), np.float32)

        with safe_open(folder / FLOATS, framework="numpy") as arrays:
            floats = ReadWhenAsked(arrays.keys(), dense)
        found = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        return Decoded(codes.load(folder)[0], floats, found)

    def extents(self, folder: Path) -> Iterator[Extent]:
        """By the files' headers: 8 bytes of length, JSON, then the data."""
        for file in sorted(folder.glob("*.safetensors")):
            data = np.memmap(file, np.uint8, "r")
            start = 8 + int.from_bytes(data[:8].tobytes(), "little")
            header = json.loads(data[8:start].tobytes())
            header.pop("__metadata__", None)
            for name, entry in header.items():
                first, end = (start + offset for offset in entry["data_offsets"])
                yield Extent(name, (file.name, first), data[first:end])
