"""Every architecture on every backend: a small seeded model of each, and what is asked of a cell.

`python -m tests.architectures.cells` writes docs/architectures.md.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers

from edgecompile import sources
from edgecompile.backends.executorch import Executorch
from edgecompile.backends.executorch_graph.scope import refusal as drawing_refusal
from edgecompile.backends.gguf import Gguf
from edgecompile.backends.onnxruntime import Onnxruntime
from edgecompile.backends.openvino import Openvino
from edgecompile.model import Model, Pooling
from tests import tiny
from tests.architectures import mobilenet_v3

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"
BACKENDS: Mapping[str, Any] = {
    "onnxruntime": Onnxruntime(accuracy_level=1), "openvino": Openvino(activations="exact"),
    "executorch": Executorch(), "gguf": Gguf(),
}  # fmt: skip
ENCODER, DECODER = "embedding", "text-generation"
CLASSIFIER, RANKER = "classification", "text-ranking"
PICTURES, TEXT_TO_TEXT = "image-classification", "text2text-generation"
SPEECH, IMAGE_TEXT = "automatic-speech-recognition", "image-text-embedding"
TAGGER, FILLER = "token-classification", "fill-mask"
OF_ENCODERS = (ENCODER, CLASSIFIER, TAGGER, FILLER, RANKER)
ENCODER_SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 40, "initializer_range": 0.1, "pad_token_id": 0,
    "layer_norm_eps": 1e-2,
}  # fmt: skip
DECODER_SIZES: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.1,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "rms_norm_eps": 1e-3,
}  # fmt: skip
PICTURE_SIZES: dict[str, Any] = {"image_size": 32, "num_labels": 5, "initializer_range": 0.1}
TRANSFORMER: dict[str, Any] = {
    "patch_size": 8, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "layer_norm_eps": 1e-2,
}  # fmt: skip
T5_SIZES: dict[str, Any] = {
    "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 4,
    "decoder_start_token_id": 0, "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 20, "layer_norm_epsilon": 1e-2, "n_positions": 256,
}  # fmt: skip
SPEECH_SIZES: dict[str, Any] = {
    "d_model": 64, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
}  # fmt: skip
TOWER: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4,
    "layer_norm_eps": 1e-2, "initializer_factor": 4.0,
}  # fmt: skip
# As OpenAI's own config: by its eos_token_id the highest id of a text ends it.
CLIP_TEXT = {"vocab_size": 60, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
CLIP_SIZES: dict[str, Any] = {
    "text_config": {**TOWER, **CLIP_TEXT, "max_position_embeddings": 40},
    "vision_config": {**TOWER, "image_size": PICTURE_SIZES["image_size"], "patch_size": 8},
    "projection_dim": 48,
}  # fmt: skip
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
GPT2 = {
    "n_inner": 96, "layer_norm_epsilon": 1e-2, "intermediate_size": None, "rms_norm_eps": None,
    "num_key_value_heads": None,
}  # fmt: skip
SMALL_HEADS = {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}
MODERN = {
    "global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 2, "sep_token_id": 3,
    "bos_token_id": 2, "eos_token_id": 3, "norm_eps": 1e-2,
    "layer_norm_eps": None,
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """An architecture by its model_type, and what a small one of it has (None: has not)."""

    name: str
    model_type: str
    tasks: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)


KINDS = (
    Kind("BERT", "bert", OF_ENCODERS),
    Kind("DistilBERT", "distilbert", OF_ENCODERS, {"layer_norm_eps": None}),
    Kind("RoBERTa", "roberta", OF_ENCODERS, {"pad_token_id": 1}),
    Kind("XLM-RoBERTa", "xlm-roberta", OF_ENCODERS, {"pad_token_id": 1}),
    Kind("MPNet", "mpnet", OF_ENCODERS, {"pad_token_id": 1}),
    Kind("ModernBERT", "modernbert", OF_ENCODERS, MODERN),
    Kind("Llama", "llama", (DECODER,)),
    Kind("Mistral", "mistral", (DECODER,), {"sliding_window": 64}),
    Kind("Qwen 2", "qwen2", (DECODER,)),
    Kind("Qwen 3", "qwen3", (DECODER,), {"head_dim": 16}),
    Kind("SmolLM3", "smollm3", (DECODER,), {"num_hidden_layers": 5}),
    Kind("Gemma 3", "gemma3_text", (DECODER,), SMALL_HEADS),
    Kind("Gemma", "gemma", (DECODER,), {"head_dim": 16, "rms_norm_eps": 1e-2}),
    Kind("Granite", "granite", (DECODER,)),
    Kind("Gemma 2", "gemma2", (DECODER,), SMALL_HEADS),
    Kind("Phi-3", "phi3", (DECODER,)),
    Kind("GPT-2", "gpt2", (DECODER,), GPT2),
    Kind("ViT", "vit", (PICTURES,), TRANSFORMER),
    Kind("MobileNetV2", "mobilenet_v2", (PICTURES,), {"depth_multiplier": 0.25}),
    Kind("MobileNetV3, a torch module", "torch", (PICTURES,)),
    Kind("CLIP", "clip", (IMAGE_TEXT,)),
    Kind("T5", "t5", (TEXT_TO_TEXT,)),
    Kind("T5 1.1, Flan-T5", "t5", (TEXT_TO_TEXT,), GATED),
    Kind("Whisper", "whisper", (SPEECH,)),
)
# torch.export, XNNPACK's passes
LOWERED = ("mobilenet_v2", "torch", "whisper")
SLOW = {(kind, "executorch") for kind in LOWERED}
HEAD = (
    "# Architectures and engines", "",
    "Made by `python -m tests.architectures.cells`. `tests/architectures` proves each *yes* on a",
    "small seeded model of the true architecture: its answers in the engine are transformers',",
    "which an altered epsilon, rope base, table of positions or head order would break, and 8-bit",
    "codes are read back from the file. *slowly*: ExecuTorch's own exporter draws it, in minutes",
    "for a real model. A number is a reason below; `plan` gives it with exit 3.", "",
    "| architecture | task | ONNX Runtime | OpenVINO | ExecuTorch (XNNPACK) | llama.cpp |",
    "|---|---|---|---|---|---|",
)  # fmt: skip
TAIL = (
    "Not built yet, refused by `plan` with exit 3: other encoder-decoders (BART), other",
    "models of texts and pictures (SigLIP, Chinese-CLIP), one of CLIP's towers alone. A torch",
    "module with example inputs (`package.module:function`) goes",
    "to ONNX Runtime, OpenVINO and ExecuTorch whatever it is. Of a Gemma 3 that takes pictures the",
    "text part is built.", "",
)  # fmt: skip
AUTO = {
    ENCODER: transformers.AutoModel, DECODER: transformers.AutoModelForCausalLM,
    CLASSIFIER: transformers.AutoModelForSequenceClassification,
    PICTURES: transformers.AutoModelForImageClassification,
    TEXT_TO_TEXT: transformers.AutoModelForSeq2SeqLM, IMAGE_TEXT: transformers.AutoModel,
    TAGGER: transformers.AutoModelForTokenClassification,
    FILLER: transformers.AutoModelForMaskedLM,
    RANKER: transformers.AutoModelForSequenceClassification,
}  # fmt: skip


def make(kind: Kind, task: str, folder: Path) -> Model:
    """A seeded model of that architecture; where it reads text the folder has its tokenizer."""
    torch.manual_seed(0)
    if kind.model_type == "torch":
        entry_point = f"{mobilenet_v3.__name__}:build"
        return sources.load(sources.resolve(entry_point), lambda *_: None)
    if task == SPEECH:
        tiny.whisper(folder, **SPEECH_SIZES, **kind.config)
        return sources.load(sources.resolve(str(folder)), lambda *_: None)
    sizes = _sizes(task, folder)
    settings = {k: v for k, v in {**sizes, **kind.config}.items() if v is not None}
    config = transformers.CONFIG_MAPPING[kind.model_type](**settings)
    module = AUTO[task].from_config(config)
    if task == PICTURES:
        _settle(module)
    if task == TEXT_TO_TEXT and not module.config.tie_word_embeddings:
        module.lm_head.weight = torch.nn.Parameter(torch.randn_like(module.lm_head.weight))
    module.save_pretrained(folder)
    tiny.card(folder)
    loaded = sources.load(sources.resolve(str(folder), task=task), lambda *_: None)
    mean = Pooling("mean", normalize=True, max_length=32) if task == ENCODER else None
    return replace(loaded, pooling=mean)


def _settle(module: torch.nn.Module) -> None:
    """Batch norms know their inputs' spread: else a random network's answers fade away."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = 1.0
    module.train()
    module(torch.randn((8, 3, PICTURE_SIZES["image_size"], PICTURE_SIZES["image_size"])))
    module.eval()


def _sizes(task: str, folder: Path) -> dict[str, Any]:
    if task == IMAGE_TEXT:
        tiny.clip_bpe(folder)
        tiny.picture_settings(folder, "CLIPImageProcessor", PICTURE_SIZES["image_size"])
        return copy.deepcopy(CLIP_SIZES)
    return _picture_sizes(folder) if task == PICTURES else _text_sizes(task, folder)


def _text_sizes(task: str, folder: Path) -> dict[str, Any]:
    """Sizes, with a tokenizer in the folder."""
    kinds = {DECODER: (DECODER_SIZES, tiny.byte_bpe), TEXT_TO_TEXT: (T5_SIZES, tiny.unigram)}
    known, tokenizer = kinds.get(task, (ENCODER_SIZES, tiny.word_piece))
    labels = {"num_labels": 1} if task == RANKER else {}
    return {**known, "vocab_size": tokenizer(folder), **labels}


def _picture_sizes(folder: Path) -> dict[str, Any]:
    """Sizes, and how pictures are prepared, in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    side = PICTURE_SIZES["image_size"]
    size = {"height": side, "width": side}
    settings = {"image_processor_type": "ViTImageProcessor", "size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return dict(PICTURE_SIZES)


def refusal(model: Model, backend: str) -> str:
    """Why there is no such cell; empty where a test proves it."""
    found: str = BACKENDS[backend].refusal(model)
    return found


def page() -> str:
    """docs/architectures.md."""
    lines = list(HEAD)
    reasons: list[str] = []
    for kind in KINDS:
        for task in kind.tasks:
            with TemporaryDirectory() as folder:
                model = make(kind, task, Path(folder))
                cells = [_cell(model, backend, reasons) for backend in BACKENDS]
            lines.append(f"| {kind.name} | {task} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)), "", *TAIL]
    return "\n".join(lines)


def _cell(model: Model, backend: str, reasons: list[str]) -> str:
    if reason := refusal(model, backend):
        text = f"{backend}: {reason}"
        if text not in reasons:
            reasons.append(text)
        return f"no ({reasons.index(text) + 1})"
    return "slowly" if lowered(model, backend) else "yes"


def lowered(model: Model, backend: str) -> bool:
    """Whether ExecuTorch's own exporter writes it: seconds of a tiny model."""
    if backend != "executorch" or model.task == DECODER:
        return False
    return bool(drawing_refusal(model))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
