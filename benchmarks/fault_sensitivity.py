"""How large a wrong scale must be before the check's statistics alone (without step 0) see it.

    python benchmarks/fault_sensitivity.py MODEL [--groups 6] [--tokens 1024]

One group's (or one whole tensor's) scales are multiplied by a factor; the smallest factor at which
the statistics of the export step break their limit is bisected. The engine is stood for by
torch on the changed codes plus the divergence that the engine itself adds (--noise, measured by the
check as export_kl_mean or 1 - export_cosine_min).
"""
from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from edgecompile import host, sources
from edgecompile.build import run_passes
from edgecompile.checks.limits import EXPORT
from edgecompile.model import Model
from edgecompile.numerics.schemes import Float32, QuantizedTensor, representable_scale
from edgecompile.plan import Request, plan
from edgecompile.reference import Reference
from edgecompile.text import default_corpus
from edgecompile.tokenizer import tokenizer_json

LARGEST = 4096.0
Loss = Callable[[Mapping[str, QuantizedTensor]], float]


def quiet(_what: str, _done: int, _total: int) -> None:
    """No progress."""


def load(name: str) -> Model:
    """The model with the codes that its recipe chooses."""
    from pathlib import Path

    found = plan(Request(name, ("null",), Path("none")))
    model = sources.load(found.source, quiet)
    return run_passes(found, found.targets[0], model, quiet)


def token_windows(model: Model, tokens: int) -> list[list[int]]:
    """Held-out text as token ids: whole texts (embedding), windows of 256 (generation)."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json(model.folder))
    tokenizer.no_padding()
    texts = [document.text for document in default_corpus().held_out]
    if model.task == "embedding":
        return [tokenizer.encode(text).ids[:128] for text in texts[: tokens // 64]]
    ids = [token for text in texts[:200] for token in tokenizer.encode(text).ids][:tokens]
    return [ids[start : start + 256] for start in range(0, len(ids), 256)]


def loss_of(model: Model, tokens: int) -> Loss:
    """Changed codes -> mean KL, or 1 - least cosine, against the true codes."""
    reference, windows = Reference(model), token_windows(model, tokens)

    def outputs(codes: Mapping[str, QuantizedTensor]) -> list[Float32]:
        with reference.quantized(codes):
            if model.task == "embedding":
                return [reference.embed(windows)]
            return [log_softmax(reference.logits(window)) for window in windows]

    true = outputs(model.quantized)

    def loss(codes: Mapping[str, QuantizedTensor]) -> float:
        found = outputs(codes)
        if model.task == "embedding":
            return 1 - float((true[0] * found[0]).sum(axis=1).min())
        rows = [(np.exp(t) * (t - f)).sum(axis=1) for t, f in zip(true, found, strict=True)]
        return float(np.concatenate(rows).mean())

    return loss


def log_softmax(logits: Float32) -> Float32:
    """float32 [tokens, vocab]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Float32 = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def smallest_factor(
    model: Model, name: str, group: tuple[int, int] | None, limit: float, loss: Loss
) -> float:
    """Bisect the factor on a log scale; infinity if even LARGEST is not seen."""

    def seen(factor: float) -> bool:
        tensor = model.quantized[name]
        scales = tensor.scales.copy()
        place = group if group else (slice(None), slice(None))
        scales[place] = representable_scale(np.float32(scales[place] * factor))
        changed = dataclasses.replace(tensor, scales=scales)
        value = loss({**model.quantized, name: changed})
        return not value <= limit  # NaN is seen

    if not seen(LARGEST):
        return float("inf")
    low, high = 1.0, LARGEST
    while high / low > 1.06:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if seen(middle) else (middle, high)
    return high


def main() -> None:
    """Print the factor for random groups and for whole tensors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--groups", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--noise", type=float, default=0.0)
    options = parser.parse_args()
    model = load(options.model)
    embedding = model.task == "embedding"
    metric = "export_cosine_min" if embedding else "export_kl_mean"
    bound = EXPORT[metric][0][1]
    limit = (1 - bound if embedding else bound) - options.noise
    loss = loss_of(model, options.tokens)
    print(f"{host.cpu_name()}; {options.model}, {metric}, limit on the change {limit:.5f}")
    random = np.random.default_rng(0)
    names = sorted(name for name in model.quantized if "embed" not in name)
    for name in random.choice(names, options.groups, replace=False):
        shape = model.quantized[name].scales.shape
        group = (int(random.integers(shape[0])), int(random.integers(shape[1])))
        one, whole = (smallest_factor(model, name, g, limit, loss) for g in (group, None))
        print(f"{name}: one scale x {one:.2f}, all its scales x {whole:.3f}", flush=True)


if __name__ == "__main__":
    main()
