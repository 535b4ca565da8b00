"""Step 1: the bundle must give the source tokenizer's ids, and the source's chat prompts."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from edgecompile.errors import UsageError
from edgecompile.metrics import Measurement, tokens
from edgecompile.model import Model
from edgecompile.report import Row, exact, judged, unproven
from edgecompile.runtime.manifest import Manifest
from edgecompile.runtime.worker_client import Worker
from edgecompile.text.conversations import cases
from edgecompile.text.hard_strings import hard_strings
from edgecompile.text.source_tokens import FolderTokens, SourceTokens

STEP = "tokenizer"
TEMPLATE = "chat_template_differing"


def rows(
    worker: Worker, source: SourceTokens, texts: Sequence[str]
) -> Iterator[Row]:
    """Held-out text and hard strings, each with every id equal."""
    for name, strings in (("held-out text", texts), ("hard strings", hard_strings())):
        wrong = tokens.differing(source.encode(strings), worker.tokenize(strings))
        shown = f"{name}: number {', '.join(map(str, wrong[:8]))}" if wrong else name
        yield judged(STEP, tokens.measure(len(wrong), len(strings)), 0.0, shown)


def engine_row(info: Manifest, bundle: Path, source: Path, texts: Sequence[str]) -> Row:
    """llama.cpp's own tokenizer in the GGUF file, for those who use the file alone: measured."""
    from edgecompile.backends import gguf_stock

    wrong, compared = gguf_stock.differing(bundle / info.engine.file, source, texts)
    found = Measurement("engine_tokenizer_differences", float(wrong), "texts", "lower", compared)
    return judged(STEP, found, None, "llama.cpp's own; the bundle ships and uses the source's")


def special_row(info: Manifest, bundle: Path, model: Model) -> Row:
    """The GGUF file's ids of special tokens, which llama.cpp's own tools stop at."""
    from edgecompile.backends.gguf_tokens import tokenizer_metadata
    from edgecompile.sources.gguf_file import read_gguf

    found = read_gguf(bundle / info.engine.file).metadata
    rows_ = len(cast("Sequence[Any]", found["tokenizer.ggml.tokens"]))
    right = tokenizer_metadata(model.folder, rows_)
    keys = [key for key in sorted(found.keys() | right.keys())
            if key.startswith("tokenizer.") and key.endswith("_token_id")]  # fmt: skip
    wrong = [f"{key} ({found.get(key)}, not {right.get(key)})" for key in keys
             if found.get(key) != right.get(key)]  # fmt: skip
    return exact(STEP, "gguf_special_differing", wrong, len(keys))


def template_rows(
    worker: Worker, source: FolderTokens, info: Manifest, bundle: Path
) -> Iterator[Row]:
    """Conversations through the bundle's own runtime, compared with transformers' rendering.

    A GGUF file has a copy of the template, for llama.cpp's own tools: it must be the same.
    """
    shipped = info.tokenizer.template if info.tokenizer else None
    if not source.has_template:
        yield exact(STEP, TEMPLATE, ["the source has none"] if shipped else [], 0)
        return
    if shipped is None:
        yield unproven(STEP, TEMPLATE, "the bundle ships no chat template")
        return
    asked = cases()
    try:
        found = worker.render([case for _, case in asked])
    except UsageError:  # sealed before that request was known
        yield unproven(STEP, TEMPLATE, "the bundle's runtime is older and cannot say: build again")
        return
    wrong = [
        f"conversation {index} ({name}): {what}"
        for index, ((name, case), ours) in enumerate(zip(asked, found, strict=True))
        if (what := _difference(ours, source.render(case)))
    ]
    yield exact(STEP, TEMPLATE, wrong, len(asked))
    if info.engine.name == "llama_cpp":
        yield exact(STEP, "gguf_template_differing", _embedded(info, bundle), 1)


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """`text`, `ids`, or who refuses; empty where both give the same or refuse in the same words."""
    if "refused" in found and "refused" in expected:
        return "" if found["refused"] == expected["refused"] else "other words of refusal"
    if "refused" in found or "refused" in expected:
        return "the bundle refuses it" if "refused" in found else "the source refuses it"
    return next((what for what in ("text", "ids") if found[what] != expected[what]), "")


def _embedded(info: Manifest, bundle: Path) -> list[str]:
    """Keys of the engine's file whose template is not the one in tokenizer/."""
    from edgecompile.sources.gguf_file import read_gguf

    assert info.tokenizer is not None
    metadata = read_gguf(bundle / info.engine.file).metadata
    files = {"tokenizer.chat_template": info.tokenizer.template,
             "tokenizer.chat_template.tool_use": info.tokenizer.tool_template}  # fmt: skip
    texts = {key: (bundle / file).read_bytes().decode() if file else None
             for key, file in files.items()}  # fmt: skip
    return [key for key, text in texts.items() if metadata.get(key) != text]
