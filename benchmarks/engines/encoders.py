"""Encoders as each engine's user would run them, one text a call, one class an engine.

Used by worker.py in the process of one row; imports as in decoders.py. `embed` gives one vector
[dim] for the ids of one text with its special tokens; what an engine's file does not pool and
normalize is pooled and normalized here, in the time that is measured.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from decoders import open_bundle, open_method, package_version, quiet
from numpy.typing import NDArray

Vector = NDArray[np.float32]
LITERT_TOKENS = 64  # the converter's shapes are fixed: shorter texts are padded


def pool(states: NDArray[Any], mask: NDArray[Any]) -> Vector:
    """Mean of token vectors [tokens, dim] where the mask is 1, of length 1."""
    mean = (states * mask[:, None]).sum(0) / mask.sum()
    vector: Vector = mean / np.linalg.norm(mean)
    return vector


class Bundle:
    """A bundle of ours through the runtime that was copied into it."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = open_bundle(path, threads)
        self.version = self._session.engine_version

    def embed(self, ids: Sequence[int]) -> Vector:
        """Through Session.embed_ids."""
        vector: Vector = self._session.embed_ids([ids])[0]
        return vector


class OnnxRuntime:
    """A graph with token vectors as its first output, default options."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.version = ort.__version__

    def embed(self, ids: Sequence[int]) -> Vector:
        """Inputs by name; token types are 0."""
        tokens = np.array([ids], np.int64)
        every = {"input_ids": tokens, "attention_mask": np.ones_like(tokens),
                 "token_type_ids": np.zeros_like(tokens)}  # fmt: skip
        feeds = {port.name: every[port.name] for port in self._session.get_inputs()}
        return pool(self._session.run(None, feeds)[0][0], every["attention_mask"][0])


class OpenVino:
    """A model of optimum-intel in OpenVINO's CPU plug-in, tuned for latency as its guide says."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino

        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        compiled = openvino.Core().compile_model(path, "CPU", settings)
        self._request = compiled.create_infer_request()
        self._names = {name for port in compiled.inputs for name in port.names}
        self.version = openvino.__version__.partition("-")[0]

    def embed(self, ids: Sequence[int]) -> Vector:
        """Inputs by name; token types are 0."""
        tokens = np.array([ids], np.int64)
        every = {"input_ids": tokens, "attention_mask": np.ones_like(tokens),
                 "token_type_ids": np.zeros_like(tokens)}  # fmt: skip
        found = self._request.infer({n: a for n, a in every.items() if n in self._names})
        return pool(found[0][0], every["attention_mask"][0])


class ExecuTorch:
    """A .pte file that pools and normalizes."""

    def __init__(self, path: Path, threads: int) -> None:
        import torch
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

        _unsafe_reset_threadpool(threads)
        self._library = torch
        self._method = open_method(path)
        self.version = package_version("executorch")

    def embed(self, ids: Sequence[int]) -> Vector:
        """`forward(ids, mask)`."""
        tokens = self._library.tensor([ids])
        vector: Vector = self._method.execute([tokens, self._library.ones_like(tokens)])[0][0]
        return np.asarray(vector)


class LiteRt:
    """A .tflite file that pools and normalizes; its shapes are fixed, shorter texts are padded."""

    def __init__(self, path: Path, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self._run = interpreter.get_signature_runner()
        self._dtype = interpreter.get_input_details()[0]["dtype"]
        self.version = package_version("ai-edge-litert")

    def embed(self, ids: Sequence[int]) -> Vector:
        """Ids and mask [1, LITERT_TOKENS], of the width that the converter chose."""
        tokens = np.zeros((1, LITERT_TOKENS), self._dtype)
        mask = np.zeros_like(tokens)
        tokens[0, : len(ids)], mask[0, : len(ids)] = ids, 1
        (found,) = self._run(args_0=tokens, args_1=mask).values()
        vector: Vector = found[0]
        return vector


class LlamaCpp:
    """llama.cpp through llama-cpp-python's low-level calls, fed with ids, mean pooling."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp

        self._library = llama_cpp
        quiet(llama_cpp)
        parameters = llama_cpp.llama_model_default_params()
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = 512
        context.n_threads = context.n_threads_batch = threads
        context.embeddings = True
        self._context = llama_cpp.llama_init_from_model(model, context)
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)
        self._dimension = llama_cpp.llama_model_n_embd(model)
        self.version = llama_cpp.__version__

    def embed(self, ids: Sequence[int]) -> Vector:
        """One sequence."""
        batch = self._batch
        for at, token in enumerate(ids):
            batch.token[at], batch.pos[at], batch.n_seq_id[at] = token, at, 1
            batch.seq_id[at][0], batch.logits[at] = 0, 1
        batch.n_tokens = len(ids)
        self._library.llama_encode(self._context, batch)
        pointer = self._library.llama_get_embeddings_seq(self._context, 0)
        vector: Vector = np.ctypeslib.as_array(pointer, (self._dimension,)).copy()
        return vector / np.linalg.norm(vector)


class Torch:
    """transformers in torch, eager, float32."""

    def __init__(self, path: Path, threads: int) -> None:
        import torch
        from transformers import AutoModel

        torch.set_num_threads(threads)
        self._library = torch
        self._model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
        self.version = torch.__version__

    def embed(self, ids: Sequence[int]) -> Vector:
        """Pooled in numpy."""
        tokens = self._library.tensor([ids])
        with self._library.inference_mode():
            states = self._model(tokens, self._library.ones_like(tokens))[0][0].numpy()
        return pool(states, np.ones(len(ids), np.float32))


ENGINES = {
    "edgecompile": Bundle, "onnxruntime": OnnxRuntime, "openvino": OpenVino,
    "executorch": ExecuTorch, "litert": LiteRt, "llama.cpp": LlamaCpp, "torch": Torch,
}  # fmt: skip
