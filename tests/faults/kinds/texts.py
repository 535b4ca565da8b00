"""Faults of tokenizer files, templates and what the manifest says of text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.edits import manifest, table
from tests.faults.planting import Plant, fault
from tests.faults.twins import Clean, Twin

ENCODER = Twin("encoder", "gguf")
DECODER = Twin("decoder", "gguf", "gptq", 8)
CLASSIFIER = Twin("classifier", "onnxruntime")
Table = dict[str, Any]


def tokenizer(change: Callable[[Table, float], None]) -> Plant:
    """A change of tokenizer.json."""

    def plant(folder: Path, _: Clean, magnitude: float) -> None:
        with table(folder / "tokenizer" / "tokenizer.json") as found:
            change(found, magnitude)

    return plant


def stated(change: Callable[[Table, float], None]) -> Plant:
    """A change of the manifest."""

    def plant(folder: Path, _: Clean, magnitude: float) -> None:
        with manifest(folder) as found:
            change(found, magnitude)

    return plant


@fault("lower-casing off", "tokenizer", ENCODER, "tokenizer")
@tokenizer
def cased(found: Table, _: float) -> None:
    """Capitals are unknown to an uncased vocabulary."""
    found["normalizer"]["lowercase"] = False


@fault("special tokens missing", "tokenizer", ENCODER, "tokenizer", slow=True)
@tokenizer
def no_special(found: Table, _: float) -> None:
    """Nothing is put before and after a text."""
    found["post_processor"] = None


@fault("another unknown token", "tokenizer", ENCODER, "tokenizer", slow=True)
@tokenizer
def unknown(found: Table, _: float) -> None:
    """Words that are not in the vocabulary become padding."""
    found["model"]["unk_token"] = "[PAD]"


@fault("tokenizer version", "tokenizer", DECODER, "tokenizer",
       ladder=(32, 8, 2, 1), at=1, unit="merges fewer")  # fmt: skip
@tokenizer
def older(found: Table, magnitude: float) -> None:
    """The last merges of a vocabulary are not known yet."""
    del found["model"]["merges"][-int(magnitude) :]


@fault("chat template", "template", DECODER, "tokenizer")
def template(folder: Path, _: Clean, __: float) -> None:
    """A space is missing after the role."""
    file = folder / "tokenizer" / "chat_template.jinja"
    file.write_text(file.read_text("utf-8").replace("}}: {{", "}}:{{"), encoding="utf-8")


@fault("text of ids", "tokenizer", DECODER, "runtime")  # fmt: skip
@tokenizer
def no_decoder(found: Table, _: float) -> None:
    """Ids are right, the text that is made of them is not."""
    found["decoder"] = None


@fault("truncated text", "tokenizer", ENCODER, "sealed", ladder=(8, 16, 64), at=8,
       unit="tokens")  # fmt: skip
@stated
def max_length(found: Table, magnitude: float) -> None:
    """The bundle cuts texts earlier than the source does."""
    found["tokenizer"]["max_length"] = int(magnitude)


@fault("truncated context", "runtime", DECODER, "sealed",
       ladder=(64, 128), at=64, unit="tokens")  # fmt: skip
@stated
def context(found: Table, magnitude: float) -> None:
    """A decoder forgets what went before."""
    found["generation"]["context_length"] = int(magnitude)


@fault("stop tokens missing", "runtime", DECODER, "sealed")
@stated
def no_stop(found: Table, _: float) -> None:
    """Answers never end."""
    found["generation"]["stop_token_ids"] = []


@fault("recommended temperature", "runtime", DECODER, "sealed", slow=True)
@stated
def temperature(found: Table, _: float) -> None:
    """The sampling that the bundle recommends is not the source's."""
    found["generation"]["defaults"] = {"temperature": 1.7, "do_sample": True}


@fault("label order", "runtime", CLASSIFIER, "sealed")
@stated
def labels(found: Table, _: float) -> None:
    """Two classes have each other's names."""
    names = found["model"]["labels"]
    names[0], names[1] = names[1], names[0]
