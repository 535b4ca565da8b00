"""Decoders as each engine's user would run them: greedy, batch 1, one class an engine.

Used by worker.py in the process of one row, which may be of a peer's own environment: nothing is
imported here but the standard library and numpy, engines where they are opened. `generate` calls
`emit` as soon as a token is known; stop tokens do not end it.
"""
from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]  # [tokens, vocabulary]
Emit = Callable[[], None]
CONTEXT = 512  # tokens, where an engine reserves a cache when it opens a file


class Bundle:
    """A bundle of ours through the runtime that was copied into it."""

    def __init__(self, path: Path, threads: int) -> None:
        self._session = open_bundle(path, threads)
        self.version = self._session.engine_version

    def generate(self, ids: Sequence[int], prompt: str, count: int, emit: Emit) -> None:
        """Through Session.generate_ids."""
        for _ in self._session.generate_ids(ids, count):
            emit()

    def logits(self, ids: Sequence[int]) -> Logits:
        """Of every token."""
        return np.concatenate([part.copy() for part in self._session.logits(ids)])


class Genai:
    """onnxruntime-genai's Generator; logits of all tokens from plain onnxruntime."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime_genai as og

        self._library, self._path, self._threads = og, path, threads
        config = og.Config(str(path))
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self._model = og.Model(config)
        self.version = og.__version__

    def generate(self, ids: Sequence[int], prompt: str, count: int, emit: Emit) -> None:
        """Its own loop; a minimal length keeps it from stopping."""
        parameters = self._library.GeneratorParams(self._model)
        length = len(ids) + count
        parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
        generator = self._library.Generator(self._model, parameters)
        generator.append_tokens(list(ids))
        for _ in range(count):
            generator.generate_next_token()
            emit()

    def logits(self, ids: Sequence[int]) -> Logits:
        """genai computes the last ones only."""
        return OnnxRuntime(self._path, self._threads).logits(ids)


class OnnxRuntime:
    """A graph of genai's builder in plain onnxruntime, a cache of fixed length bound in place."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime as ort

        config = json.loads((path / "genai_config.json").read_text("utf-8"))["model"]["decoder"]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(
            path / config["filename"], options, providers=["CPUExecutionProvider"]
        )
        self._library = ort
        self._layers = int(config["num_hidden_layers"])
        self._heads, self._size = int(config["num_key_value_heads"]), int(config["head_size"])
        self._cache: list[Any] = []
        self.version = ort.__version__

    def generate(self, ids: Sequence[int], prompt: str, count: int, emit: Emit) -> None:
        """One binding a step: logits go to the engine's own memory, the cache stays in place."""
        self._cache = self._cache or [self._empty(CONTEXT) for _ in range(2 * self._layers)]
        fed, past = list(ids), 0
        for _ in range(count):
            binding = self._session.io_binding()
            self._bind(binding, fed, past)
            self._session.run_with_iobinding(binding)
            past += len(fed)
            fed = [int(binding.get_outputs()[0].numpy()[0, -1].argmax())]
            emit()

    def logits(self, ids: Sequence[int]) -> Logits:
        """With an empty past."""
        empty = np.zeros((1, self._heads, 0, self._size), np.float32)
        feeds: dict[str, Any] = dict.fromkeys(self._names("past_key_values"), empty)
        feeds |= self._tokens(ids, 0)
        (found,) = self._session.run(["logits"], feeds)
        return np.asarray(found[0], np.float32)

    def _bind(self, binding: Any, fed: Sequence[int], past: int) -> None:
        binding.bind_output("logits", "cpu")
        for name, array in self._tokens(fed, past).items():
            binding.bind_cpu_input(name, array)
        for kind in ("past_key_values", "present"):
            bind = binding.bind_output if kind == "present" else binding.bind_input
            for name, value in zip(self._names(kind), self._cache, strict=True):
                bind(name, "cpu", 0, np.float32, value.shape(), value.data_ptr())

    def _tokens(self, fed: Sequence[int], past: int) -> dict[str, NDArray[np.int64]]:
        end = past + len(fed)
        every = {
            "input_ids": np.array([fed], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(past, end, dtype=np.int64)[None],
        }
        named = {port.name for port in self._session.get_inputs()}
        return {name: array for name, array in every.items() if name in named}

    def _names(self, kind: str) -> list[str]:
        return [f"{kind}.{at}.{part}" for at in range(self._layers) for part in ("key", "value")]

    def _empty(self, length: int) -> Any:
        shape = (1, self._heads, length, self._size)
        return self._library.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.float32))


class LlamaCpp:
    """llama.cpp through llama-cpp-python's low-level calls, with its own greedy sampler."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp

        self._library, self._path, self._threads = llama_cpp, path, threads
        quiet(llama_cpp)
        parameters = llama_cpp.llama_model_default_params()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = CONTEXT
        context.n_threads = context.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, context)
        self._sampler = llama_cpp.llama_sampler_init_greedy()
        self.version = llama_cpp.__version__

    def generate(self, ids: Sequence[int], prompt: str, count: int, emit: Emit) -> None:
        """As in llama.cpp's examples/simple."""
        library = self._library
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        fed = (ctypes.c_int32 * len(ids))(*ids)
        for _ in range(count):
            library.llama_decode(self._context, library.llama_batch_get_one(fed, len(fed)))
            token = library.llama_sampler_sample(self._sampler, self._context, -1)
            fed = (ctypes.c_int32 * 1)(token)
            emit()

    def logits(self, ids: Sequence[int]) -> Logits:
        """From the package's Llama, which keeps those of every token when asked to."""
        if self._context:
            self._library.llama_free(self._context)
            self._context = None
            self._every = self._library.Llama(
                str(self._path), n_ctx=CONTEXT, n_batch=CONTEXT, n_ubatch=CONTEXT,
                n_threads=self._threads, n_threads_batch=self._threads, logits_all=True,
                verbose=False,
            )  # fmt: skip
        self._every.reset()
        self._every.eval(list(ids))
        return np.array(self._every.scores[: len(ids)], np.float32)


class ExecuTorch:
    """ExecuTorch's TextLLMRunner; logits of all tokens by feeding them one by one."""

    def __init__(self, path: Path, threads: int) -> None:
        import executorch.kernels.quantized  # noqa: F401
        from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401
        from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

        _unsafe_reset_threadpool(threads)
        self._path, self._config = path, GenerationConfig
        self._method: Any = None
        self._runner = TextLLMRunner(str(path), str(path.with_name("tokenizer.json")))
        self.generate([], "a", 1, lambda: None)  # it opens the file at the first call
        self.version = package_version("executorch")

    def generate(self, ids: Sequence[int], prompt: str, count: int, emit: Emit) -> None:
        """It takes text, so its tokenizer's time counts (well under a millisecond)."""
        self._runner.reset()
        config = self._config(echo=False, max_new_tokens=count, temperature=0.0)
        self._runner.generate(prompt, config, lambda _: emit())

    def logits(self, ids: Sequence[int]) -> Logits:
        """The file was exported to give the last ones only."""
        import torch

        self._method = self._method or open_method(self._path)
        rows = [
            self._method.execute([torch.tensor([[token]]), torch.tensor([at])])[0].reshape(-1)
            for at, token in enumerate(ids)
        ]
        return torch.stack(rows).float().numpy()


class OpenVino:
    """OpenVINO GenAI's LLMPipeline; logits of all tokens from the same file in OpenVINO."""

    def __init__(self, path: Path, threads: int) -> None:
        import openvino_genai

        self._library, self._path, self._threads = openvino_genai, path, threads
        self._pipeline = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads)
        self._request: Any = None
        self.version = openvino_genai.__version__

    def generate(self, ids: Sequence[int], prompt: str, count: int, emit: Emit) -> None:
        """A streamer of tokens, not of text."""
        import openvino

        running = self._library.StreamingStatus.RUNNING

        class Streamer(self._library.StreamerBase):  # type: ignore[misc,name-defined]
            def write(self, token: Any) -> Any:
                for _ in token if isinstance(token, list) else [token]:
                    emit()
                return running

            def end(self) -> None:
                pass

        config = self._library.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = count, True, False
        tokens = openvino.Tensor(np.array([ids], np.int64))
        self._pipeline.generate(tokens, config, Streamer())

    def logits(self, ids: Sequence[int]) -> Logits:
        """With an empty past."""
        if self._request is None:
            import openvino

            settings = {"INFERENCE_NUM_THREADS": self._threads}
            file = self._path / "openvino_model.xml"
            self._request = openvino.Core().compile_model(file, "CPU", settings)
            self._request = self._request.create_infer_request()
        self._request.reset_state()
        count = len(ids)
        feeds = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, count), np.int64),
            "position_ids": np.arange(count, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        return np.array(self._request.infer(feeds)["logits"][0], np.float32)


class Torch:
    """transformers in torch, eager, float32, its own cache."""

    def __init__(self, path: Path, threads: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        kind: Any = AutoModelForCausalLM
        torch.set_num_threads(threads)
        self._library = torch
        self._model = kind.from_pretrained(path, dtype=torch.float32).eval()
        self.version = torch.__version__

    def generate(self, ids: Sequence[int], prompt: str, count: int, emit: Emit) -> None:
        """Logits of the last token only, greedy."""
        fed, past = self._library.tensor([ids]), None
        with self._library.inference_mode():
            for _ in range(count):
                found = self._model(
                    input_ids=fed, past_key_values=past, use_cache=True, logits_to_keep=1
                )
                past, fed = found.past_key_values, found.logits[:, -1].argmax(-1, keepdim=True)
                int(fed)
                emit()

    def logits(self, ids: Sequence[int]) -> Logits:
        """With an empty past."""
        with self._library.inference_mode():
            found = self._model(input_ids=self._library.tensor([ids]), use_cache=False)
        logits: Logits = found.logits[0].numpy()
        return logits


ENGINES = {
    "edgecompile": Bundle, "onnxruntime-genai": Genai, "onnxruntime": OnnxRuntime,
    "llama.cpp": LlamaCpp, "executorch": ExecuTorch, "openvino": OpenVino, "torch": Torch,
}  # fmt: skip


def open_bundle(path: Path, threads: int) -> Any:
    """A session of the bundle's own runtime."""
    sys.path.insert(0, str(path / "runtime"))
    from edgecompile_runtime import load

    return load(path, "always", threads)


def open_method(path: Path) -> Any:
    """`forward` of a .pte file."""
    from executorch.runtime import Runtime

    return Runtime.get().load_program(path).load_method("forward")


def quiet(library: Any) -> None:
    """Keep llama.cpp from logging; the callback lives as long as the library."""
    library._silence = library.llama_log_callback(lambda *_: None)
    library.llama_log_set(library._silence, ctypes.c_void_p())
    library.llama_backend_init()


def package_version(name: str) -> str:
    """Of an installed distribution."""
    from importlib import metadata

    return metadata.version(name)
