"""Norms of a decoder's graph, alone and with the residual addition: RMSNorm or LayerNorm.

RMSNorm: Zhang & Sennrich 2019; layer normalization: Ba et al. 2016.
"""
from __future__ import annotations

from edgecompile.backends.decoders import NORM
from edgecompile.backends.onnx_graph import encode
from edgecompile.backends.onnx_graph.canvas import Canvas

RMS, SKIP_RMS = "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"
WHOLE, SKIP_WHOLE = "LayerNormalization", "SkipLayerNormalization"


def norm_of_sum(canvas: Canvas, name: str, stream: str, added: str) -> tuple[str, str]:
    """The norm of the residual stream plus what the last block gave; returns it and the sum."""
    label = name.removesuffix(".weight")
    if not added:
        return norm_of(canvas, stream, label), stream
    total = f"{label}.sum"
    outputs = [label] if name == NORM else [label, "", "", total]
    kind = SKIP_WHOLE if canvas.plan.family.centred else SKIP_RMS
    canvas.node(
        kind, [stream, added, *_constants(canvas, label)], label, outputs,
        domain=encode.DOMAIN, epsilon=canvas.plan.epsilon,
    )  # fmt: skip
    return label, total


def _constants(canvas: Canvas, label: str) -> list[str]:
    weight = canvas.norm_weight(f"{label}.weight")
    return [weight, canvas.floats(f"{label}.bias")] if canvas.plan.family.centred else [weight]


def norm_of(canvas: Canvas, value: str, label: str) -> str:
    """RMSNorm, or layer normalization (Ba et al. 2016) where the family has that."""
    kind = WHOLE if canvas.plan.family.centred else RMS
    return canvas.node(
        kind, [value, *_constants(canvas, label)], label,
        epsilon=canvas.plan.epsilon, axis=-1, stash_type=1,
    )  # fmt: skip
