"""Backends: each writes a model's codes and floats into one engine's file, and reads them back."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgecompile.codes import Codes
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32, QuantizedTensor, Scheme
from edgecompile.passes import Progress

Value = TypeVar("Value")


@dataclass(frozen=True)
class Port:
    """One input or output of the engine's file; a shape entry is a size or a name (`batch`)."""

    name: str
    dtype: str  # numpy spelling: int64, float32
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Export:
    """What a backend wrote: the manifest's `engine` section, and what it could not place.

    `own` are tensors in types of the engine's own, off our grid, by source name: the type as
    `dtype`, and `sha256`, numerics.schemes.float_digest of the values that the file stands for.
    """

    engine: str  # onnxruntime, llama_cpp, null
    requires: str  # pip requirement with the versions that open the file
    tested: str  # version of the engine in this environment
    file: str  # path below the export folder that the runtime opens
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    options: Mapping[str, Any] = field(default_factory=dict)  # what the runtime needs to know
    unused: Mapping[str, str] = field(default_factory=dict)  # source tensor -> why it is left out
    float_dtypes: Mapping[str, str] = field(default_factory=dict)  # source tensor -> not float32
    shifted: Mapping[str, float] = field(default_factory=dict)  # source tensor -> what is added
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # source tensor -> type
    notes: tuple[str, ...] = ()
    graphs: Mapping[str, str] = field(default_factory=dict)  # name -> path, of several files


@dataclass(frozen=True)
class Decoded:
    """What a sealed file holds, by source tensor name and in the source's layout.

    Both mappings read a tensor from the file at each access: hold one at a time.
    `floats` keep the file's values as float32; `facts` are hyperparameters found in the file under
    the config's names (rms_norm_eps, rope_theta, num_attention_heads, ...).
    """

    quantized: Mapping[str, QuantizedTensor]
    floats: Mapping[str, Float32]
    facts: Mapping[str, float]


@dataclass(frozen=True)
class Extent:
    """The bytes of one tensor in an engine's file; tensors of one `place` share them.

    `data` uint8 [bytes] is mapped from the file where it can be: nothing is read before it is used.
    """

    name: str
    place: tuple[str, int]  # file, offset in it
    data: NDArray[np.uint8]


class Backend(Protocol):
    """A frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]

    def refusal(self, model: Model) -> str:
        """Why this backend cannot write that model, from config and headers; empty if it can."""
        ...

    def size(self, model: Model, schemes: Mapping[str, Scheme]) -> int:
        """Bytes that `export` will write, from headers and schemes alone."""
        ...

    def export(self, model: Model, folder: Path, progress: Progress) -> Export:
        """Write the engine's files into the empty `folder`, the same bytes from the same model."""
        ...

    def decode(self, folder: Path, manifest: Mapping[str, Any]) -> Decoded:
        """Read codes, scales, floats and facts back from the files in `folder`."""
        ...

    def extents(self, folder: Path) -> Iterator[Extent]:
        """Every tensor's bytes in the files in `folder`, whatever it is for."""
        ...


def schemes_of(model: Model) -> dict[str, Scheme]:
    """Scheme by tensor, from headers alone where the codes are on disk."""
    quantized = model.quantized
    if isinstance(quantized, Codes):
        return {name: quantized.scheme(name) for name in quantized}
    return {name: quantized[name].scheme for name in quantized}


class ReadWhenAsked(Mapping[str, Value]):
    """Tensors by name that are read anew from a sealed file at each access."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Value]) -> None:
        self._names, self._read = dict.fromkeys(names), read

    def __getitem__(self, name: str) -> Value:
        """The tensor, read now; the caller's to keep or drop."""
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
