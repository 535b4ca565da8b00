"""Tasks: what each takes and gives, and the class of transformers that computes it."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Task:
    """`auto` is transformers' class, `endings` are those of class names in a config.

    `output` names the graph's output; empty where a graph has several, or the module's own.
    """

    takes: Literal["text", "picture", "arrays"]
    auto: str = ""
    output: str = ""
    endings: tuple[str, ...] = ()


TEXT_TO_TEXT = "text2text-generation"
TASKS: Mapping[str, Task] = {
    "embedding": Task("text", "AutoModel", "sentence_embedding"),
    "classification": Task(
        "text", "AutoModelForSequenceClassification", "logits", ("ForSequenceClassification",)
    ),
    "text-generation": Task(
        "text", "AutoModelForCausalLM", "logits", ("ForCausalLM", "LMHeadModel")
    ),
    TEXT_TO_TEXT: Task(
        "text", "AutoModelForSeq2SeqLM", "logits", ("T5ForConditionalGeneration",)
    ),
    "image-classification": Task(
        "picture", "AutoModelForImageClassification", "logits", ("ForImageClassification",)
    ),
    "module": Task("arrays"),
}
EVERY = tuple(TASKS)


def takes_text(task: str) -> bool:
    """Whether the task's models come with a tokenizer."""
    return TASKS[task].takes == "text"


def one_call(task: str) -> bool:
    """Whether one call of the graph answers: everything but decoders."""
    return not generates(task)


def generates(task: str) -> bool:
    """Whether the task's models give text, a token a call."""
    return task in ("text-generation", TEXT_TO_TEXT)
