"""The steps of one row: make smaller, answer all validation rows, build a bundle."""
from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRAIN, VALIDATION = "sections-train.jsonl", "sections-validation.jsonl"
Right = NDArray[np.bool_]  # [rows]: whether the likeliest class is the label


def read(file: Path) -> tuple[list[str], list[str]]:
    """Texts and labels of a JSONL file."""
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    return [row["text"] for row in rows], [row["label"] for row in rows]


def compress(model: Path, out: Path, data: Path, settings: Sequence[str]) -> tuple[str, ...]:
    """`edgecompile compress`: learns from all of TRAIN; the notes of its passes."""
    from edgecompile.compress import compress as run
    from edgecompile.plan import Request

    given = (f"data.calibration={(data / TRAIN).resolve()}", *settings)
    request = Request(
        str(model), (), settings=given, data=data / VALIDATION, task="classification",
        overwrite=True,
    )  # fmt: skip
    return run(request, out, quiet).notes


def build(model: Path, out: Path, data: Path) -> tuple[Path, str]:
    """`edgecompile build --target cpu` (int8); the bundle and the verdict of its check."""
    from edgecompile.build import build as run
    from edgecompile.plan import Request, plan

    request = Request(
        str(model), ("cpu",), out=out, data=data / VALIDATION, task="classification",
        overwrite=True, allow=("no-gain",),
    )  # fmt: skip
    [result] = run(plan(request), quiet)
    return result.bundle, result.report.verdict


def float_graph(model: Path, file: Path) -> Path:
    """The float32 graph that the int8 one is made of."""
    import onnx

    from edgecompile import sources
    from edgecompile.backends.onnx_graph import float_encoder

    ref = sources.resolve(str(model), task="classification")
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(float_encoder.export(sources.load(ref, quiet)), file)
    return file


def float_answers(model: Path, data: Path) -> Right:
    """Of a Hugging Face folder in float32, by transformers and torch."""
    return answers_on(data / VALIDATION, model)


def answers_on(file: Path, model: Path) -> Right:
    """The same on any JSONL file of texts and labels."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    texts, labels = read(file)
    module = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    found: list[str] = []
    with torch.inference_mode():
        for start in range(0, len(texts), 32):
            part = tokenizer(
                texts[start : start + 32], padding=True, truncation=True, return_tensors="pt"
            )
            found += [module.config.id2label[int(i)] for i in module(**part).logits.argmax(-1)]
    return np.array(found) == np.array(labels)


def bundle_answers(bundle: Path, data: Path) -> Right:
    """Of a bundle, by the runtime that ships inside it, one text after the other."""
    from edgecompile.runtime import load

    texts, labels = read(data / VALIDATION)
    with load(bundle) as session:
        scores = [session.classify([text])[0] for text in texts]
    found = [max(one, key=lambda name: one[name]) for one in scores]
    return np.array(found) == np.array(labels)


@dataclasses.dataclass(frozen=True)
class Size:
    """Parameters of the encoder's layers and in all; MB of the weights' files."""

    encoder: int
    all: int
    mb: float


def size_of(folder: Path) -> Size:
    """Of a Hugging Face folder."""
    from safetensors import safe_open

    counts: dict[str, int] = {}
    with safe_open(folder / "model.safetensors", "np") as file:
        for name in file.keys():  # noqa: SIM118 (no mapping)
            counts[name] = int(np.prod(file.get_slice(name).get_shape()))
    layers = sum(count for name, count in counts.items() if ".layer." in name)
    return Size(layers, sum(counts.values()), (folder / "model.safetensors").stat().st_size / 1e6)


def bundle_mb(bundle: Path) -> float:
    """MB of what ships."""
    return sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file()) / 1e6


def quiet(*_: Any) -> None:
    """No progress."""


def saved(file: Path, value: Mapping[str, Any]) -> None:
    """Written whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1), "utf-8")
    partial.rename(file)
