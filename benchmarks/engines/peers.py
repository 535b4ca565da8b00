"""Peers' rows: each tool's files as its documentation makes them, in an environment of its own."""
from __future__ import annotations

import json
import shutil
import sys
from dataclasses import asdict, dataclass

from environments import python_of
from rows import Made, Setup, Took, script, timed

# torch comes first and alone, and again with the rest: a plain requirement brings another build.
# optimum-intel asks for a torchvision that it does not use here, built for CUDA: torch breaks.
NEEDS = {
    "openvino": (
        "torch==2.13.0",
        "torch==2.13.0 openvino==2026.4.1 openvino-genai==2026.4.1.0 transformers==5.5.4 "
        "openvino-tokenizers==2026.4.1.0 nncf==3.4.0 optimum==2.3.0 huggingface-hub==1.21.0 "
        "datasets==5.0.1 requests",
        "--no-deps optimum-intel==2.2.0",
    ),
    "litert": (
        "torch==2.13.0",
        "torch==2.13.0 litert-torch==0.10.0 ai-edge-litert==2.3.0 transformers==5.23",
    ),
}


@dataclass(frozen=True)
class Peer:
    """What all of them share: the cells of the table."""

    task: str
    precision: str
    tool: str = ""
    target: str = "cpu"
    engine: str = ""

    @property
    def name(self) -> str:
        """As the table's cells."""
        return f"{self.tool} {self.engine} {self.precision}"

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Tool, target, engine, precision."""
        return self.tool, self.target, self.engine, self.precision

    @property
    def adapter(self) -> str:
        """Named as the engine."""
        return self.engine

    @property
    def library(self) -> str:
        """Named as the engine."""
        return self.engine


@dataclass(frozen=True)
class Genai(Peer):
    """onnxruntime-genai's builder for CPU, blocks of 32; two rows open the same files."""

    tool: str = "onnxruntime-genai builder"
    engine: str = "onnxruntime-genai"
    algorithm: str = "k_quant"  # its --extra_options algo_config

    def make(self, setup: Setup) -> Made:
        """`python -m onnxruntime_genai.models.builder -e cpu`, once for both engines."""
        width = "int8" if self.precision == "int8" else "int4"
        out = setup.work / "shared" / f"genai-{width}-{self.algorithm}"
        kept = out / "took.json"
        if not kept.exists():
            out.mkdir(parents=True, exist_ok=True)
            command = [
                sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", setup.model,
                "-o", out, "-p", width, "-e", "cpu", "-c", out / "cache", "--extra_options",
                f"algo_config={self.algorithm}", "block_size=32", "hf_token=false",
            ]  # fmt: skip
            took = timed(command, out / "log.txt", setup.threads)
            kept.write_text(json.dumps(asdict(took)), "utf-8")
            shutil.rmtree(out / "cache", ignore_errors=True)
        files = tuple(map(str, sorted(out.glob("model.onnx*"))))
        took = Took(**json.loads(kept.read_text("utf-8")))
        return Made(str(out), files, took, self.algorithm)


@dataclass(frozen=True)
class LlamaCpp(Peer):
    """llama.cpp's own quantizer with one ftype, as llama-quantize calls it."""

    tool: str = "llama.cpp quantize"
    target: str = "gguf"
    engine: str = "llama.cpp"

    def make(self, setup: Setup) -> Made:
        """From a float32 file, whose seconds count: convert_hf_to_gguf's part, written by us."""
        out = setup.made(self)
        work = setup.work / "shared" / "gguf-f32"
        command = [*script("peer_llama.py"), setup.model, work, out, self.precision]
        command += ["--task", setup.task, "--threads", str(setup.threads)]
        took = timed(command, out / "log.txt", setup.threads)
        return Made(str(out / "model.gguf"), (str(out / "model.gguf"),), took)


@dataclass(frozen=True)
class ExecuTorch(Peer):
    """ExecuTorch's stock exporter for XNNPACK."""

    tool: str = "ExecuTorch stock export"
    target: str = "mobile"
    engine: str = "executorch"

    def make(self, setup: Setup) -> Made:
        """export_llm for decoders, PT2E and the partitioner for encoders."""
        out = setup.made(self)
        kind = "encoder" if self.task == "embedding" else "decoder"
        words = [kind, setup.model, out, self.precision.partition(" ")[0]]
        took = timed([*script("peer_executorch.py"), *words], out / "log.txt", setup.threads)
        shutil.copyfile(setup.model / "tokenizer.json", out / "tokenizer.json")
        return Made(str(out / "model.pte"), (str(out / "model.pte"),), took)


@dataclass(frozen=True)
class OpenVino(Peer):
    """optimum-intel's export with NNCF's defaults for the precision."""

    tool: str = "optimum-intel"
    engine: str = "openvino"

    def make(self, setup: Setup) -> Made:
        """`optimum-cli export openvino`, or its quantizer with calibration text for W8A8."""
        python = python_of(setup.venvs, "openvino", NEEDS["openvino"])
        out = setup.made(self)
        command = [*script("peer_openvino.py", python), setup.model, out, self.precision]
        command += ["--task", setup.task, "--calibration", setup.calibration]
        took = timed(command, out / "log.txt", setup.threads)
        file = out / "openvino_model.xml"
        files = (str(file), str(file.with_suffix(".bin")))
        opened = file if self.task == "embedding" else out
        return Made(str(opened), files, took, python=str(python))


@dataclass(frozen=True)
class LiteRt(Peer):
    """litert-torch's converter and ai-edge-quantizer's dynamic range recipe."""

    tool: str = "litert-torch"
    target: str = "mobile"
    engine: str = "litert"

    def make(self, setup: Setup) -> Made:
        """Convert at 64 tokens, quantize."""
        python = python_of(setup.venvs, "litert", NEEDS["litert"])
        out = setup.made(self)
        command = [*script("peer_litert.py", python), setup.model, out, self.precision]
        took = timed(command, out / "log.txt", setup.threads)
        file = str(out / "model.tflite")
        return Made(file, (file,), took, "64 tokens only", str(python))


@dataclass(frozen=True)
class OnnxRuntime(Peer):
    """torch.onnx.export, and onnxruntime.quantization.quantize_dynamic for int8."""

    tool: str = "onnxruntime quantize_dynamic"
    engine: str = "onnxruntime"

    def make(self, setup: Setup) -> Made:
        """An encoder with token vectors as its output."""
        out = setup.made(self)
        command = [*script("peer_onnx.py"), setup.model, out, self.precision]
        took = timed(command, out / "log.txt", setup.threads)
        file = str(out / "model.onnx")
        return Made(file, (file,), took)


@dataclass(frozen=True)
class Torch(Peer):
    """transformers in torch, eager."""

    precision: str = "float32"
    tool: str = "torch eager"
    engine: str = "torch"

    def make(self, setup: Setup) -> Made:
        """Nothing to make: the source's own file."""
        return Made(str(setup.model), (str(setup.model / "model.safetensors"),), Took())
