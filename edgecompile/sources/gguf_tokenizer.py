"""tokenizer.json, tokenizer_config.json and generation_config.json from a GGUF's tokenizer data."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgecompile.errors import BadInputError, UnsupportedError
from edgecompile.sources import gguf_spm
from edgecompile.sources.gguf_file import AGAIN, FROM_FOLDER, GgufFile
from edgecompile.sources.gguf_pre import PRE_TOKENIZERS, PreTokenizer
from edgecompile.sources.gguf_spm import CONTROL, UNKNOWN, USER_DEFINED

_KEY = "tokenizer.ggml."
# GGUF key -> name in config.json and tokenizer_config.json
SPECIAL_IDS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id",
}
_STOP_IDS = ("eos_token_id", "eot_token_id", "eom_token_id")


def tokenizer_json(file: GgufFile) -> dict[str, Any]:
    """The `tokenizers` document of a BPE vocabulary, byte-level or SentencePiece's."""
    tokens = vocabulary(file)
    is_spm = check_kind(file) == "llama"
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added_tokens(file),
        **(gguf_spm.parts(file, tokens) if is_spm else _byte_level(file, tokens)),
        "post_processor": _post_processor(file, tokens),
    }


def check_kind(file: GgufFile) -> str:
    """`gpt2` or `llama`, the kinds of tokenizer that can be read; others are refused."""
    model: str = file.need(_KEY + "model", str)
    if model == "gpt2":
        _pre_tokenizer(file)
    elif model != "llama":
        found = f"tokenizer model {model!r}"
        expected = "'gpt2' (byte-level BPE) or 'llama' (SentencePiece BPE)"
        raise UnsupportedError(str(file.path), found, expected, FROM_FOLDER)
    return model


def tokenizer_config(file: GgufFile, max_length: int) -> dict[str, Any]:
    """tokenizer_config.json: special tokens by name, chat template, what is added by itself."""
    tokens = vocabulary(file)
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        "add_bos_token": adds(file, "bos"),
        "add_eos_token": adds(file, "eos"),
        "added_tokens_decoder": {
            str(token.pop("id")): token for token in map(dict, added_tokens(file))
        },
    }
    for name, key in SPECIAL_IDS.items():
        token_id = special_id(file, key)
        if token_id is not None:
            config[name] = tokens[token_id]
    template = file.get("tokenizer.chat_template", str)
    with_tools = file.get("tokenizer.chat_template.tool_use", str)
    if template and with_tools:
        named = {"default": template, "tool_use": with_tools}
        config["chat_template"] = [{"name": n, "template": text} for n, text in named.items()]
    elif template:
        config["chat_template"] = template
    return config


def generation_config(file: GgufFile) -> dict[str, Any]:
    """generation_config.json: begin, padding and every id that ends an answer."""
    config: dict[str, Any] = {"do_sample": False}
    for name, key in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        if special_id(file, key) is not None:
            config[name] = special_id(file, key)
    stops = {special_id(file, key) for key in _STOP_IDS} - {None}
    if stops:
        config["eos_token_id"] = sorted(stop for stop in stops if stop is not None)
    return config


def special_id(file: GgufFile, key: str) -> int | None:
    """Token id under `tokenizer.ggml.<key>`, None if absent; outside the vocabulary is an error."""
    default = gguf_spm.DEFAULT_IDS.get(key) if check_kind(file) == "llama" else None
    token_id: int | None = file.get(_KEY + key, int, default)
    if token_id is None:
        return None
    count = len(vocabulary(file))
    if not 0 <= token_id < count:
        found = f"{_KEY}{key} is {token_id}"
        raise BadInputError(str(file.path), found, f"an id below {count}", AGAIN)
    return token_id


def vocabulary(file: GgufFile) -> list[str]:
    """Token texts by id, all different."""
    tokens: list[str] = _texts(file, "tokens")
    if len(set(tokens)) != len(tokens):
        found = f"{_KEY}tokens has {len(tokens) - len(set(tokens))} tokens twice"
        raise BadInputError(str(file.path), found, "different tokens", AGAIN)
    return tokens


def adds(file: GgufFile, which: str) -> bool:
    """Whether `bos` or `eos` is put around a text; where the file is silent, as llama.cpp does."""
    default = which == "bos" and (check_kind(file) == "llama" or _pre_tokenizer(file).add_bos)
    return bool(file.get(f"{_KEY}add_{which}_token", bool, default))


def added_tokens(file: GgufFile) -> list[dict[str, Any]]:
    """Tokens that are matched whole: control tokens are special, user-defined ones are not."""
    kinds = file.get(_KEY + "token_type", list, [])
    tokens = vocabulary(file)
    if kinds and len(kinds) != len(tokens):
        found = f"{_KEY}token_type has {len(kinds)} entries, tokens {len(tokens)}"
        raise BadInputError(str(file.path), found, "one a token", AGAIN)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": number, "content": tokens[number], **flags, "special": kind != USER_DEFINED}
        for number, kind in enumerate(kinds)
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]


def _pre_tokenizer(file: GgufFile) -> PreTokenizer:
    name = file.get(_KEY + "pre", str, "default")
    if name not in PRE_TOKENIZERS:
        found, known = f"pre-tokenizer {name!r}", ", ".join(PRE_TOKENIZERS)
        raise UnsupportedError(str(file.path), found, known, FROM_FOLDER)
    return PRE_TOKENIZERS[name]


def _texts(file: GgufFile, key: str) -> list[str]:
    values = file.need(_KEY + key, list)
    if not values or not all(isinstance(value, str) for value in values):
        raise BadInputError(str(file.path), f"{_KEY}{key} is not a list of texts", "texts", AGAIN)
    return list(values)


def _byte_level(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    pre = _pre_tokenizer(file)
    flags = {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "normalizer": {"type": "NFC"} if pre.nfc else None,
        "pre_tokenizer": pre.json,
        "decoder": {"type": "ByteLevel", **flags},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre.ignore_merges,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": _merges(file, set(tokens)),
        },
    }


def _merges(file: GgufFile, known: set[str]) -> list[list[str]]:
    """Pairs in rank order; a piece may begin with a space, so the split is at the next one."""
    pairs = []
    for merge in _texts(file, "merges"):
        at = merge.find(" ", 1)
        left, right = merge[:at], merge[at + 1 :]
        if at < 0 or not {left, right, left + right} <= known:
            found = f"merge {merge!r} is not of two tokens that make a third"
            raise BadInputError(str(file.path), found, "pieces of the vocabulary", AGAIN)
        pairs.append([left, right])
    return pairs


def _post_processor(file: GgufFile, tokens: list[str]) -> dict[str, Any] | None:
    """A template that puts bos and eos around a text, None when neither is added."""
    ids: dict[str, int] = {}
    for which in ("bos", "eos"):
        if adds(file, which):
            token_id = special_id(file, f"{which}_token_id")
            if token_id is None:
                found = f"{_KEY}add_{which}_token is true without {which}_token_id"
                raise BadInputError(str(file.path), found, "the id of that token", AGAIN)
            ids[which] = token_id
    if not ids:
        return None
    names = {which: tokens[number] for which, number in ids.items()}
    return {
        "type": "TemplateProcessing",
        "single": _template(names, "A", 0),
        "pair": _template(names, "A", 0) + _template(names, "B", 1),
        "special_tokens": {
            name: {"id": name, "ids": [ids[which]], "tokens": [name]}
            for which, name in names.items()
        },
    }


def _template(names: Mapping[str, str], sequence: str, kind: int) -> list[dict[str, Any]]:
    """Bos if any, the text, eos if any."""
    around = {w: [{"SpecialToken": {"id": name, "type_id": kind}}] for w, name in names.items()}
    text = {"Sequence": {"id": sequence, "type_id": kind}}
    return [*around.get("bos", ()), text, *around.get("eos", ())]
