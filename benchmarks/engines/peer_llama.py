"""llama.cpp's quantizer: a float32 GGUF file, then llama_model_quantize with one ftype.

python peer_llama.py MODEL WORK OUT Q4_K_M --task TASK --threads N

The float32 file stands in for convert_hf_to_gguf.py, which no package ships, and is written anew
each time: its seconds are part of the tool's.
"""
from __future__ import annotations

import argparse
from pathlib import Path

from edgecompile import sources
from edgecompile.backends.gguf import Gguf
from edgecompile.backends.gguf_types import Wanted, quantize


def main() -> None:
    """Convert, quantize."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("type")
    parser.add_argument("--task", required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    model = sources.load(sources.resolve(options.model), lambda *_: None)
    options.work.mkdir(parents=True, exist_ok=True)
    Gguf("f32").export(model, options.work, lambda *_: None)
    float_file = options.work / "model.gguf"
    quantize(float_file, options.out / "model.gguf", Wanted(options.type, {}, {}), options.threads)
    float_file.unlink()


if __name__ == "__main__":
    main()
