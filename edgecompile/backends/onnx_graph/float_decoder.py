"""Float graph of a decoder with a KV cache, by onnxruntime-genai's builder in its own process.

The builder knows many architectures and writes GroupQueryAttention; here it only draws the graph
in float32. Its process keeps its memory, prints and global state away from ours.
"""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx

from edgecompile.cache import environment
from edgecompile.errors import MissingLibraryError, UnsupportedError
from edgecompile.model import Model

OPTIONS = ("disable_qkv_fusion=true", "hf_token=false")


def export(model: Model, folder: Path) -> onnx.ModelProto:
    """Write the builder's float32 graph and its data below `folder`; returns the graph alone."""
    if model.replaced:
        raise UnsupportedError(
            "onnxruntime backend",
            f"{next(iter(model.replaced))} took a scale, but onnxruntime-genai's builder reads "
            f"{model.architecture}'s floats from the source",
            way_out="--set quantize.method=gptq",
        )
    source = folder / "source"
    source.mkdir()
    _write_source(model, source)
    command = [
        sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(source),
        "-o", str(folder), "-p", "fp32", "-e", "cpu", "-c", str(folder / "cache"),
        "--extra_options", *OPTIONS,
    ]  # fmt: skip
    run = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if run.returncode or not (folder / "model.onnx").is_file():
        raise _failure(model, run.stderr)
    return onnx.load(str(folder / "model.onnx"), load_external_data=False)


def _write_source(model: Model, folder: Path) -> None:
    """A view of the model's folder: links to the weights, and a config that names its class."""
    files = {info.file for info in model.weights.infos.values()}
    files |= set(model.folder.glob("*.json"))
    for file in files:
        (folder / file.name).symlink_to(file.resolve())
    config: dict[str, Any] = dict(model.config)
    if not config.get("architectures"):
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        config["architectures"] = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model.architecture]]
    (folder / "config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _failure(model: Model, errors: str) -> Exception:
    lines = [line for line in errors.strip().splitlines() if line.strip()] or ["no message"]
    if "No module named 'onnxruntime_genai'" in errors:
        return MissingLibraryError(
            "onnxruntime backend", "onnxruntime-genai is not installed",
            way_out="pip install 'edgecompile[compile]'",
        )  # fmt: skip
    return UnsupportedError(
        "onnxruntime backend",
        f"onnxruntime-genai's builder cannot write {model.architecture}: {lines[-1][:300]}",
        way_out="`--target gguf` may support this architecture",
    )
