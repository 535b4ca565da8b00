"""llama.cpp's own types, by its own quantizer, with and without an importance matrix."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import engines
import numpy as np
import torch
from held_out import WINDOW, Window, windows
from rows import Made, Setup

from edgecompile.backends.gguf import Gguf
from edgecompile.backends.gguf_layout import LAYOUTS, stored_names
from edgecompile.backends.gguf_types import Wanted, quantize
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32
from edgecompile.reference import Reference

IMPORTANCE_WINDOWS = 128


@dataclass(frozen=True)
class LlamaCpp:
    """llama_model_quantize of the float32 file with one ftype, as llama-quantize calls it."""

    type: str
    importance: bool = False

    @property
    def name(self) -> str:
        """As llama.cpp's users write it."""
        return f"llama.cpp {self.type}{' + imatrix' if self.importance else ''}"

    def make(self, setup: Setup) -> Made:
        """Quantize; the note counts the types that llama.cpp chose."""
        target = setup.made(self) / "model.gguf"
        matrix = importance_matrix(setup) if self.importance else {}
        quantize(float_file(setup), target, Wanted(self.type, {}, matrix), setup.threads)
        return Made((str(target),), "llama.cpp", types_of(target))

    def answer(self, setup: Setup, made: Made, windows: Sequence[Window]) -> Iterator[Float32]:
        """In llama.cpp."""
        return engines.llama_cpp(Path(made.files[0]), windows, setup.threads)


def float_file(setup: Setup) -> Path:
    """The model in float32 as GGUF, written once by our backend."""
    folder = setup.work / "float32"
    if not (folder / "model.gguf").exists():
        partial = setup.work / "float32.partial"
        partial.mkdir(parents=True, exist_ok=True)
        Gguf("f32").export(setup.model, partial, lambda *_: None)
        partial.rename(folder)
    return folder / "model.gguf"


def types_of(file: Path) -> str:
    """How many matrices have which type, and the embedding's."""
    from gguf import GGUFReader

    counts: dict[str, int] = {}
    embedding = ""
    for tensor in GGUFReader(file).tensors:
        if tensor.name == "token_embd.weight":
            embedding = tensor.tensor_type.name
        elif len(tensor.shape) > 1:
            kind = tensor.tensor_type.name
            counts[kind] = counts.get(kind, 0) + 1
    matrices = ", ".join(f"{n} x {kind}" for kind, n in sorted(counts.items()))
    return f"{matrices}; embedding {embedding}"


def importance_matrix(setup: Setup) -> Mapping[str, Float32]:
    """GGUF tensor name -> mean of squared inputs by column, over the calibration text; kept."""
    file = setup.work / "importance.npz"
    if not file.exists():
        ids = windows(setup.model, setup.calibration, IMPORTANCE_WINDOWS * WINDOW)
        found = mean_squares(setup.model, ids)
        partial = setup.work / "importance.partial.npz"
        np.savez(partial, **dict(found))
        partial.rename(file)
    with np.load(file) as arrays:
        return dict(arrays)


def mean_squares(model: Model, ids: Sequence[Window]) -> dict[str, Float32]:
    """What llama-imatrix collects: for each matrix that multiplies inputs x, mean of x^2 [in].

    As there, the output head (here the tied embedding) is left out.
    """
    body = Reference(model, "sdpa").body
    layers = int(model.config["num_hidden_layers"])
    names = stored_names(LAYOUTS[model.architecture], layers, model.weights)
    sums: dict[str, torch.Tensor] = {}

    def watch(stored: str) -> Any:
        def add(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = inputs[0].double().square().sum((0, 1))
            sums[stored] = sums.get(stored, torch.zeros_like(squares)) + squares

        return add

    for source, stored in names.items():
        module_name = source.removesuffix(".weight")
        if stored.startswith("blk.") and model.weights.infos[source].shape[1:]:
            body.get_submodule(module_name).register_forward_pre_hook(watch(stored))
    tokens = 0
    for row in ids:
        with torch.inference_mode():
            body(input_ids=torch.from_numpy(row)[None], use_cache=False, logits_to_keep=1)
        tokens += len(row)
    return {stored: (total / tokens).float().numpy() for stored, total in sums.items()}
