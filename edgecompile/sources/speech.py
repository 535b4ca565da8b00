"""What a Whisper checkpoint says of its tokens: generation_config.json and tokenizer.json."""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from edgecompile.errors import BadInputError
from edgecompile.model import Model
from edgecompile.runtime.speech import SpeechTokens
from edgecompile.sources.huggingface import read_json
from edgecompile.tokenizer import tokenizer_json

GENERATION = "generation_config.json"
SECONDS = 0.02  # of a timestamp: two frames of 10 ms, as the encoder's second convolution halves
ENGLISH_TOKENS, OTHER_TOKENS = 51864, 51865  # OpenAI's vocabularies: of English, of all languages
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
_TASKS = ("transcribe", "translate")


def speech_tokens(model: Model) -> SpeechTokens:
    """The manifest's `speech` section, of a model of speech.

    What older generation_config.json files leave out is read from the tokens' names.
    """
    file = model.folder / GENERATION
    table = read_json(file) if file.is_file() else {}
    ids = _ids(model)
    rows = int(model.config["vocab_size"])
    silent = _first(table.get("no_timestamps_token_id"), ids.get("<|notimestamps|>"))
    several = _is_multilingual(model, table)
    named = {"languages": _languages(table, ids), "tasks": _tasks(table, ids)}
    if several and not (named["languages"] and named["tasks"]):
        raise BadInputError(
            str(file), "a multilingual model without tokens of languages or tasks",
            "lang_to_id and task_to_id, or such tokens in tokenizer.json",
        )  # fmt: skip
    section = {
        **(named if several else {key: {} for key in named}),
        "no_timestamps_id": silent, "timestamps": _timestamps(model, silent, rows),
        "timestamp_seconds": _seconds(model),
        "max_initial_timestamp": table.get("max_initial_timestamp_index"),
        "suppress": _listed(table, model, "suppress_tokens", rows),
        "begin_suppress": _listed(table, model, "begin_suppress_tokens", rows),
        "previous_id": _first(table.get("prev_sot_token_id"), ids.get("<|startofprev|>")),
        "no_speech_id": _first(ids.get("<|nospeech|>"), ids.get("<|nocaptions|>")),
    }  # fmt: skip
    return SpeechTokens.from_manifest(section, str(file))


def _ids(model: Model) -> dict[str, int]:
    """Added tokens of tokenizer.json by name."""
    added = json.loads(tokenizer_json(model.folder)).get("added_tokens") or ()
    return {str(one["content"]): int(one["id"]) for one in added}


def _is_multilingual(model: Model, table: Mapping[str, Any]) -> bool:
    """As stated, else by the sizes of OpenAI's two vocabularies."""
    if (stated := table.get("is_multilingual")) is not None:
        return bool(stated)
    rows = int(model.config["vocab_size"])
    if rows < ENGLISH_TOKENS:
        raise BadInputError(
            str(model.folder / GENERATION), "no is_multilingual", "true or false",
            "save the model's generation_config beside it: model.generation_config.save_pretrained",
        )  # fmt: skip
    return rows >= OTHER_TOKENS


def _languages(table: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    listed = table.get("lang_to_id") or ids
    found = ((_LANGUAGE.fullmatch(str(name)), token) for name, token in listed.items())
    return {match[1]: token for match, token in found if match}


def _tasks(table: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    named = {name: ids[f"<|{name}|>"] for name in _TASKS if f"<|{name}|>" in ids}
    return dict(table.get("task_to_id") or named)


def _timestamps(model: Model, silent: int | None, rows: int) -> int:
    """Tokens after `<|notimestamps|>`, one each step of a window and its end; 0 where fewer."""
    wanted = int(model.config.get("max_source_positions", 1500)) + 1
    return wanted if silent is not None and rows - silent - 1 >= wanted else 0


def _seconds(model: Model) -> float:
    """Seconds of a step of the encoder."""
    audio = model.audio
    return 2 * audio.hop_length / audio.sampling_rate if audio else SECONDS


def _listed(table: Mapping[str, Any], model: Model, key: str, rows: int) -> list[int]:
    """generation_config.json's, else config.json's, which had them before; none beyond the head."""
    tokens = table[key] if key in table else model.config.get(key)
    return [int(token) for token in tokens or () if 0 <= int(token) < rows]


def _first(*found: int | None) -> int | None:
    return next((one for one in found if one is not None), None)
