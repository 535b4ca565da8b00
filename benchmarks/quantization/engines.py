"""Logits of whole windows in the engines that would ship a file, each as its user would open it."""
from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from held_out import WINDOW, Window

from edgecompile.numerics.schemes import Float32
from edgecompile.runtime import load
from edgecompile.runtime.llama_engine import LlamaContext


def llama_cpp(file: Path, windows: Sequence[Window], threads: int) -> Iterator[Float32]:
    """llama.cpp with its default parameters, fed with ids; the context that bundles use, too."""
    library = quiet_llama()
    model = library.llama_model_load_from_file(
        str(file).encode(), library.llama_model_default_params()
    )
    parameters = library.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = WINDOW
    parameters.n_threads = parameters.n_threads_batch = threads
    context = LlamaContext(library, model, parameters)
    try:
        for ids in windows:
            context.reset()
            yield np.concatenate([part.copy() for part in context.feed_all(ids.tolist())])
    finally:
        context.close()
        library.llama_model_free(model)


def bundle(folder: Path, windows: Sequence[Window], threads: int) -> Iterator[Float32]:
    """A bundle of ours through the runtime that ships in it."""
    with load(folder, "never", threads) as session:
        for ids in windows:
            yield np.concatenate([part.copy() for part in session.logits(ids.tolist())])


def onnxruntime(file: Path, windows: Sequence[Window], threads: int) -> Iterator[Float32]:
    """A decoder graph of onnxruntime-genai's builder in plain onnxruntime, with an empty past."""
    import onnxruntime as ort

    config = json.loads((file.parent / "genai_config.json").read_text("utf-8"))
    decoder = config["model"]["decoder"]
    past = np.zeros((1, decoder["num_key_value_heads"], 0, decoder["head_size"]), np.float32)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    named = {port.name for port in session.get_inputs()}
    for ids in windows:
        feeds = {name: past for name in named if name.startswith("past_key_values")}
        feeds |= {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
        if "position_ids" in named:
            feeds["position_ids"] = np.arange(len(ids))[None]
        (logits,) = session.run(["logits"], feeds)
        yield logits[0].astype(np.float32, copy=False)


def child(command: Sequence[str], windows: Sequence[Window], vocabulary: int) -> Iterator[Float32]:
    """Logits that a process in a peer's own environment writes to its output as raw float32."""
    size = WINDOW * vocabulary * 4
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        for _ in windows:
            data = running.stdout.read(size)
            if len(data) != size:
                raise SystemExit(f"{command}: {len(data)} bytes of logits, not {size}")
            yield np.frombuffer(data, np.float32).reshape(WINDOW, vocabulary)


def quiet_llama() -> Any:
    """llama_cpp without its log on stderr."""
    import llama_cpp

    if not hasattr(llama_cpp, "_silence"):
        llama_cpp._silence = llama_cpp.llama_log_callback(lambda *_: None)
        llama_cpp.llama_log_set(llama_cpp._silence, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
    return llama_cpp
