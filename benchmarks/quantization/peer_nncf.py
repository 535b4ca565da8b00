"""Runs in an environment of its own: NNCF compresses, OpenVINO answers.

python peer_nncf.py compress MODEL OUT [--calibration WINDOWS.npy]
python peer_nncf.py answer MODEL.xml WINDOWS.npy THREADS > raw float32 logits
"""
from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np


def compress(options: argparse.Namespace) -> None:
    """Convert to OpenVINO without a cache, compress, save; writes note.txt beside the model."""
    import nncf
    import openvino as ov
    import torch
    from transformers import AutoModelForCausalLM

    causal = AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()

    class Logits(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            # With a mask given, transformers does not look for packed texts (aten::diff).
            seen = torch.ones_like(input_ids)
            found = causal(input_ids=input_ids, attention_mask=seen, use_cache=False)
            logits: torch.Tensor = found.logits
            return logits

    wrapper = Logits()
    wrapper.causal = causal
    example = torch.arange(64)[None]
    with torch.inference_mode():
        model = ov.convert_model(wrapper, example_input=example, input=[(1, -1)])
    named: dict[str, Any] = {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": 32,
                             "ratio": 1.0}  # fmt: skip
    if options.calibration:
        rows = np.load(options.calibration)
        named |= {"dataset": nncf.Dataset([row[None] for row in rows]), "awq": True,
                  "scale_estimation": True, "subset_size": len(rows)}  # fmt: skip
    model = nncf.compress_weights(model, **named)
    options.out.mkdir(parents=True, exist_ok=True)
    ov.save_model(model, options.out / "model.xml")
    kinds = Counter(
        f"{op.get_element_type().get_type_name()} {len(op.shape)}-d"
        for op in model.get_ops()
        if op.get_type_name() == "Constant" and len(op.shape) > 1 and np.prod(op.shape) > 100_000
    )
    note = ", ".join(f"{n} x {kind}" for kind, n in sorted(kinds.items()))
    (options.out / "note.txt").write_text(note, "utf-8")


def answer(options: argparse.Namespace) -> None:
    """Logits of each window, in the CPU plug-in with default hints, as raw float32."""
    import openvino as ov

    core = ov.Core()
    model = core.compile_model(options.model, "CPU", {"INFERENCE_NUM_THREADS": options.threads})
    for row in np.load(options.windows):
        (logits,) = model(row[None]).values()
        sys.stdout.buffer.write(np.ascontiguousarray(logits, np.float32).tobytes())
    sys.stdout.buffer.flush()


def main() -> None:
    """One of the two commands."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("compress")
    first.add_argument("model")
    first.add_argument("out", type=Path)
    first.add_argument("--calibration")
    first.set_defaults(run=compress)
    second = commands.add_parser("answer")
    second.add_argument("model")
    second.add_argument("windows")
    second.add_argument("threads", type=int)
    second.set_defaults(run=answer)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
