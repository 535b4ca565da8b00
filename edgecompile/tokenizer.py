"""The tokenizer that ships: files to copy, and what the manifest says of it."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecompile.errors import BadInputError
from edgecompile.model import Model
from edgecompile.sources.huggingface import read_json
from edgecompile.tasks import takes_text

FILE = "tokenizer/tokenizer.json"
MASKS = ("[MASK]", "<mask>")
TEMPLATE = "tokenizer/chat_template.jinja"


def ship(model: Model, bundle: Path) -> dict[str, Any] | None:
    """Write tokenizer/ below `bundle`; returns the manifest's section, None without text."""
    if not takes_text(model.task):
        return None
    (bundle / "tokenizer").mkdir()
    text = tokenizer_json(model.folder)
    (bundle / FILE).write_text(text, encoding="utf-8", newline="\n")
    settings = _settings(model.folder)
    template = chat_template(model.folder)
    if template:
        (bundle / TEMPLATE).write_text(template, encoding="utf-8", newline="\n")
    return {
        "file": FILE,
        "digest": hashlib.sha256(text.encode()).hexdigest(),
        "template": TEMPLATE if template else None,
        "max_length": max_length(model, settings),
        "bos_token": _token(settings.get("bos_token")),
        "eos_token": _token(settings.get("eos_token")),
        "mask_token": mask_token(model.folder, text) if model.task == "fill-mask" else None,
        "stock": None,
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


def chat_template(folder: Path) -> str:
    """The chat template, empty if the source has none; of several, the one named default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    value = _settings(folder).get("chat_template") or ""
    if isinstance(value, list):
        value = next((v["template"] for v in value if v.get("name") == "default"), "")
    return str(value)


def max_length(model: Model, settings: Mapping[str, Any]) -> int:
    """Tokens that the model takes at once, special ones included."""
    if model.pooling is not None:
        return model.pooling.max_length
    longest = int(model.config.get("max_position_embeddings", 0))
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
    if model.task != "text-generation":
        return None
    file = model.folder / "generation_config.json"
    table = read_json(file) if file.is_file() else {}
    stops = table.get("eos_token_id", model.config.get("eos_token_id"))
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "do_sample")
    return {
        "context_length": int(model.config.get("max_position_embeddings", 2048)),
        "stop_token_ids": sorted({int(stop) for stop in stops}),
        "defaults": {name: table[name] for name in names if table.get(name) is not None},
    }


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    return read_json(file) if file.is_file() else {}


def _token(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def labels(config: Mapping[str, Any]) -> list[str]:
    """A classifier's label names in the order of its outputs; transformers saves no default."""
    table = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    return [str(table[key]) for key in sorted(table, key=int)]


def dumps(value: Any) -> str:
    """JSON as the manifest has it: sorted keys, two spaces, a newline at the end."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
