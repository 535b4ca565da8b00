"""A model card of what a GGUF file's metadata says, so that it goes on into what is built of it."""
from __future__ import annotations

import json
from typing import Any

from edgecompile.sources.gguf_file import GgufFile
from edgecompile.sources.gguf_split import bare

MOST = 1000  # base models or data sets that are read: a count in a file is not to be trusted
_TEXTS = ("author", "version", "organization", "finetune", "basename", "description", "size_label")
_PLACES = ("url", "doi", "uuid", "repo_url")  # the source's, or the file's own where it says none
_ORIGIN = ("name", "author", "version", "organization", "description", *_PLACES)


def text(file: GgufFile) -> str:
    """Front matter under a card's names, and every text of the metadata as a list."""
    lines = [f"{name}: {json.dumps(v, ensure_ascii=False)}" for name, v in _fields(file).items()]
    rows = [
        f"- {key.removeprefix('general.')}: {value}"
        for key, value in sorted(file.metadata.items())
        if key.startswith("general.") and isinstance(value, str)
    ]
    title = _get(file, "name") or bare(file.path.stem)
    about = "Converted from a GGUF file; what its metadata says:"
    return "\n".join(["---", *lines, "---", f"# {title}", "", about, "", *rows, ""])


def _fields(file: GgufFile) -> dict[str, Any]:
    found: dict[str, Any] = {
        "license": _get(file, "license") or "unknown",
        "license_name": _get(file, "license.name"), "license_link": _get(file, "license.link"),
        **{name: _get(file, name) for name in _TEXTS},
        **{name: _get(file, f"source.{name}") or _get(file, name) for name in _PLACES},
        "base_model": _origins(file, "base_model"), "datasets": _origins(file, "dataset"),
        "tags": _texts(file, "tags"), "language": _texts(file, "languages"),
    }  # fmt: skip
    return {name: value for name, value in found.items() if value}


def _get(file: GgufFile, name: str) -> str:
    value: str = file.get(f"general.{name}", str, "")
    return value


def _texts(file: GgufFile, name: str) -> list[str]:
    value = file.get(f"general.{name}", list, [])
    return [one for one in value if isinstance(one, str)]


def _origins(file: GgufFile, kind: str) -> list[dict[str, str]]:
    """Base models or data sets, each by those of its keys that are there."""
    count = min(file.get(f"general.{kind}.count", int, 0), MOST)
    found = [
        {name: value for name in _ORIGIN if (value := _get(file, f"{kind}.{number}.{name}"))}
        for number in range(count)
    ]
    return [origin for origin in found if origin]
