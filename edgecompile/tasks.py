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

    takes: Literal["text", "picture", "text and picture", "sound", "arrays"]
    auto: str = ""
    output: str = ""
    endings: tuple[str, ...] = ()


TEXT_TO_TEXT, SPEECH = "text2text-generation", "automatic-speech-recognition"
PICTURES, IMAGE_TEXT = "image-classification", "image-text-embedding"
TASKS: Mapping[str, Task] = {
    "embedding": Task("text", "AutoModel", "sentence_embedding"),
    "classification": Task(
        "text", "AutoModelForSequenceClassification", "logits", ("ForSequenceClassification",)
    ),
    "token-classification": Task(
        "text", "AutoModelForTokenClassification", "logits", ("ForTokenClassification",)
    ),
    "fill-mask": Task("text", "AutoModelForMaskedLM", "logits", ("ForMaskedLM",)),
    # Classifiers with a single label: sources.heads tells them from the others.
    "text-ranking": Task("text", "AutoModelForSequenceClassification", "logits"),
    "text-generation": Task(
        "text", "AutoModelForCausalLM", "logits", ("ForCausalLM", "LMHeadModel")
    ),
    TEXT_TO_TEXT: Task(
        "text", "AutoModelForSeq2SeqLM", "logits", ("T5ForConditionalGeneration",)
    ),
    SPEECH: Task(
        "sound", "AutoModelForSpeechSeq2Seq", "logits", ("WhisperForConditionalGeneration",)
    ),
    PICTURES: Task(
        "picture", "AutoModelForImageClassification", "logits", ("ForImageClassification",)
    ),
    # Vectors of texts and of pictures in one space; each has a graph and an output of its own.
    IMAGE_TEXT: Task("text and picture", "AutoModel", endings=("CLIPModel",)),
    "module": Task("arrays"),
}
EVERY = tuple(TASKS)
PER_TOKEN = ("token-classification", "fill-mask")  # a row of answers a token, not a text
LABELLED = ("classification", "token-classification", "text-ranking", PICTURES)
PAIRS = ("text-ranking",)  # their texts come in twos
HALVES = (TEXT_TO_TEXT, SPEECH)  # encoder-decoders
SEVERAL_GRAPHS = (*HALVES, IMAGE_TEXT)


def takes_text(task: str) -> bool:
    """Whether the task's models are given text."""
    return TASKS[task].takes in ("text", "text and picture")


def takes_pictures(task: str) -> bool:
    """Whether the task's models come with a way to prepare pictures."""
    return TASKS[task].takes in ("picture", "text and picture")


def has_several_graphs(task: str) -> bool:
    """Whether an engine's file, or files, hold several graphs of one store of weights."""
    return task in SEVERAL_GRAPHS


def has_tokenizer(task: str) -> bool:
    """Whether the task's models come with a tokenizer: they take text, or give it."""
    return takes_text(task) or generates(task)


def generates(task: str) -> bool:
    """Whether the task's models give text, a token a call."""
    return task in ("text-generation", *HALVES)
