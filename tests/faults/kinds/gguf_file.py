"""Faults of a GGUF file: its metadata and its tensors' bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.faults.edits import Array, gguf_number, gguf_tensor
from tests.faults.planting import fault
from tests.faults.twins import Clean, Twin, unseen_token

ENCODER = Twin("encoder", "gguf")
DECODER = Twin("decoder", "gguf", "gptq", 8)
FOUR = Twin("decoder", "gguf", "gptq", 4)
CLS = 2


@fault("pooling", "gguf", ENCODER, "graph")
def pooling(folder: Path, _: Clean, __: float) -> None:
    """The first token's vector stands for the text, not the mean of all."""
    gguf_number(folder, "bert.pooling_type", lambda _: CLS)


@fault("rope base", "gguf", DECODER, "sealed",
       ladder=(1.0, 0.1, 0.01, 1e-4, 1e-5), at=1e-5, unit="relative")  # fmt: skip
def rope_base(folder: Path, _: Clean, magnitude: float) -> None:
    """The metadata names another base."""
    gguf_number(folder, "llama.rope.freq_base", lambda base: base * (1 + magnitude))


@fault("norm's epsilon", "gguf", DECODER, "sealed", slow=True,
       ladder=(10, 1, 0.1, 1e-3, 1e-5), at=1e-5, unit="relative")  # fmt: skip
def epsilon(folder: Path, _: Clean, magnitude: float) -> None:
    """The metadata names another epsilon."""
    key = "llama.attention.layer_norm_rms_epsilon"
    gguf_number(folder, key, lambda value: value * (1 + magnitude))


@fault("stop token of the file", "gguf", DECODER, "tokenizer", unseen=True)  # fmt: skip
def stop_token(folder: Path, _: Clean, __: float) -> None:
    """llama.cpp's own tools would not stop."""
    gguf_number(folder, "tokenizer.ggml.eos_token_id", lambda _: 7)


@fault("scale of one block", "gguf", FOUR, "sealed", slow=True,
       ladder=(256, 64, 16, 8, 4, 2), at=64, unit="times")  # fmt: skip
def one_block(folder: Path, _: Clean, magnitude: float) -> None:
    """The float16 scale of one Q4_0 block."""

    def change(rows: Array) -> None:
        scale = rows[3, :2].copy().view(np.float16) * np.float16(magnitude)
        rows[3, :2] = scale.view(np.uint8)

    gguf_tensor(folder, "blk.1.attn_output.weight", change)


@fault("NaN in a rare token's row", "gguf", ENCODER, "sealed")  # fmt: skip
def rare_row(folder: Path, clean: Clean, _: float) -> None:
    """A token that no text of the check has."""

    def change(rows: Array) -> None:
        rows[unseen_token(clean)] = np.nan

    gguf_tensor(folder, "token_embd.weight", change)
