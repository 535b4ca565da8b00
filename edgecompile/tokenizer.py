"""The tokenizer that ships: files to copy, and what the manifest says of it."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecompile.architectures import common
from edgecompile.errors import BadInputError
from edgecompile.model import Model
from edgecompile.sources.huggingface import read_json
from edgecompile.tasks import HALVES, SPEECH, generates, has_tokenizer

FILE = "tokenizer/tokenizer.json"
MASKS = ("[MASK]", "<mask>")
TEMPLATE = "tokenizer/chat_template.jinja"
TOOL_TEMPLATE = "tokenizer/chat_template.tool_use.jinja"
# What templates may name beside bos_token and eos_token (transformers' SPECIAL_TOKENS_ATTRIBUTES)
NAMED = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def ship(model: Model, bundle: Path) -> dict[str, Any] | None:
    """Write tokenizer/ below `bundle`; returns the manifest's section, None without any."""
    if not has_tokenizer(model.task):
        return None
    (bundle / "tokenizer").mkdir()
    text = tokenizer_json(model.folder)
    (bundle / FILE).write_text(text, encoding="utf-8", newline="\n")
    settings = _settings(model.folder)
    templates = chat_templates(model.folder)
    shipped = {"default": TEMPLATE, "tool_use": TOOL_TEMPLATE}
    for name, template in templates.items():
        (bundle / shipped[name]).write_text(template, encoding="utf-8", newline="\n")
    named = {name: token for name in NAMED if (token := _token(settings.get(name)))}
    extra = {"tool_template": TOOL_TEMPLATE} if "tool_use" in templates else {}
    return {
        "file": FILE,
        "digest": hashlib.sha256(text.encode()).hexdigest(),
        "template": TEMPLATE if templates else None,
        "max_length": max_length(model, settings),
        "bos_token": _token(settings.get("bos_token")),
        "eos_token": _token(settings.get("eos_token")),
        "mask_token": mask_token(model.folder, text) if model.task == "fill-mask" else None,
        "stock": None,
        "special_tokens": named,
        **extra,
    }


def tokenizer_json(folder: Path) -> str:
    """The source's tokenizer.json, made by transformers where only the older files are there."""
    file = folder / "tokenizer.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    from transformers import AutoTokenizer

    try:
        fast = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
        text: str = fast.backend_tokenizer.to_str(pretty=True)
    except (OSError, ValueError, AttributeError) as error:
        raise BadInputError(
            str(folder), f"no tokenizer.json, and none can be made: {error}",
            way_out="save the tokenizer with AutoTokenizer.save_pretrained beside the weights",
        ) from error  # fmt: skip
    return text


def chat_templates(folder: Path) -> dict[str, str]:
    """The source's chat templates that are used: `default`, and `tool_use` for prompts with tools.

    In files of their own, or in tokenizer_config.json; empty where there is no default.
    """
    value = _settings(folder).get("chat_template") or {}
    listed = value if isinstance(value, list) else []
    found = {str(one.get("name")): str(one.get("template") or "") for one in listed}
    if isinstance(value, str):
        found = {"default": value}
    files = {"default": folder / "chat_template.jinja",
             "tool_use": folder / "additional_chat_templates" / "tool_use.jinja"}  # fmt: skip
    there = {name: file for name, file in files.items() if file.is_file()}
    found = {name: file.read_text(encoding="utf-8") for name, file in there.items()} or found
    if not found.get("default"):
        return {}
    return {name: found[name] for name in files if found.get(name)}


def longest(model: Model) -> int:
    """As `max_length`, by the source's own settings."""
    return max_length(model, _settings(model.folder))


def max_length(model: Model, settings: Mapping[str, Any]) -> int:
    """Tokens that the model takes at once, special ones included."""
    if model.pooling is not None:
        return model.pooling.max_length
    longest = int(common(model.text_config).get("max_position_embeddings", 0))
    stated = settings.get("model_max_length", longest)
    usable = isinstance(stated, int) and 0 < stated < 10**9
    return min(stated, longest) if usable and longest else longest


def mask_token(folder: Path, tokenizer: str) -> str:
    """What stands for a word to be filled in, from the settings or the names that all use."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        table = read_json(folder / name) if (folder / name).is_file() else {}
        if found := _token(table.get("mask_token")):
            return found
    added = [str(token.get("content")) for token in json.loads(tokenizer).get("added_tokens", ())]
    if found := next((name for name in MASKS if name in added), None):
        return found
    raise BadInputError(
        str(folder), "no mask token", "mask_token in tokenizer_config.json",
        "save the tokenizer with AutoTokenizer.save_pretrained beside the weights",
    )  # fmt: skip


def generation(model: Model) -> dict[str, Any] | None:
    """The manifest's generation section: context, stop tokens, the source's sampling defaults."""
    if not generates(model.task):
        return None
    file = model.folder / "generation_config.json"
    table = read_json(file) if file.is_file() else {}
    stops = table.get("eos_token_id", model.config.get("eos_token_id"))
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "do_sample")
    found: dict[str, Any] = {
        "context_length": context_length(model),
        "stop_token_ids": sorted({int(stop) for stop in stops}),
        "defaults": {name: table[name] for name in names if table.get(name) is not None},
    }
    if model.task in HALVES:
        found["start_token_id"] = _start_token(model, table)
    return found


def context_length(model: Model) -> int:
    """Tokens of a text: of an encoder-decoder those of the source, and again of the answer.

    T5 knows distances alone; what its config or tokenizer names is the length of its training.
    """
    if model.task == SPEECH:
        return int(model.config.get("max_target_positions", 448))
    if model.task not in HALVES:
        return int(model.common_config.get("max_position_embeddings", 2048))
    stated = _settings(model.folder).get("model_max_length")
    trained = stated if isinstance(stated, int) and 0 < stated < 10**9 else 512
    return int(model.config.get("n_positions") or trained)


def _start_token(model: Model, table: Mapping[str, Any]) -> int:
    """What the answer begins after: transformers asks generation_config first."""
    for place in (table, model.config):
        if (token := place.get("decoder_start_token_id")) is not None:
            return int(token)
    raise BadInputError(
        str(model.folder), "no decoder_start_token_id", "one in config.json",
        "T5's is its padding token, 0; Whisper's is <|startoftranscript|>",
    )  # fmt: skip


def _settings(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json."""
    names = ("special_tokens_map.json", "tokenizer_config.json")
    tables = [read_json(folder / name) for name in names if (folder / name).is_file()]
    return {key: value for table in tables for key, value in table.items()}


def _token(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def labels(config: Mapping[str, Any]) -> list[str]:
    """A classifier's label names in the order of its outputs; transformers saves no default."""
    table = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [str(table[key]) for key in sorted(table, key=int)]


def class_name(label: str, names: Sequence[str]) -> str:
    """The class that a label means: a name, or the number of one."""
    if label in names:
        return label
    if label.isdigit() and int(label) < len(names):
        return names[int(label)]
    raise BadInputError("labelled text", f"label {label!r}", f"one of {', '.join(names)[:300]}")


def dumps(value: Any) -> str:
    """JSON as the manifest has it: sorted keys, two spaces, a newline at the end."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
