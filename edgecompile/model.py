"""A model on its way through the stages: safetensors, and what the passes made of them."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecompile.architectures import common
from edgecompile.errors import BadInputError
from edgecompile.numerics.ranges import Range
from edgecompile.numerics.schemes import Float32, QuantizedTensor
from edgecompile.runtime.audio import AudioInput
from edgecompile.runtime.pictures import PictureInput

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TensorInfo:
    """What a safetensors header says of one tensor; `dtype` in its spelling (F32, BF16, ...)."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    stored: str = ""  # its name in the file, where it goes by another
    turned: bool = False  # [in, out] in the file; `shape` and what is read are [out, in]

    @property
    def matrix(self) -> tuple[int, int]:
        """[out, in]: a convolution's [out, in / groups, ...] with its kernels as columns."""
        return self.shape[0], math.prod(self.shape[1:])


class Weights(Mapping[str, "torch.Tensor"]):
    """Tensors by source name, read from memory-mapped safetensors when asked for."""

    def __init__(self, infos: Mapping[str, TensorInfo]) -> None:
        self.infos = dict(infos)
        self._open: dict[Path, Any] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, name: str) -> torch.Tensor:
        """The tensor in its own dtype: a view of the file, or a copy where that has it turned."""
        from safetensors import safe_open

        info = self.infos[name]
        if info.file not in self._open:
            self._open[info.file] = safe_open(str(info.file), framework="pt")
        tensor: torch.Tensor = self._open[info.file].get_tensor(info.stored or name)
        return tensor.t().contiguous() if info.turned else tensor

    def release(self) -> None:
        """Unmap the files, as soon as no tensor read from them is in use."""
        self._open.clear()

    def float32(self, name: str) -> Float32:
        """The tensor as float32 numpy; exact from float16 and bfloat16."""
        array: Float32 = self[name].float().numpy().astype(np.float32, copy=False)
        return array

    def matrix(self, name: str) -> Float32:
        """The same as [out, in], which codes are chosen for."""
        return self.float32(name).reshape(self.infos[name].matrix)


@dataclass(frozen=True)
class Pooling:
    """How a sentence-transformers model makes one vector of its token vectors."""

    mode: str  # mean, cls, max, mean_sqrt_len, lasttoken
    normalize: bool
    max_length: int  # tokens, special ones included


@dataclass(frozen=True)
class Licence:
    """What the model card says; `files` are copied into every bundle."""

    id: str  # SPDX-like, "unknown" when the card is silent
    files: tuple[Path, ...] = ()
    use_policy: str = ""


@dataclass(frozen=True)
class Source:
    """Where a model came from; `digest` is SHA-256 over its weights, config and tokenizer files."""

    kind: str  # huggingface, gguf, torch
    reference: str  # as the user named it
    digest: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reshaped:
    """What a stage whose passes write another checkpoint made of a model, by its digest.

    `model` is None where it is not here any more, and for the last stage, whose model holds this.
    """

    stage: str  # a name in recipe.RESHAPING
    digest: str  # empty where an older manifest does not say it
    model: Model | None = None


@dataclass(frozen=True)
class Rounded:
    """Codes as [quantize] chose them, where [distill_codes] taught them after; with their digest.

    `quantized` is None where they are not here any more.
    """

    digest: str  # empty where an older manifest does not say it
    quantized: Mapping[str, QuantizedTensor] | None = None
    replaced: Mapping[str, Float32] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """A model between two stages.

    `weights` are the tensors as `load` left them; `quantized` holds the codes that replace some of
    them, by source tensor name (two names that share one tensor appear once, under the first), and
    may read each from disk when asked; `replaced` holds float tensors that a pass changed.
    """

    name: str
    task: str  # a name in tasks.TASKS
    folder: Path  # config.json and tokenizer files, Hugging Face layout
    config: Mapping[str, Any]
    weights: Weights
    source: Source
    licence: Licence
    pooling: Pooling | None = None
    pictures: PictureInput | None = None  # how a picture is prepared
    audio: AudioInput | None = None  # how sound is prepared
    quantized: Mapping[str, QuantizedTensor] = field(default_factory=dict)
    replaced: Mapping[str, Float32] = field(default_factory=dict)  # norms that took a scale, ...
    activations: Mapping[str, Range] = field(default_factory=dict)  # of inputs, by weight
    importance: Mapping[str, Float32] = field(default_factory=dict)  # [in], mean squares of inputs
    bits: Mapping[str, int] = field(default_factory=dict)  # chosen by allocate_bits, a tensor
    origin: Model | None = None  # what came in, where passes wrote another checkpoint
    reshaped: tuple[Reshaped, ...] = ()  # the stages between that and this model, in order
    rounded: Rounded | None = None  # the codes before they were taught
    entry_point: str = ""  # package.module:function of a torch module, else empty

    @property
    def architecture(self) -> str:
        """The config's model_type (bert, llama, ...); `torch` for a module."""
        return str(self.config.get("model_type", "torch"))

    @property
    def common_config(self) -> Mapping[str, Any]:
        """The config with the names that most decoders have for their sizes."""
        return common(self.config)

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of a prepared picture."""
        if self.pictures is None:
            raise BadInputError(self.name, "a model of pictures without their preparation")
        return 3, self.pictures.height, self.pictures.width

    @property
    def text_config(self) -> Mapping[str, Any]:
        """What the config says of texts: a part of it where another is of pictures."""
        found: Mapping[str, Any] = self.config.get("text_config") or self.config
        return found

    @property
    def parameters(self) -> int:
        """Number of parameters, a tied tensor counted once."""
        return sum(int(np.prod(info.shape)) for info in self.weights.infos.values())

    def dense(self, name: str) -> Float32:
        """The tensor as engines will see it: codes dequantized where there are any, or float32."""
        if name in self.quantized:
            return self.quantized[name].dequantize().reshape(self.weights.infos[name].shape)
        return self.replaced[name] if name in self.replaced else self.weights.float32(name)
