"""A model card's front matter: YAML between two lines of three dashes at its beginning.

The Hugging Face hub's model card specification, and the names that llama.cpp's converter reads
(gguf-py's metadata.py). A card is untrusted: no tag of YAML's is followed, and text stays text.
"""
from __future__ import annotations

import re
from pathlib import Path
from typing import Any

CARD = "README.md"
LONGEST = 1 << 20  # characters of front matter that are read
_LINE = re.compile(r"^(\w+):[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_NOTHING = ("", "~", "null")


def front_matter(folder: Path) -> dict[str, Any]:
    """The card's fields as YAML's plain text, lists and mappings; empty where there are none.

    What is no valid YAML is read line by line, as far as that goes.
    """
    import yaml

    file = folder / CARD
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    if not text.startswith("---"):
        return {}
    front = re.split(r"^---\s*$", text[3 : 3 + LONGEST], maxsplit=1, flags=re.MULTILINE)[0]
    try:
        # BaseLoader: `no` is Norwegian, not false, and a version 1.10 is not 1.1
        found = yaml.load(front.replace("\t", "  "), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        found = {name: value.strip("'\"") for name, value in _LINE.findall(front)}
    return found if isinstance(found, dict) else {}


def text_of(fields: dict[str, Any], *names: str) -> str:
    """The first of those fields that holds text; empty where none does."""
    return next((text for name in names if (text := _plain(fields.get(name)))), "")


def texts_of(fields: dict[str, Any], *names: str) -> list[str]:
    """The texts of those fields, each a text or a list of some, in order and once."""
    found = []
    for name in names:
        value = fields.get(name)
        found += [_plain(one) for one in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(filter(None, found)))


def _plain(value: Any) -> str:
    text = value.strip() if isinstance(value, str) else ""
    return "" if text in _NOTHING else text
