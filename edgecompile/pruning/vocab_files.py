"""A tokenizer's files and a config with other ids for the same tokens."""
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecompile.pruning.vocab import Choice, Vocabulary
from edgecompile.sources.huggingface import read_json
from edgecompile.tokenizer import dumps

Table = Mapping[int, int]  # old id -> new id
# Files that say again what tokenizer.json says, in ways of other readers
STALE = ("tokenizer.model", "added_tokens.json")
LISTS = ("suppress_tokens", "begin_suppress_tokens")


def table_of(vocabulary: Vocabulary, choice: Choice) -> dict[int, int]:
    """Old id -> new id of the tokens that stay."""
    return {vocabulary.ids[token]: place for place, token in enumerate(choice.tokens)}


def document_of(vocabulary: Vocabulary, choice: Choice) -> dict[str, Any]:
    """The tokenizer.json with those tokens alone."""
    table, document = table_of(vocabulary, choice), dict(vocabulary.document)
    own = [token for token in choice.tokens if token in vocabulary.kind.ids]
    document["model"] = vocabulary.kind.smaller(own)
    document["added_tokens"] = [
        {**one, "id": table[int(one["id"])]} for one in document.get("added_tokens") or ()
    ]
    if document.get("post_processor"):
        document["post_processor"] = _processor(document["post_processor"], table)
    if isinstance(document.get("padding"), Mapping):
        padding = document["padding"]
        document["padding"] = {**padding, "pad_id": table.get(int(padding["pad_id"]), 0)}
    return document


def _processor(value: Any, table: Table) -> Any:
    """A post_processor: ids of templates, and of BERT's and RoBERTa's pairs (token, id)."""
    if isinstance(value, list):
        return [_processor(one, table) for one in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: _processor(one, table) for key, one in value.items()}
    for key in ("sep", "cls"):
        if isinstance(found.get(key), list) and len(found[key]) == 2:
            found[key] = [found[key][0], table[int(found[key][1])]]
    if isinstance(found.get("ids"), list):
        found["ids"] = [table[int(one)] for one in found["ids"]]
    return found


def named_ids(config: Mapping[str, Any]) -> set[int]:
    """Ids that a config names (pad_token_id, eos_token_id, ...)."""
    found: set[int] = set()
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= named_ids(value)
        elif _names_ids(key):
            listed = value if isinstance(value, list | tuple) else [value]
            found |= {one for one in listed if isinstance(one, int) and one >= 0}
    return found


def _names_ids(key: object) -> bool:
    return isinstance(key, str) and key.endswith(("_token_id", "_token_ids"))


def renumbered(config: Mapping[str, Any], table: Table) -> dict[str, Any]:
    """A config with the new ids; of tokens to suppress, those that are still there."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found[key] = renumbered(value, table)
        elif key in LISTS and isinstance(value, list):
            found[key] = [table[one] for one in value if one in table]
        elif key == "bad_words_ids" and isinstance(value, list):
            found[key] = [[table[i] for i in w] for w in value if all(i in table for i in w)]
        else:
            found[key] = _mapped(value, table) if _names_ids(key) else value
    return found


def _mapped(value: Any, table: Table) -> Any:
    """An id, or a list of them; what names no token (None, -1) stays."""
    if isinstance(value, list):
        return [_mapped(one, table) for one in value]
    return table.get(value, value) if isinstance(value, int) else value


def write(folder: Path, vocabulary: Vocabulary, choice: Choice) -> list[str]:
    """Change a checkpoint's tokenizer files to the new ids; returns the names of those left out."""
    table, document = table_of(vocabulary, choice), document_of(vocabulary, choice)
    text = json.dumps(document, ensure_ascii=False, indent=2)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8", newline="\n")
    _lists(folder, document["model"])
    for name in ("tokenizer_config.json", "generation_config.json"):
        if (file := folder / name).is_file():
            settings = renumbered(read_json(file), table)
            if "added_tokens_decoder" in settings:
                settings["added_tokens_decoder"] = _decoder(
                    settings["added_tokens_decoder"], table
                )
            file.write_text(dumps(settings), encoding="utf-8")
    gone = [name for name in STALE if (folder / name).is_file()]
    for name in gone:
        (folder / name).unlink()
    return gone


def _decoder(value: Mapping[str, Any], table: Table) -> dict[str, Any]:
    return {str(table[int(key)]): one for key, one in value.items() if int(key) in table}


def _lists(folder: Path, model: Mapping[str, Any]) -> None:
    """vocab.txt, vocab.json and merges.txt, where the model came with them."""
    vocab = model["vocab"]
    if (folder / "vocab.txt").is_file():
        (folder / "vocab.txt").write_text("".join(f"{one}\n" for one in vocab), encoding="utf-8")
    if (folder / "vocab.json").is_file():
        (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    if (folder / "merges.txt").is_file():
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in model["merges"])]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
