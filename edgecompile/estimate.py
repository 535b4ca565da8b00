"""What a build will take, from headers alone: bundle size, memory, time, cache."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecompile import bundle, golden, host, tokenizer
from edgecompile.backends import Backend
from edgecompile.checks import STREAM_ABOVE
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.passes import Effort
from edgecompile.sources.huggingface import tokenizer_files
from edgecompile.tasks import SPEECH, TEXT_TO_TEXT, generates

# Fitted to benchmarks/plan_against_facts.py on four x86-64 cores (docs/quality.md has its table).
BASE_MIB = 740.0  # the process with torch and transformers, and the check's windows of logits
TORCH_EXPORT_MIB = 140.0  # torch.onnx and onnxscript, which encoders and modules need
RUN_MIB = 57.0  # Python, numpy, the tokenizer and the engine's library
CACHE_VALUE_BYTES = 4.0  # float32, where a backend does not say otherwise
RUN_COPIES = 2.28  # the mapped file, the engine's repacked copy of it, scales and buffers
START_SECONDS = 9.0  # imports
ROUNDED = 12e6  # weights rounded in a second, a core
PRODUCTS = 8e9  # multiply-adds of calibration in a second, a core
WRITE_SECONDS = 6.0  # by our own writers; with the golden inputs, as the next two
EXPORTER_SECONDS = 18.0  # where the engine's exporter, or torch's, has to be loaded and run
EXPORTERS = ("onnxruntime", "openvino", "executorch", "aotinductor")
ALWAYS_LOADED = ("executorch",)  # our writer of decoders takes its file format from there
CHECK_SECONDS = 15.0  # opening the bundle, token ids, timings
CHECK_PRODUCTS = {  # parameters x tokens a second, a core
    "text-generation": 4e9, TEXT_TO_TEXT: 4e9, SPEECH: 4e9,
}  # fmt: skip
ENCODER_PRODUCTS = 18e9
# At most, so that a bundle stays within a budget: its own files, then two passes' rows a tensor.
MANIFEST_BYTES, MANIFEST_BYTES_PER_TENSOR = 14_000, 800


@dataclass(frozen=True)
class Estimate:
    """What a build and its bundle take: bytes on disk, memory in MiB, seconds."""

    size_bytes: int  # of the bundle
    build_mib: float  # peak of the build
    run_mib: float  # of the runtime after a short text
    seconds: float
    cache_bytes: int  # of the build's own cache, on disk
    context_length: int = 0  # of a decoder on this target, tokens
    cache_mib: float = 0.0  # KV cache at that length


def estimate(
    model: Model, backend: Backend, schemes: Mapping[str, Scheme],
    efforts: Sequence[Effort] = (), context_length: int = 0,
) -> Estimate:  # fmt: skip
    """From tensor headers, schemes and what the passes say of themselves; nothing is read."""
    engine_bytes = backend.size(model, schemes)
    floats = 4 * model.parameters
    other = _other_bytes(model)
    extra = max((effort.memory for effort in efforts), default=0.0)
    length = _context(model, backend, context_length)
    exporter = backend.name == "onnxruntime" and model.task != "text-generation"
    return Estimate(
        size_bytes=engine_bytes + other,
        build_mib=BASE_MIB + TORCH_EXPORT_MIB * exporter
        + (_resident_bytes(model, engine_bytes) + extra) / 2**20,
        run_mib=RUN_MIB + RUN_COPIES * engine_bytes / 2**20,
        seconds=_seconds(model, backend, efforts, host.usable_cores()),
        cache_bytes=floats * (model.source.kind == "gguf") + 2 * engine_bytes,
        context_length=length,
        cache_mib=length * _cache_bytes_per_token(model, backend) / 2**20,
    )


def _context(model: Model, backend: Backend, limit: int) -> int:
    """Tokens of a decoder's context: the model's, cut by the target and by the backend."""
    if not generates(model.task):
        return 0
    lengths = (
        tokenizer.context_length(model), limit,
        int(getattr(backend, "context_length", 0)),
    )  # fmt: skip
    return min(length for length in lengths if length)


def _cache_bytes_per_token(model: Model, backend: Backend) -> float:
    """Keys and values of one token in every layer."""
    config = model.config
    if model.task == SPEECH:  # float32 of the answer; the sound's keys and values are constant
        return 4.0 * 2 * int(config["decoder_layers"]) * int(config["d_model"])
    if model.task == TEXT_TO_TEXT:  # float32, of the source and of the answer
        layers = int(config.get("num_decoder_layers") or config.get("num_layers") or 0)
        return 2 * 4.0 * 2 * layers * int(config["num_heads"]) * int(config["d_kv"])
    config = model.common_config
    heads = int(config.get("num_attention_heads") or 1)
    kv_heads = int(config.get("num_key_value_heads") or heads)
    size = int(config.get("head_dim") or int(config.get("hidden_size") or 0) // heads)
    values = 2 * int(config.get("num_hidden_layers") or 0) * kv_heads * size
    return values * float(getattr(backend, "cache_value_bytes", CACHE_VALUE_BYTES))


def _resident_bytes(model: Model, engine_bytes: int) -> float:
    """Weights that stand in memory at once: of a large decoder, its largest tables and a block."""
    floats = 4 * model.parameters
    if model.task != "text-generation" or floats <= STREAM_ABOVE:
        return floats + engine_bytes
    sizes = [math.prod(info.shape) for info in model.weights.infos.values()]
    blocks = max(1, int(model.common_config.get("num_hidden_layers", 1)))
    return 4 * (2 * max(sizes) + model.parameters / blocks)


def _seconds(model: Model, backend: Backend, efforts: Sequence[Effort], cores: int) -> float:
    products = CHECK_PRODUCTS.get(model.task, ENCODER_PRODUCTS)
    return (
        START_SECONDS
        + sum(effort.rounded for effort in efforts) / (ROUNDED * cores)
        + sum(effort.products for effort in efforts) / (PRODUCTS * cores)
        + (EXPORTER_SECONDS if _exporter(model, backend) else WRITE_SECONDS)
        + CHECK_SECONDS
        + check_tokens(model) * model.parameters / (products * cores)
    )


def _exporter(model: Model, backend: Backend) -> bool:
    decoder = model.task == "text-generation"
    return backend.name in (ALWAYS_LOADED if decoder else EXPORTERS)


def check_tokens(model: Model) -> int:
    """Tokens that the default check sends through the source model."""
    return 5000 if generates(model.task) else 256 * 100


def _other_bytes(model: Model) -> int:
    """Tokenizer, licence, runtime, golden inputs and manifest."""
    files = [f for f in tokenizer_files(model.folder) if f.name == "tokenizer.json"]
    total = sum(f.stat().st_size for f in (*files, *model.licence.files, *bundle.runtime_files()))
    if not files and model.task == "text-generation":
        total += 72 * int(model.config.get("vocab_size", 0))  # a byte-level BPE's tokenizer.json
    matrices = sum(1 for info in model.weights.infos.values() if math.prod(info.shape) > 0)
    total += golden.most_bytes(model)
    return total + MANIFEST_BYTES + MANIFEST_BYTES_PER_TENSOR * matrices
