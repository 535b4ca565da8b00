"""The limits of docs/decisions/0003-limits.md: by width of the weights, and by activations."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from edgecompile.config import nearest
from edgecompile.errors import UsageError
from edgecompile.metrics.own import OwnMetric
from edgecompile.numerics.schemes import Scheme

# metric: (float, 8 bits, 4 bits and less), whether higher is better
TABLE: Mapping[str, tuple[tuple[float, float, float], bool]] = {
    "kl_mean": ((0.001, 0.0138, 0.32), False),
    "context_kl": ((0.001, 0.0138, 0.32), False),
    "kl_p999": ((0.03, 0.414, 9.6), False),
    "perplexity_ratio": ((1.002, 1.01, 1.285), False),
    "top1_agreement": ((0.981, 0.929, 0.66), True),
    "cosine_p1": ((0.9995, 0.988, 0.8755), True),
    "cosine_mean": ((0.9998, 0.9952, 0.9502), True),
    "rank_correlation": ((0.999, 0.99, 0.93), True),
    "accuracy_ratio": ((0.99, 0.99, 0.97), True),
    "class_agreement": ((0.99, 0.99, 0.97), True),
    "f1_ratio": ((0.99, 0.99, 0.97), True),
    "recall_at_10": ((0.9, 0.62, 0.25), True),
    "retrieval_recall_ratio": ((0.99, 0.99, 0.97), True),
    "picture_error": ((1e-5, 1e-5, 1e-5), False),
    "audio_error": ((1.2e-4, 1.2e-4, 1.2e-4), False),
    "transcript_difference": ((0.01, 0.01, 0.03), False),
    "word_accuracy_ratio": ((0.99, 0.99, 0.97), True),
    "relative_error": ((0.02, 0.098, 0.316), False),
}
# decode_gap and decode_kl have two sides that round, each within the export's divergence.
# metric: (float32, int8 in blocks, int8 with one range a row or input, float16), higher is better
EXPORT: Mapping[str, tuple[tuple[float, float, float, float], bool]] = {
    "export_kl_mean": ((1e-5, 0.0054, 0.043, 0.0006), False),
    "decode_kl": ((2e-5, 0.0108, 0.086, 0.0012), False),
    "decode_gap": ((2e-5, 0.0108, 0.086, 0.0012), False),
    "export_cosine_min": ((0.9999, 0.998, 0.988, 0.9998), True),
    "alone_error": ((0.001, 0.063, 0.155, 0.02), False),
    "export_length_error": ((0.0142, 0.063, 0.155, 0.02), False),
    "export_relative_error": ((0.001, 0.063, 0.155, 0.02), False),
}
HALF = 3  # the column of float16
# Measured in every check and limited only where a recipe or a target's budget says so.
# What a smaller model kept of the one that came in: it may lose what 4 bits may.
KEPT = "kept_"
COSTS = ("size", "load_time", "latency", "first_token", "decode_speed", "real_time_factor",
         "peak_memory")  # fmt: skip
_DISTRIBUTIONS = ("kl_mean", "kl_p999", "perplexity_ratio", "top1_agreement", "export_kl_mean")
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "embedding": (
        "cosine_mean", "cosine_p1", "rank_correlation", "export_cosine_min",
        "export_length_error",
    ),
    "classification": ("class_agreement", "export_relative_error"),
    "token-classification": ("class_agreement", "export_cosine_min"),
    "fill-mask": _DISTRIBUTIONS,
    "text-ranking": ("rank_correlation", "export_relative_error"),
    "image-classification": ("class_agreement", "export_cosine_min", "picture_error"),
    "image-text-embedding": (
        "cosine_mean", "cosine_p1", "recall_at_10", "export_cosine_min", "picture_error",
    ),
    "text-generation": (*_DISTRIBUTIONS, "decode_gap", "decode_kl"),
    "text2text-generation": _DISTRIBUTIONS,
    "automatic-speech-recognition": ("audio_error", *_DISTRIBUTIONS),
    "module": ("relative_error", "export_relative_error"),
}  # fmt: skip
# Measured where the task has them, and limited as the costs are.
MEASURED = ("kl_p99", "kl_max", "top5_agreement", "greedy_prefix", "repetition",
            "refusal_change", "toxic_rate", "cosine_min",
            "macro_f1", "worst_class_recall", "calibration_error")  # fmt: skip
HIGHER = {"decode_speed", "top5_agreement", "greedy_prefix", "cosine_min", "macro_f1",
          "worst_class_recall"}  # fmt: skip
FLOATS = ("float32", "float16", "bfloat16")  # dtypes that round nothing to a grid


def width_of(types: Iterable[str]) -> str:
    """The column: `float` without quantized tensors, else `int` and the smallest bits."""
    bits = [bits_of(name) for name in types]
    return f"int{min(bits)}" if bits else "float"


def bits_of(name: str) -> int:
    """Bits of a scheme (int4-g32) or of a type of llama.cpp's own (Q4_K, IQ4_NL)."""
    if name.startswith("int"):
        return Scheme.parse(name).bits
    return int(name.lstrip("IQ")[0])


def types_of(manifest: Mapping[str, Any]) -> list[str]:
    """Schemes of the quantized tensors, and types of those that the engine's quantizer made."""
    return [*(entry["scheme"] for entry in manifest["tensors"]), *own_types(manifest).values()]


def own_types(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Tensor -> type, of tensors that an engine's own quantizer made."""
    rows = manifest.get("floats", ())
    return {row["name"]: row["dtype"] for row in rows if row["dtype"] not in FLOATS}


def limits_for(
    width: str, int8: int, stricter: Mapping[str, float], own: Iterable[OwnMetric] = ()
) -> dict[str, float]:
    """Limit by metric; `int8` is the column of EXPORT; `stricter` tightens, it never loosens.

    `own` are metrics of the user's, with limits of their own.
    """
    column = 0 if width == "float" else 1 if width == "int8" else 2
    found = {metric: values[column] for metric, (values, _) in TABLE.items()}
    found |= {metric: values[int8] for metric, (values, _) in EXPORT.items()}
    found |= {KEPT + metric: values[2] for metric, (values, _) in TABLE.items()}
    higher = {m for table in (TABLE, EXPORT) for m, (_, up) in table.items() if up} | HIGHER
    own = tuple(own)
    found |= {one.name: one.limit for one in own if one.limit is not None}
    higher |= {one.name for one in own if one.direction == "higher"}
    free = (*COSTS, *MEASURED, *(one.name for one in own), *(KEPT + one.name for one in own))
    for metric, limit in stricter.items():
        if metric not in found and metric not in free:
            raise UsageError(
                "[check.limits]", f"{metric!r} is no metric", nearest(metric, [*found, *free])
            )
        rule = found.get(metric, limit)
        up = metric.removeprefix(KEPT) in higher
        found[metric] = max(rule, limit) if up else min(rule, limit)
    return found


def int8_activations(manifest: Mapping[str, Any]) -> bool:
    """Whether the engine rounds activations to int8 when it multiplies with quantized weights."""
    if not (manifest["tensors"] or own_types(manifest)):
        return False
    engine = manifest["engine"]
    if engine["name"] == "llama_cpp":
        return True  # ggml quantizes the activations of every quantized type to Q8
    options = engine.get("options", {})
    blocks = options.get("accuracy_level") == 4 or options.get("dynamic_group")
    return bool(blocks or options.get("activations"))


def activation_column(manifest: Mapping[str, Any]) -> int:
    """The column of EXPORT: float32, int8 a block, int8 with one range an input, float16."""
    options = manifest["engine"].get("options", {})
    if int8_activations(manifest):
        return 2 if options.get("activations") else 1
    return HALF if options.get("compute_precision") == "float16" else 0
