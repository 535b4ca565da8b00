"""GGUF's `general.*` keys of the model's origin and licence, from its card.

Keys and their order are those of llama.cpp's converter (gguf-py: constants.py, metadata.py), with
what the card states and nothing that is guessed from a folder's name. The converter's `url` and
`repo_url` are those of the file's own repository, so a card's go to `general.source.*`;
`quantized_by` is left out: the card cannot know who runs this.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gguf

from edgecompile.backends.gguf_layout import Value
from edgecompile.model import Model
from edgecompile.sources import card

# GGUF's key below `general.` -> names in a card, the first one that is there
_TEXTS: Mapping[str, tuple[str, ...]] = {
    "author": ("author", "model_author", "model_creator"),
    "version": ("version", "model_version"),
    "organization": ("organization", "model_organization"),
    "finetune": ("finetune", "model_finetune"),
    "basename": ("basename", "model_basename"),
    "description": ("description", "model_description"),
    "size_label": ("size_label", "model_size_label"),
    "source.url": ("url", "model_url"),
    "source.doi": ("doi", "model_doi"),
    "source.uuid": ("uuid", "model_uuid"),
    "source.repo_url": ("repo_url", "model_repo_url"),
}
_ORIGIN = ("name", "author", "version", "organization", "description", "url", "doi", "uuid",
           "repo_url")  # fmt: skip
_ORIGINS = {  # GGUF's key -> names in a card, and where the hub has such things
    "base_model": (("base_model", "base_models", "base_model_sources"), "https://huggingface.co"),
    "dataset": (("datasets", "dataset", "dataset_sources"), "https://huggingface.co/datasets"),
}
_LISTS = {"tags": ("tags", "pipeline_tag"), "languages": ("languages", "language")}
_HUB = re.compile(r"https?://huggingface\.co/(?:datasets/)?([^/]+/[^/]+)/?")
_NAME = re.compile(r"[\w.-]*\w/[\w.-]+|[\w.-]*\w")  # of a model on the hub; no path of a machine
_URL = ("http://", "https://", "ssh://")


def metadata(model: Model, parameters: int) -> dict[str, Value]:
    """Keys and values of the model's card, and of its licence where the recipe states that."""
    fields = card.front_matter(model.folder)
    values: dict[str, Value] = {
        f"general.{key}": text
        for key, names in _TEXTS.items() if (text := card.text_of(fields, *names))
    }  # fmt: skip
    values.setdefault("general.size_label", str(gguf.size_label(parameters, parameters, 0, 0)))
    values |= _licence(model, fields)
    for key, (names, hub) in _ORIGINS.items():
        found = [origin for one in _entries(fields, names) if (origin := _origin(one, hub))]
        if found:
            values[f"general.{key}.count"] = len(found)
        for number, origin in enumerate(found):
            values |= {f"general.{key}.{number}.{name}": text for name, text in origin.items()}
    lists = {f"general.{key}": card.texts_of(fields, *names) for key, names in _LISTS.items()}
    return values | {key: texts for key, texts in lists.items() if texts}


def _licence(model: Model, fields: dict[str, Any]) -> dict[str, Value]:
    """`other` with a name and a link, or an SPDX identifier; what is not known is not there."""
    stated = ",".join(card.texts_of(fields, "license"))
    known = model.licence.id if model.licence.id != "unknown" else ""
    found = {
        "general.license": stated or known,
        "general.license.name": card.text_of(fields, "license_name"),
        "general.license.link": card.text_of(fields, "license_link") or model.licence.use_policy,
    }
    return {key: text for key, text in found.items() if text}


def _entries(fields: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Any]:
    value: Any = next((fields[name] for name in names if name in fields), [])
    yield from value if isinstance(value, list) else [value]


def _origin(entry: Any, hub: str) -> dict[str, str]:
    """A model or data set by its name on the hub, its address, or a mapping of GGUF's own names."""
    if isinstance(entry, dict):
        return {name: text for name in _ORIGIN if (text := card.text_of(entry, name))}
    text = entry.strip() if isinstance(entry, str) else ""
    on_hub = _HUB.fullmatch(text)
    if text.startswith(_URL):
        return {**(_named(on_hub[1], hub) if on_hub else {}), "repo_url": text}
    return _named(text, hub) if _NAME.fullmatch(text) else {}


def _named(identifier: str, hub: str) -> dict[str, str]:
    """`org/name` as the converter titles it, with its address on the hub."""
    title: Callable[[str], str] = gguf.Metadata.id_to_title
    name, organization, _, _, version, _ = gguf.Metadata.get_model_id_components(identifier)
    found = {
        "name": title(name) if name else "",
        "version": version or "",
        "organization": title(organization) if organization else "",
        "repo_url": f"{hub}/{organization}/{name}" if organization else "",
    }
    return {key: text for key, text in found.items() if text}
