"""One row's process: opens its file in its engine and answers requests, one JSON line each.

    python worker.py decoder|encoder ENGINE FILE THREADS

{"op": "generate", "ids", "prompt", "count"} -> {"first_token_ms", ...}
{"op": "latency", "ids", "repeats"} -> {"latency_ms": [...]}
{"op": "embed", "ids"} -> {"vector": [...]}
{"op": "logits", "ids"} -> {"shape"}, then so many float32
{"op": "memory"} -> {"peak_mib"}: resident, the interpreter and the engine's library included
"""
from __future__ import annotations

import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

import numpy as np

FAST = 10  # percentile of steps: what a busy neighbour did not disturb
# Imported before the clock starts, where it is installed: `load` is the file's, not Python's.
LIBRARIES = {
    "onnxruntime-genai": ("onnxruntime_genai",),
    "onnxruntime": ("onnxruntime",),
    "llama.cpp": ("llama_cpp",),
    "llama_cpp": ("llama_cpp",),
    "executorch": ("torch", "executorch.runtime"),
    "openvino": ("openvino",),
    "litert": ("ai_edge_litert.interpreter",),
    "torch": ("torch", "transformers"),
}


def main() -> None:
    """Open, say so, serve until the input ends."""
    kind, engine, file, threads = sys.argv[1:5]
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what an engine prints must not stand between the replies
    library = json.loads(os.environ.get("BENCHMARK_ENGINE", "null")) or engine
    for name in LIBRARIES.get(library, ()):
        importlib.import_module(name)
    adapter = importlib.import_module(f"{kind}s").ENGINES[engine]
    start = time.perf_counter()
    opened = adapter(Path(file), int(threads))
    _send(replies, {"load_seconds": time.perf_counter() - start, "version": opened.version})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request["op"] == "logits":
            found = np.ascontiguousarray(opened.logits(request["ids"]), np.float32)
            _send(replies, {"shape": found.shape})
            replies.write(found.tobytes())
            replies.flush()
        else:
            _send(replies, _OPERATIONS[request["op"]](opened, request))


def _generate(opened: Any, request: dict[str, Any]) -> dict[str, Any]:
    times: list[float] = []
    start = time.perf_counter()
    opened.generate(
        request["ids"], request["prompt"], request["count"],
        lambda: times.append(time.perf_counter()),
    )  # fmt: skip
    return {
        "first_token_ms": (times[0] - start) * 1000,
        "tokens_per_second": (len(times) - 1) / (times[-1] - times[0]),
        "fast_tokens_per_second": 1 / float(np.percentile(np.diff(times), FAST)),
        "count": len(times),
    }


def _latency(opened: Any, request: dict[str, Any]) -> dict[str, Any]:
    found = []
    for _ in range(request["repeats"]):
        start = time.perf_counter()
        opened.embed(request["ids"])
        found.append((time.perf_counter() - start) * 1000)
    return {"latency_ms": found}


def _embed(opened: Any, request: dict[str, Any]) -> dict[str, Any]:
    return {"vector": opened.embed(request["ids"]).tolist()}


def _memory(_: Any, __: dict[str, Any]) -> dict[str, Any]:
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return {"peak_mib": int(peak) / 1024}


_OPERATIONS = {"generate": _generate, "latency": _latency, "embed": _embed, "memory": _memory}


def _send(replies: IO[bytes], reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
