"""Peers that want an environment of their own: NNCF in OpenVINO, and llm-compressor's GPTQ."""
from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import engines
import numpy as np
from environments import python_of
from held_out import WINDOW, Window, windows
from rows import Made, Setup

from edgecompile.backends.gguf import Gguf
from edgecompile.numerics.rtn import quantize
from edgecompile.numerics.schemes import (
    Float32,
    QuantizedTensor,
    Scheme,
    representable_scale,
)

CALIBRATION_WINDOWS = 128
HERE = Path(__file__).parent
NEEDS = {
    "nncf": ("torch==2.13.0", "openvino==2026.4.1 nncf==3.4 transformers==5.23 safetensors"),
    "gptq": ("torch==2.13.0", "llmcompressor==0.14.0.1"),
}


@dataclass(frozen=True)
class Nncf:
    """nncf.compress_weights, INT4_SYM, groups of 32, ratio 1, the rest as NNCF's defaults."""

    calibrated: bool = False

    @property
    def name(self) -> str:
        """As NNCF's options are called."""
        return f"NNCF int4{' + AWQ + scale estimation' if self.calibrated else ''}"

    def make(self, setup: Setup) -> Made:
        """Convert and compress in NNCF's environment."""
        out = setup.made(self)
        words = ["--calibration", str(calibration(setup))] if self.calibrated else []
        python = environment(setup, "nncf")
        run(python, "peer_nncf.py", "compress", str(setup.model.folder), str(out), *words)
        files = (str(out / "model.xml"), str(out / "model.bin"))
        return Made(files, "OpenVINO", (out / "note.txt").read_text("utf-8"))

    def answer(self, setup: Setup, made: Made, windows: Sequence[Window]) -> Iterator[Float32]:
        """In OpenVINO's CPU plug-in with its default hints."""
        ids = setup.made(self) / "windows.npy"
        np.save(ids, np.stack(windows))
        command = [
            str(environment(setup, "nncf")), str(HERE / "peer_nncf.py"), "answer",
            made.files[0], str(ids), str(setup.threads),
        ]  # fmt: skip
        vocabulary = int(setup.model.config["vocab_size"])
        return engines.child(command, windows, vocabulary)


@dataclass(frozen=True)
class LlmCompressor:
    """llm-compressor's GPTQModifier, W4A16, symmetric, groups of 32, put into Q4_0 by us.

    Its codes and bfloat16 scales are exact in Q4_0; the embedding is on our grid at 8 bits.
    """

    name: str = "llm-compressor GPTQ in Q4_0"

    def make(self, setup: Setup) -> Made:
        """Quantize in its environment, read its codes, write them with our backend."""
        out = setup.made(self)
        python = environment(setup, "gptq")
        run(
            python, "peer_llmcompressor.py", str(setup.model.folder), str(out / "packed"),
            str(calibration(setup)),
        )  # fmt: skip
        codes, changed = packed_codes(out / "packed")
        embedding = "model.embed_tokens.weight"
        weight = setup.model.weights.float32(embedding)
        codes[embedding] = quantize(weight, Scheme(8, 0), True)
        Gguf().export(replace(setup.model, quantized=codes), out, lambda *_: None)
        note = f"{len(codes) - 1} x int4-g32, {changed} scales rounded; embedding 8 bits by ours"
        return Made((str(out / "model.gguf"),), "llama.cpp", note)

    def answer(self, setup: Setup, made: Made, windows: Sequence[Window]) -> Iterator[Float32]:
        """In llama.cpp."""
        return engines.llama_cpp(Path(made.files[0]), windows, setup.threads)


def packed_codes(folder: Path) -> tuple[dict[str, QuantizedTensor], int]:
    """Codes and scales of a compressed-tensors checkpoint (pack-quantized, symmetric, 4 bits).

    `weight_packed` int32 [out, in/8] holds code + 8, lowest nibble first. Also how many scales
    had to be rounded to 8 significant bits.
    """
    from safetensors import safe_open

    found, changed = {}, 0
    with safe_open(folder / "model.safetensors", framework="pt") as arrays:
        names = [name for name in arrays.keys() if name.endswith(".weight_packed")]  # noqa: SIM118
        for name in names:
            stem = name.removesuffix("_packed")
            words = arrays.get_tensor(name).numpy().view(np.uint32)
            nibbles = words[:, :, None] >> (4 * np.arange(8, dtype=np.uint32)) & 15
            codes = nibbles.reshape(len(words), -1).astype(np.int8) - np.int8(8)
            scales = arrays.get_tensor(f"{stem}_scale").float().numpy()
            on_grid = representable_scale(scales)
            changed += int((on_grid != scales).sum())
            found[stem] = QuantizedTensor(Scheme(4, 32), codes, on_grid)
    return found, changed


def calibration(setup: Setup) -> Path:
    """int64 [CALIBRATION_WINDOWS, WINDOW] of the calibration text, the importance matrix's own."""
    file = setup.work / "calibration.npy"
    if not file.exists():
        tokens = CALIBRATION_WINDOWS * WINDOW
        np.save(file, np.stack(windows(setup.model, setup.calibration, tokens)))
    return file


def environment(setup: Setup, name: str) -> Path:
    """The python of a peer's own environment."""
    return python_of(setup.work.parent / "venvs", name, NEEDS[name])


def run(python: Path, script: str, *words: str) -> None:
    """A script beside this file in a peer's environment."""
    subprocess.run([str(python), str(HERE / script), *words], check=True, stdout=sys.stderr)
