"""onnxruntime-genai's builder and its own quantizers, run in plain onnxruntime."""
from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import engines
import onnx
from held_out import Window
from rows import Made, Setup

from edgecompile.numerics.schemes import Float32


@dataclass(frozen=True)
class Genai:
    """`python -m onnxruntime_genai.models.builder -p int4 -e cpu`, blocks of 32, symmetric."""

    algorithm: str  # default, rtn, k_quant, k_quant_mixed

    @property
    def name(self) -> str:
        """With the builder's name of the algorithm."""
        return f"onnxruntime-genai {self.algorithm}"

    def make(self, setup: Setup) -> Made:
        """Build; the note counts the widths that the builder chose."""
        out = setup.made(self)
        command = [
            sys.executable, "-m", "onnxruntime_genai.models.builder",
            "-i", str(setup.model.folder), "-o", str(out), "-p", "int4", "-e", "cpu",
            "-c", str(out / "cache"), "--extra_options", f"algo_config={self.algorithm}",
            "block_size=32", "hf_token=false",
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        files = tuple(str(file) for file in sorted(out.glob("model.onnx*")))
        return Made(files, "onnxruntime", widths_of(out / "model.onnx"))

    def answer(self, setup: Setup, made: Made, windows: Sequence[Window]) -> Iterator[Float32]:
        """In plain onnxruntime: genai's own loop computes the last logits only."""
        return engines.onnxruntime(Path(made.files[0]), windows, setup.threads)


def widths_of(graph: Path) -> str:
    """How many MatMulNBits have which bits and accuracy level; the head and the embedding apart."""
    counts: Counter[str] = Counter()
    ends = []
    for node in onnx.load(str(graph), load_external_data=False).graph.node:
        values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "MatMulNBits":
            text = f"{values['bits']} bits, accuracy_level {values.get('accuracy_level', 0)}"
            if "lm_head" in node.name:
                ends.append(f"head {values['bits']} bits")
            else:
                counts[text] += 1
        elif "Gather" in node.op_type and "embed" in node.name:
            ends.append(f"embedding {node.op_type} {values.get('bits', '')}".strip())
    parts = [f"{n} x {text}" for text, n in sorted(counts.items())]
    return "; ".join([*parts, *ends])
