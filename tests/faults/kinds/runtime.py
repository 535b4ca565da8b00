"""Faults of the runtime that travels in the bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.faults.edits import runtime
from tests.faults.planting import Plant, fault
from tests.faults.twins import Clean, Twin

ENCODER = Twin("encoder", "openvino", "rtn", 8)
UNPADDED = Twin("encoder", "gguf")
CLASSIFIER = Twin("classifier", "onnxruntime")
LLAMA = Twin("decoder", "gguf", "gptq", 8)
ONNX = Twin("decoder", "onnxruntime", "gptq", 8)
OPENVINO = Twin("decoder", "openvino", "gptq", 8)


def edit(file: str, old: str, new: str) -> Plant:
    """Other source text; `MAGNITUDE` in it is replaced."""

    def plant(folder: Path, _: Clean, magnitude: float) -> None:
        runtime(folder, file, old, new.replace("MAGNITUDE", f"{magnitude:g}"))

    return plant


def planted(kind: str, twin: Twin, stage: str, change: tuple[str, str, str], **more: Any) -> None:
    """Registers an edit of a file of the runtime."""
    fault(kind, "runtime", twin, stage, **more)(edit(*change))


# Encoders

planted("mask ignored", ENCODER, "runtime", (
    "named_inputs.py", "mask[row, : len(row_ids)] = 1", "mask[row] = 1",
))  # fmt: skip
planted("padding side", ENCODER, "runtime", (
    "named_inputs.py",
    "        tokens[row, : len(row_ids)] = row_ids\n        mask[row, : len(row_ids)] = 1\n",
    "        tokens[row, length - len(row_ids) :] = row_ids\n"
    "        mask[row, length - len(row_ids) :] = 1\n",
))  # fmt: skip
planted("last token dropped", ENCODER, "runtime", (
    "batching.py", "    return engine.encode([ids[row] for row in rows], chosen)",
    "    return engine.encode([ids[row][:-1] for row in rows], chosen)",
), slow=True)  # fmt: skip
planted("neighbours of a batch leak", ENCODER, "runtime", (
    "batching.py", "        result[rows] = values\n",
    "        result[rows] = values + MAGNITUDE * np.roll(values, 1, 0)\n",
), ladder=(1, 0.3, 0.1, 0.03, 0.01), at=0.3, unit="of the neighbour")  # fmt: skip
planted("rows of a batch in another order", ENCODER, "runtime", (
    "batching.py", "        result[rows] = values\n", "        result[sorted(rows)] = values\n",
), slow=True)  # fmt: skip
planted("one text is not as a batch", ENCODER, "runtime", (
    "batching.py", "    return engine.encode([ids[row] for row in rows], chosen)",
    "    if len(rows) == 1 and len(ids) == 1:\n        return engine.encode([ids[0][:-1]], None)\n"
    "    return engine.encode([ids[row] for row in rows], chosen)",
))  # fmt: skip
planted("another thread count", ENCODER, "runtime", (
    "session.py", "        vectors = encode_all(engine, ids, pooling.dimension)\n",
    "        vectors = encode_all(engine, ids, pooling.dimension)\n"
    "        vectors[:, :8] *= 1.0 if self.threads == 2 else 1.5\n",
))  # fmt: skip
planted("normalization", UNPADDED, "runtime", (
    "session.py", "        if pooling.normalize if normalize is None else normalize:\n",
    "        if normalize:\n",
))  # fmt: skip
planted("truncation", UNPADDED, "tokenizer", (
    "tokens.py", "self._tokenizer.enable_truncation(max_length)", "pass",
))  # fmt: skip
planted("temperature", CLASSIFIER, "runtime", (
    "batching.py", "weights = np.exp(scores - scores.max(axis=1, keepdims=True))",
    "weights = np.exp((scores - scores.max(axis=1, keepdims=True)) / MAGNITUDE)",
), ladder=(10, 3), at=10, unit="times")  # fmt: skip

# Decoders: many tokens at once, as the check asks

planted("KV position off by one", OPENVINO, "runtime", (
    "openvino_decoder.py", "np.arange(self._length, total, dtype=np.int64)",
    "np.arange(self._length + (self._length > 0), total + (self._length > 0), dtype=np.int64)",
))  # fmt: skip
planted("cache rows swapped", ONNX, "runtime", (
    "onnxruntime_decoder.py", "        self._length = total\n",
    "        self._length = total\n        for cache in self._caches[::2]:\n"
    "            cache[:, :, [total - 2, total - 1]] = cache[:, :, [total - 1, total - 2]]\n",
), slow=True)  # fmt: skip
planted("stale cache", ONNX, "runtime", (
    "onnxruntime_decoder.py",
    '        """Forget the past; the buffers stay, but for one grown beyond the first size."""\n'
    "        self._length = 0\n",
    "        self._length = min(self._length, MAGNITUDE)\n",
), ladder=(32, 8, 2, 1), at=1, unit="tokens of the last request")  # fmt: skip
planted("KV cache in fewer bits", ONNX, "runtime", (
    "onnxruntime_decoder.py", "        self._length = total\n",
    "        self._length = total\n        for cache in self._caches:\n"
    "            part = cache[:, :, :total]\n"
    "            step = np.abs(part).max() / 2 ** (MAGNITUDE - 1)\n"
    "            part[:] = np.rint(part / step) * step\n",
), ladder=(1, 2, 3, 4, 5, 6), at=4, unit="bits", slow=True)  # fmt: skip

# Decoders: one token after the other, as an application asks

planted("KV position off by one in single steps", OPENVINO, "runtime", (
    "openvino_decoder.py", "np.arange(self._length, total, dtype=np.int64)",
    "np.arange(self._length + (count == 1), total + (count == 1), dtype=np.int64)",
))  # fmt: skip
planted("stale cache in single steps", ONNX, "runtime", (
    "onnxruntime_decoder.py", "        self._token[0, 0] = token\n",
    "        self._token[0, 0] = token\n        for cache in self._caches:\n"
    "            cache[:, :, self._length - 1] = 0\n",
), slow=True)  # fmt: skip
planted("row of a prompt", ONNX, "runtime", (
    "onnxruntime_decoder.py", "            logits = self._prompt(part, min(rows, len(part)))\n",
    "            logits = self._prompt(part, min(rows + 1, len(part)))[:1]\n",
))  # fmt: skip
planted("sampler", LLAMA, "runtime", (
    "sampling.py", "        token = int(logits.argmax())\n",
    "        token = int(logits.argsort()[-2])\n",
))  # fmt: skip
planted("temperature", LLAMA, "runtime", (
    "sampling.py", "np.float32(options.temperature)", "np.float32(1.7 * options.temperature)",
), slow=True)  # fmt: skip
planted("streamed text", LLAMA, "runtime", (
    "generating.py", "if piece := stops.push(text.push(token)):",
    "if piece := stops.push(text.push(token)).strip():",
), slow=True)  # fmt: skip
