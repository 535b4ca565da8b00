"""GGUF's tokenizer keys from a Hugging Face tokenizer.json: byte-level BPE and BERT's WordPiece."""
from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer

from edgecompile.backends import gguf_spm
from edgecompile.backends.gguf_layout import Value
from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.sources.gguf_pre import PRE_TOKENIZERS, normalizers, pre_name
from edgecompile.tokenizer import chat_templates

_KEY = "tokenizer.ggml."
TEMPLATE = "tokenizer.chat_template"
_ROLES = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # as GGUF spells it
    "pad_token": "padding_token_id",
    "cls_token": "cls_token_id",
    "mask_token": "mask_token_id",
}


@dataclass(frozen=True)
class TokenizerFolder:
    """The tokenizer files of a Hugging Face folder."""

    folder: Path

    def json(self, name: str) -> dict[str, Any]:
        """A parsed file of the folder, empty if it is not there."""
        file = self.folder / name
        if not file.is_file():
            return {}
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInputError(str(file), f"not JSON: {error}") from error
        return document if isinstance(document, dict) else {}

    @property
    def tokenizer(self) -> dict[str, Any]:
        """tokenizer.json, which must be there."""
        document = self.json("tokenizer.json")
        if not document:
            way_out = "save it with transformers: AutoTokenizer(...).save_pretrained(FOLDER)"
            raise BadInputError(str(self.folder), "no tokenizer.json", "a fast tokenizer", way_out)
        return document

    @property
    def special(self) -> dict[str, str]:
        """bos_token, eos_token, ... -> text."""
        entries = self.json("special_tokens_map.json") | self.json("tokenizer_config.json")
        texts = {role: _text(entries.get(role)) for role in _ROLES}
        return {role: text for role, text in texts.items() if text}


def refusal(folder: Path) -> str:
    """Why llama.cpp has no tokenizer like this one; empty if it has."""
    document = TokenizerFolder(folder).tokenizer
    kind = document.get("model", {}).get("type")
    steps = normalizers(document)
    if kind == "WordPiece":
        pre = (document.get("pre_tokenizer") or {}).get("type")
        if steps != ("BertNormalizer",) or pre != "BertPreTokenizer":
            return f"WordPiece with normalizer {steps} and pre-tokenizer {pre}, not BERT's"
        prefix = document["model"].get("continuing_subword_prefix")
        return "" if prefix == "##" else f"WordPiece prefix {prefix!r}, not '##'"
    if gguf_spm.is_spm(document):
        return gguf_spm.refusal(document)
    if kind != "BPE":
        return f"tokenizer model {kind} is not BPE or WordPiece"
    if not set(steps) <= {"NFC"}:
        return f"normalizer {', '.join(steps)} is unknown to llama.cpp's BPE"
    if not pre_name(document):
        found = json.dumps(document.get("pre_tokenizer"), ensure_ascii=False)
        return f"pre-tokenizer {found[:300]} is none of {', '.join(PRE_TOKENIZERS)}"
    return ""


def tokenizer_metadata(folder: Path, rows: int) -> dict[str, Value]:
    """All tokenizer keys of the file; `rows` of the embedding, those without a token are padded."""
    why = refusal(folder)
    if why:
        raise UnsupportedError(str(folder / "tokenizer.json"), why, "", "use another target")
    files = TokenizerFolder(folder)
    document = files.tokenizer
    tokens, types = _tokens(files, document, rows)
    if document["model"]["type"] == "WordPiece":
        values = _wordpiece(document, tokens, types)
    elif gguf_spm.is_spm(document):
        values = gguf_spm.metadata(document, tokens, types) | _added_around(files)
    else:
        values = _bpe(document, tokens, types) | _added_around(files)
    _refuse_equal_tokens(folder, values[_KEY + "tokens"])
    values |= _special_ids(files, document)
    return values | _templates(folder)


def _templates(folder: Path) -> dict[str, Value]:
    """The default chat template, and others by name as gguf-py's add_chat_template has them."""
    found = chat_templates(folder)
    values: dict[str, Value] = {
        TEMPLATE if name == "default" else f"{TEMPLATE}.{name}": text
        for name, text in found.items()
    }
    others: list[str] = [name for name in found if name != "default"]
    return values | ({f"{TEMPLATE}s": others} if others else {})


def notes(folder: Path) -> tuple[str, ...]:
    """Where stock llama.cpp makes other tokens of the same text, though it has all of them."""
    document = TokenizerFolder(folder).tokenizer
    if document["model"]["type"] == "WordPiece":
        return (
            "llama.cpp's own WordPiece differs on composed Hangul, Indic spacing marks, words over "
            "100 characters and literal special tokens: feed it token ids",
        )
    scheme = (document.get("pre_tokenizer") or {}).get("prepend_scheme")
    if gguf_spm.is_spm(document) and scheme == "first":
        return ("llama.cpp puts a space after special tokens too: feed it token ids",)
    if "NFC" in normalizers(document):
        return ("llama.cpp does not normalize to NFC: feed it token ids, or text in NFC",)
    return ()


def _tokens(
    files: TokenizerFolder, document: Mapping[str, Any], rows: int
) -> tuple[list[str], list[int]]:
    """Token texts and gguf.TokenType numbers by id, one a row."""
    by_id = {number: token for token, number in document["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in document.get("added_tokens") or ()}
    by_id |= {number: entry["content"] for number, entry in added.items()}
    if by_id and max(by_id) >= rows:
        found = f"token id {max(by_id)} ({by_id[max(by_id)]!r})"
        raise BadInputError(str(files.folder), found, f"an id below the embedding's {rows} rows")
    tokens = [by_id.get(number, f"[PAD{number}]") for number in range(rows)]
    types = [_type(added.get(number), number in by_id) for number in range(rows)]
    return tokens, types


def _refuse_equal_tokens(folder: Path, tokens: Value) -> None:
    """llama.cpp stops at a text that stands for two ids."""
    assert isinstance(tokens, list)
    token, times = Counter(tokens).most_common(1)[0]
    if times > 1:
        found = f"{times} tokens become {token!r} in GGUF"
        raise UnsupportedError(str(folder / "tokenizer.json"), found, "different texts")


def _type(added: Mapping[str, Any] | None, known: bool) -> int:
    if not known:
        return int(gguf.TokenType.UNUSED)
    if added is None:
        return int(gguf.TokenType.NORMAL)
    return int(gguf.TokenType.CONTROL if added.get("special") else gguf.TokenType.USER_DEFINED)


def _bpe(document: Mapping[str, Any], tokens: list[str], types: list[int]) -> dict[str, Value]:
    merges = document["model"].get("merges", ())
    return {
        _KEY + "model": "gpt2",
        _KEY + "pre": pre_name(document),
        _KEY + "tokens": tokens,
        _KEY + "token_type": types,
        _KEY + "merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        _KEY + "add_space_prefix": False,
    }


def _wordpiece(
    document: Mapping[str, Any], tokens: list[str], types: list[int]
) -> dict[str, Value]:
    """Pieces as llama.cpp looks them up: `##x` is `x`, a word's begin has U+2581 before it."""
    control = int(gguf.TokenType.CONTROL)
    texts = [
        token if kind == control else token[2:] if token.startswith("##") else "\u2581" + token
        for token, kind in zip(tokens, types, strict=True)
    ]
    normalizer = document["normalizer"]
    lowercase = bool(normalizer.get("lowercase"))
    strip = normalizer.get("strip_accents")
    return {
        _KEY + "model": "bert",
        _KEY + "pre": "bert-bge",
        _KEY + "tokens": texts,
        _KEY + "token_type": types,
        _KEY + "token_type_count": 2,
        _KEY + "normalizer.lowercase": lowercase,
        _KEY + "normalizer.strip_accents": lowercase if strip is None else bool(strip),
    }


def _added_around(files: TokenizerFolder) -> dict[str, Value]:
    """add_bos_token and add_eos_token, by what the tokenizer does with an empty text."""
    ids = Tokenizer.from_file(str(files.folder / "tokenizer.json")).encode("").tokens
    special = files.special
    return {
        _KEY + "add_bos_token": bool(ids) and ids[0] == special.get("bos_token"),
        _KEY + "add_eos_token": bool(ids) and ids[-1] == special.get("eos_token"),
    }


def _special_ids(files: TokenizerFolder, document: Mapping[str, Any]) -> dict[str, Value]:
    """Ids of the named tokens; WordPiece's CLS and SEP are llama.cpp's bos and eos."""
    ids: dict[str, int] = dict(document["model"]["vocab"])
    ids |= {entry["content"]: entry["id"] for entry in document.get("added_tokens") or ()}
    special = files.special
    if document["model"]["type"] == "WordPiece":
        ends = {"bos_token": special.get("cls_token"), "eos_token": special.get("sep_token")}
        special = {role: text for role, text in ends.items() if text} | special
    values: dict[str, Value] = {
        _KEY + _ROLES[role]: ids[text] for role, text in special.items() if text in ids
    }
    stops = files.json("generation_config.json").get("eos_token_id") or []
    stops = [stops] if isinstance(stops, int) else stops
    others = [stop for stop in stops if stop != values.get(_KEY + "eos_token_id")]
    for key, stop in zip(("eot_token_id", "eom_token_id"), others, strict=False):
        values[_KEY + key] = int(stop)
    return values


def _text(entry: Any) -> str:
    """A special token is a text, or an object with its text under `content`."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else ""
