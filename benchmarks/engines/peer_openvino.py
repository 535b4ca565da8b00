"""Runs in an environment of its own: optimum-intel's export for OpenVINO.

python peer_openvino.py MODEL OUT float32|int4|int8|w8a8 --task TASK --calibration TEXT
"""
from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

TASKS = {"embedding": "feature-extraction", "text-generation": "text-generation-with-past"}
WEIGHTS = {
    "float32": ("--weight-format", "fp32"),
    "int8": ("--weight-format", "int8"),
    # The guide's options for small models whose widths do not divide by 128.
    "int4": ("--weight-format", "int4", "--sym", "--group-size", "32", "--ratio", "1.0"),
}
TEXTS = 128  # of calibration


def main() -> None:
    """`optimum-cli export openvino`, or static 8-bit activations by OVQuantizer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("precision", choices=(*WEIGHTS, "w8a8"))
    parser.add_argument("--task", required=True, choices=tuple(TASKS))
    parser.add_argument("--calibration", type=Path, required=True)
    options = parser.parse_args()
    if options.precision == "w8a8":
        _static(options)
        return
    command = [
        str(Path(sys.executable).parent / "optimum-cli"), "export", "openvino", "--model",
        str(options.model), "--task", TASKS[options.task], *WEIGHTS[options.precision],
        str(options.out),
    ]  # fmt: skip
    subprocess.run(command, check=True)


def _static(options: argparse.Namespace) -> None:
    """W8A8 of an encoder, ranges from calibration text."""
    from datasets import Dataset
    from optimum.intel import (
        OVConfig,
        OVModelForFeatureExtraction,
        OVQuantizationConfig,
        OVQuantizer,
    )
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    paragraphs = options.calibration.read_text("utf-8").split("\n\n")
    texts = [part for part in paragraphs if part.strip()]
    chosen = texts[:: max(1, len(texts) // TEXTS)][:TEXTS]
    encoded = tokenizer(chosen, truncation=True, max_length=64, padding="max_length")
    model = OVModelForFeatureExtraction.from_pretrained(options.model, export=True)
    rows = {name: encoded[name] for name in model.input_names if name in encoded}
    config = OVConfig(quantization_config=OVQuantizationConfig(num_samples=TEXTS))
    OVQuantizer.from_pretrained(model).quantize(
        ov_config=config, calibration_dataset=Dataset.from_dict(rows), save_directory=options.out
    )


if __name__ == "__main__":
    main()
