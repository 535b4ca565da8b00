"""What the ONNX backend adds for GPUs: refusals, and what the runtime needs to know."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from edgecompile.backends import decoders
from edgecompile.backends.onnx_graph import probe
from edgecompile.backends.onnx_graph.placement import device_nodes
from edgecompile.model import Model
from edgecompile.runtime.providers import BY_NAME, CPU

if TYPE_CHECKING:
    from edgecompile.backends.onnxruntime import Onnxruntime

# The one such wheel that these graphs were run with, in float32. Others have the same operators.
TESTED = {"webgpu": "1.27.0"}
LEAST = "1.27"  # tells which nodes run where (get_provider_graph_assignment_info)


def refusal(options: Onnxruntime, model: Model) -> str:
    """Why the options do not fit each other or the model; empty if they do."""
    if options.device != "gpu":
        if options.compute_precision != "float32" or options.providers:
            return 'providers and compute_precision = "float16" are for device = "gpu"'
        return ""
    known = [name for name in BY_NAME if name != CPU]
    if unknown := [name for name in options.providers if name not in known]:
        return f"provider {unknown[0]!r} is not one of {', '.join(known)}"
    if options.format != "onnx":
        return "files of format ort are for reduced builds on the CPU"
    if options.activations in ("dynamic", "static") or model.activations:
        return "int8 activations of a whole row or input are products for the CPU"
    if model.task != "text-generation":
        return ""
    if reason := decoders.refusal(model):
        return reason
    cap = decoders.capped(model)
    return cap and f"{cap}: no provider's attention was seen to compute that"


def accepted(options: Onnxruntime) -> list[str]:
    """Names of the providers, in order of preference: all where none is named."""
    return list(options.providers) or [name for name in BY_NAME if name != CPU]


def wheel(options: Onnxruntime) -> tuple[str, str]:
    """The pip requirement of the provider that is preferred, and what the graphs were run with."""
    names = accepted(options)
    tested = "none"
    if options.compute_precision == "float32":
        tested = next((f"{BY_NAME[n].package} {TESTED[n]}" for n in names if n in TESTED), tested)
    return f"{BY_NAME[names[0]].package}>={LEAST}", tested


def options(chosen: Onnxruntime, graph: onnx.GraphProto, task: str) -> dict[str, Any]:
    """For the manifest's engine.options."""
    found: dict[str, Any] = {
        "device": "gpu", "providers": accepted(chosen),
        "compute_precision": chosen.compute_precision, "device_nodes": device_nodes(graph),
    }  # fmt: skip
    if task == "text-generation":
        found["probe"] = f"model/{probe.FILE}"
    return found
