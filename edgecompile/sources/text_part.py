"""The decoder inside a checkpoint that takes pictures too: built by itself, which is said."""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgecompile.model import TensorInfo


@dataclass(frozen=True)
class TextPart:
    """Its own model_type and class, and the beginnings of its tensors' names -> a decoder's."""

    model_type: str
    class_name: str
    prefixes: Mapping[str, str]


PARTS: Mapping[str, TextPart] = {
    "gemma3": TextPart(
        "gemma3_text", "Gemma3ForCausalLM",
        {"language_model.model.": "model.", "model.language_model.": "model.",
         "language_model.lm_head.": "lm_head.", "lm_head.": "lm_head."},
    ),
}  # fmt: skip


def of(
    config: dict[str, Any], infos: dict[str, TensorInfo]
) -> tuple[dict[str, Any], dict[str, TensorInfo], tuple[str, ...]]:
    """Config and tensors of the text part, and a note; those given where there is no such part."""
    part = PARTS.get(str(config.get("model_type")))
    if part is None or not isinstance(config.get("text_config"), dict):
        return config, infos, ()
    from transformers import CONFIG_MAPPING

    # Published text configs state only what differs from the class's defaults.
    whole = CONFIG_MAPPING[part.model_type].from_dict(
        {"tie_word_embeddings": True, **config["text_config"]}
    )
    settings = {**whole.to_dict(), "architectures": [part.class_name]}
    found: dict[str, TensorInfo] = {}
    for name, info in infos.items():
        prefix = next((p for p in part.prefixes if name.startswith(p)), None)
        if prefix is not None:
            renamed = part.prefixes[prefix] + name.removeprefix(prefix)
            found[renamed] = dataclasses.replace(info, stored=name)
    note = (
        f"the text part of {config.get('architectures', ['a model'])[0]}: "
        f"{len(infos) - len(found)} tensors for pictures are left out"
    )
    return settings, found, (note,)
