"""A torch module by package.module:function, which returns (module, example inputs)."""
from __future__ import annotations

import hashlib
from pathlib import Path

from edgecompile import cache
from edgecompile.model import Licence, Model, Source, Weights
from edgecompile.sources.safetensors_header import read_header


def load(entry_point: str) -> Model:
    """Call the function, keep the state as safetensors in the cache, and describe it."""
    from safetensors.torch import save_model

    from edgecompile.reference import build_entry_point

    module, examples = build_entry_point(entry_point)
    digest = hashlib.sha256(entry_point.encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    for name, array in examples.items():
        digest.update(f"{name}{array.shape}{array.dtype}".encode())

    def work(folder: Path) -> None:
        save_model(module, str(folder / "model.safetensors"))

    key = cache.key("module", modules=(__name__,), state=digest.hexdigest())
    folder, _ = cache.stage("module", key, work)
    return Model(
        entry_point.partition(":")[2], "module", folder, {},
        Weights(read_header(folder / "model.safetensors")),
        Source("torch", entry_point, digest.hexdigest()), Licence("unknown"),
        entry_point=entry_point,
    )  # fmt: skip


def describe(entry_point: str) -> Model:
    """The same as `load`: a module is known only by calling its function."""
    return load(entry_point)
