"""What a build will take, from headers alone: bundle size, memory, time, cache."""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgecompile import bundle, host
from edgecompile.backends import Backend
from edgecompile.model import Model
from edgecompile.numerics.schemes import Scheme
from edgecompile.sources.huggingface import tokenizer_files

# Measured with benchmarks/plan_against_facts.py; docs/decisions/0005-estimates.md says how.
BASE_MIB = 620.0  # the compiler with torch, transformers and onnx imported
FLOAT_COPIES = 1.0  # float32 copies of the weights alive at the peak of check and export
QUANTIZE_BYTES_PER_SECOND = 40e6  # float32 bytes rounded, a core
EXPORT_SECONDS = 12.0
CHECK_FLOPS = 40e9  # float32 multiply-adds a second and core in torch
MANIFEST_BYTES_PER_TENSOR = 700


@dataclass(frozen=True)
class Estimate:
    """size of the bundle, peak memory of the build and of the runtime, seconds, cache."""

    size_bytes: int
    build_mib: float
    run_mib: float
    seconds: float
    cache_bytes: int


def estimate(model: Model, backend: Backend, schemes: Mapping[str, Scheme]) -> Estimate:
    """From tensor headers and schemes; nothing is read or measured."""
    engine_bytes = backend.size(model, schemes)
    floats = 4 * model.parameters
    other = _other_bytes(model)
    cores = host.usable_cores()
    seconds = (
        floats / (QUANTIZE_BYTES_PER_SECOND * cores)
        + EXPORT_SECONDS
        + check_tokens(model) * model.parameters / (CHECK_FLOPS * cores)
    )
    return Estimate(
        size_bytes=engine_bytes + other,
        build_mib=BASE_MIB + (FLOAT_COPIES * floats + engine_bytes) / 2**20,
        run_mib=60 + 1.2 * engine_bytes / 2**20,
        seconds=seconds,
        cache_bytes=floats * (model.source.kind == "gguf") + 2 * engine_bytes,
    )


def check_tokens(model: Model) -> int:
    """Tokens that the default check sends through the source model."""
    return 5000 if model.task == "text-generation" else 256 * 100


def _other_bytes(model: Model) -> int:
    """Tokenizer, licence, runtime and manifest."""
    files = [f for f in tokenizer_files(model.folder) if f.name == "tokenizer.json"]
    total = sum(f.stat().st_size for f in (*files, *model.licence.files, *bundle.runtime_files()))
    if not files and model.task == "text-generation":
        total += 72 * int(model.config.get("vocab_size", 0))  # a byte-level BPE's tokenizer.json
    matrices = sum(1 for info in model.weights.infos.values() if math.prod(info.shape) > 0)
    return total + MANIFEST_BYTES_PER_TENSOR * matrices
