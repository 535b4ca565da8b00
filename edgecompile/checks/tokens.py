"""Step 1: the bundle must give the source tokenizer's ids, and the source's chat prompts."""
# ruff: noqa: RUF001 (conversations with characters that look like others)
from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgecompile.errors import EdgecompileError
from edgecompile.metrics import tokens
from edgecompile.model import Model
from edgecompile.report import Row, exact, judged, unproven
from edgecompile.runtime.chat import ChatTemplate
from edgecompile.runtime.manifest import Manifest
from edgecompile.runtime.worker_client import Worker
from edgecompile.text.hard_strings import hard_strings
from edgecompile.text.source_tokens import SourceTokens

STEP = "tokenizer"
CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello"}],
    [{"role": "user", "content": ""}],
    [
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "¿Qué? 你好 😀"},
    ],
    [
        {"role": "user", "content": "  one\n\ttwo  "},
        {"role": "assistant", "content": "three <|im_end|> </s>"},
        {"role": "user", "content": "ｆｏｕｒ\r\n{{ five }}"},
    ],
)  # fmt: skip


def rows(
    worker: Worker, source: SourceTokens, texts: Sequence[str]
) -> Iterator[Row]:
    """Held-out text and hard strings, each with every id equal."""
    for name, strings in (("held-out text", texts), ("hard strings", hard_strings())):
        wrong = tokens.differing(source.encode(strings), worker.tokenize(strings))
        shown = f"{name}: number {', '.join(map(str, wrong[:8]))}" if wrong else name
        yield judged(STEP, tokens.measure(len(wrong), len(strings)), 0.0, shown)


def template_row(model: Model, info: Manifest, bundle: Path) -> Row:
    """Conversations through the shipped template, compared with transformers' own rendering."""
    from transformers import AutoTokenizer

    source = AutoTokenizer.from_pretrained(
        model.folder, local_files_only=True, trust_remote_code=False
    )
    shipped = info.tokenizer.template if info.tokenizer else None
    if not getattr(source, "chat_template", None):
        return exact(STEP, "chat_template_differing", ["the source has none"] if shipped else [], 0)
    if info.tokenizer is None or shipped is None:
        return unproven(STEP, "chat_template_differing", "the bundle ships no chat template")
    named = {"bos_token": info.tokenizer.bos_token, "eos_token": info.tokenizer.eos_token}
    template = ChatTemplate(
        (bundle / shipped).read_text("utf-8"), {k: v for k, v in named.items() if v}
    )
    wrong = [
        f"conversation {index}"
        for index, turns in enumerate(CONVERSATIONS)
        if _rendered(template, turns) != _expected(source, turns)
    ]
    return exact(STEP, "chat_template_differing", wrong, len(CONVERSATIONS))


def _rendered(template: ChatTemplate, turns: list[dict[str, str]]) -> str | None:
    try:
        return template.render(turns)
    except EdgecompileError:
        return None  # the template refuses: so must the source's


def _expected(source: Any, turns: list[dict[str, str]]) -> str | None:
    from jinja2 import TemplateError

    try:
        text: str = source.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError, TypeError):
        return None
    return text
