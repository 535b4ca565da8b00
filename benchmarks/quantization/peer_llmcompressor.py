"""Runs in an environment of its own: llm-compressor's GPTQ, W4A16 in groups of 32, symmetric.

python peer_llmcompressor.py MODEL OUT WINDOWS.npy
"""
from __future__ import annotations

import argparse

import numpy as np
import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from transformers import AutoModelForCausalLM


def main() -> None:
    """Quantize all linear layers but the head and save in compressed-tensors' packed layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("windows")
    options = parser.parse_args()
    windows = np.load(options.windows)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    weights = {
        "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32,
        "scale_dtype": "torch.bfloat16",  # as from a bfloat16 model; on a CPU that is too slow
    }  # fmt: skip
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    rows = {"input_ids": windows.tolist(), "attention_mask": np.ones_like(windows).tolist()}
    oneshot(
        model=model, dataset=Dataset.from_dict(rows),
        recipe=GPTQModifier(config_groups=groups, ignore=["lm_head"]),
        max_seq_length=windows.shape[1], num_calibration_samples=len(windows),
    )  # fmt: skip
    model.save_pretrained(options.out, save_compressed=True)


if __name__ == "__main__":
    main()
