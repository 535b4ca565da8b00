"""What the writers of this folder take, from config and headers: `plan` asks it.

Nothing of ExecuTorch is imported: its exporter takes seconds to load.
"""
from __future__ import annotations

from dataclasses import dataclass

from edgecompile.architectures import ENCODERS, first_position
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.tasks import IMAGE_TEXT, PAIRS, PER_TOKEN, PICTURES, TEXT_TO_TEXT
from edgecompile.tokenizer import labels

FILE = "model.pte"
MODERN = "modernbert"
POOLINGS = ("mean", "cls")
ANSWER = 128  # tokens of an encoder-decoder's answer in one call, at most
T5_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "silu": "silu"}
BLOCK = 32  # XNN_MIN_BLOCKSIZE: groups of XNNPACK's 4-bit weights are multiples of it


@dataclass(frozen=True)
class Device:
    """Who multiplies: a delegate of ExecuTorch's, and the floats that it computes in."""

    name: str  # xnnpack, coreml, vulkan: the option `partitioner`
    delegate: str  # its name in the file and in ExecuTorch's runtime
    precision: str = "float32"
    runs_on: str = ""


XNNPACK = Device("xnnpack", "XnnpackBackend")
DEVICES = {
    "xnnpack": XNNPACK,
    "coreml": Device("coreml", "CoreMLBackend", runs_on="iOS 18, macOS 15 and later"),
    "vulkan": Device("vulkan", "VulkanBackend", runs_on="Android's and desktops' GPUs"),
}


def refusal(model: Model) -> str:
    """Why the graph is left to torch.export, from config and headers; empty if it is not.

    Of decoders alone backends.decoders says it: torch.export has none of them.
    """
    by_task = {IMAGE_TEXT: towers_refusal, PICTURES: vit_refusal, TEXT_TO_TEXT: t5_refusal}
    return by_task.get(model.task, encoder_refusal)(model)


def encoder_refusal(model: Model) -> str:
    """The same of a model of texts."""
    modern = model.architecture == MODERN
    if reason := (_modern_refusal if modern else _bert_refusal)(model):
        return reason
    if model.task == "embedding":
        mode = model.pooling.mode if model.pooling else "none"
        return "" if mode in POOLINGS else f"pooling {mode!r} is not one of {', '.join(POOLINGS)}"
    drawn = ("classification", *PAIRS, *PER_TOKEN)
    return "" if model.task in drawn else f"task {model.task!r}"


def _bert_refusal(model: Model) -> str:
    config = model.config
    if model.architecture not in ENCODERS:
        known = ", ".join((*ENCODERS, MODERN))
        return f"architecture {model.architecture!r} is not one of {known}"
    activation = config.get("activation") or config.get("hidden_act", "gelu")
    if activation != "gelu":
        return f"activation {activation!r} is not 'gelu'"
    if config.get("sinusoidal_pos_embds"):
        return "sinusoidal_pos_embds is set"
    if config.get("position_embedding_type", "absolute") != "absolute":
        return f"position_embedding_type {config['position_embedding_type']!r} is not 'absolute'"
    return "is_decoder is set" if config.get("is_decoder") else ""


def _modern_refusal(model: Model) -> str:
    config = model.config
    for name in ("hidden_activation", "classifier_activation"):
        if config.get(name, "gelu") != "gelu":
            return f"{name} {config[name]!r} is not 'gelu'"
    ropes = config.get("rope_parameters") or {}
    kinds = {one.get("rope_type", "default") for one in ropes.values() if isinstance(one, dict)}
    if kinds - {"default"} or config.get("rope_scaling"):
        return "rope_type is not 'default'"
    return "head_dim is set" if config.get("head_dim") else ""


def towers_refusal(model: Model) -> str:
    """The same of a model of texts and pictures."""
    parts = [model.config[f"{part}_config"] for part in ("text", "vision")]
    for part in parts:
        if reason := _activation_refusal(part["hidden_act"]):
            return reason
    if parts[0]["layer_norm_eps"] != parts[1]["layer_norm_eps"]:
        return "its two parts have norms of different epsilon"
    return ""


def vit_refusal(model: Model) -> str:
    """The same of a classifier of pictures."""
    config = model.config
    if model.architecture != "vit":
        return f"architecture {model.architecture!r} is not 'vit'"
    if reason := _activation_refusal(config.get("hidden_act", "gelu")):
        return reason
    if config.get("head_dim"):
        return "head_dim is set"
    if "classifier.weight" not in model.weights:
        return "it has no classifier"
    side = config.get("image_size", 224)
    sides = [side, side] if isinstance(side, int) else list(side)
    found, wanted = list(model.picture_shape), [config.get("num_channels", 3), *sides]
    return "" if found == wanted else f"pictures are {found}, and image_size means {wanted}"


def t5_refusal(model: Model) -> str:
    """The same of a T5."""
    form = str(model.config.get("feed_forward_proj", "relu"))
    activation = "gelu_new" if form == "gated-gelu" else form.rpartition("-")[2]
    known = activation in T5_ACTIVATIONS
    return "" if known else f"activation {activation!r} is not one of {', '.join(T5_ACTIVATIONS)}"


def _activation_refusal(name: str) -> str:
    known = name in ("gelu", "quick_gelu")
    return "" if known else f"activation {name!r} is not 'gelu' or 'quick_gelu'"


def answer_shape(model: Model) -> tuple[int | str, ...]:
    """Sizes of the answer of one text, as the manifest lists them."""
    if model.task not in PER_TOKEN:
        return 1, "width"
    words = model.task == "fill-mask"
    return 1, "length", int(model.config["vocab_size"]) if words else len(labels(model.config))


def has_kinds(model: Model) -> bool:
    """Whether the model tells the tokens of a pair's two texts apart."""
    return int(model.config.get("type_vocab_size") or 0) > 1


def text_limit(model: Model) -> int:
    """Tokens of the longest text: rows of the position table from the first token's on."""
    first = first_position(model.architecture, model.config)
    return int(model.text_config.get("max_position_embeddings", 512)) - first


def linear_refusal(name: str, scheme: Scheme, columns: int) -> str:
    """Why XNNPACK cannot multiply with a weight on that scheme; empty if it can."""
    group = scheme.group_size
    if scheme.bits not in (4, 8):
        return f"{name} has {scheme.bits} bits; XNNPACK multiplies with 4 or 8"
    if scheme.bits == 8 and group:
        return f"{name} is {scheme.name}; XNNPACK has groups for 4 bits only"
    if group % BLOCK:
        return f"{name} has groups of {group}; XNNPACK's are multiples of {BLOCK}"
    if columns % 2 and scheme.bits == 4:
        return f"{name} has rows of {columns}; 4-bit codes come in pairs"
    return ""
