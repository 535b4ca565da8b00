"""The trained model as a Hugging Face folder: whole or absent, the same bytes from the same run."""
from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edgecompile import bundle, tokenizer
from edgecompile.architectures import turned
from edgecompile.model import Model, Pooling
from edgecompile.pruning.checkpoint import as_published
from edgecompile.sources import card
from edgecompile.sources.huggingface import TOKENIZER_FILES

# Of a sentence-transformers model: what it was, not what it is after a head was trained.
OF_EMBEDDINGS = ("modules.json", "sentence_bert_config.json")
KEPT_FIELDS = ("license", "license_name", "license_link", "language")  # of the source's card


def write(staging: Path, module: nn.Module, model: Model, numbers: Mapping[str, Any]) -> None:
    """Fill `staging` with config, weights, tokenizer, licence and card."""
    saved: Any = module
    saved.save_pretrained(staging, state_dict=_published(module, model.architecture))
    for file in staging.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors makes it its owner's alone
    tidy_config(staging / "config.json")
    copy_tokenizer(model, staging)
    if model.task == "embedding" and model.pooling is not None:
        write_pooling(staging, model.pooling, int(saved.config.hidden_size))
    for file in model.licence.files:
        if file.name != card.CARD:
            shutil.copyfile(file, staging / file.name)
    (staging / card.CARD).write_text(readme(model, numbers), encoding="utf-8", newline="\n")


def _published(module: nn.Module, architecture: str) -> dict[str, Tensor] | None:
    """The tensors as the architecture's checkpoints have them; None where that is as they are."""
    state = module.state_dict()
    if not any(turned(architecture, name) for name in state):
        return None
    return {name: as_published(architecture, name, value) for name, value in state.items()}


def publish(staging: Path, final: Path, overwrite: bool) -> None:
    """Give the whole folder its name in one step; an old one is swapped out."""
    bundle.seal(staging, final, overwrite)


def tidy_config(file: Path) -> None:
    """Leave out where the source was: the same bytes from another folder."""
    table = json.loads(file.read_text(encoding="utf-8"))
    table.pop("_name_or_path", None)
    text = json.dumps(table, indent=2, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8", newline="\n")


def copy_tokenizer(model: Model, staging: Path) -> None:
    """The source's tokenizer files; tokenizer.json is made where there is none."""
    for name in TOKENIZER_FILES:
        source = model.folder / name
        if source.is_file() and (name not in OF_EMBEDDINGS or model.task == "embedding"):
            (staging / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source, staging / name)
    if not (staging / "tokenizer.json").is_file():
        text = tokenizer.tokenizer_json(model.folder)
        (staging / "tokenizer.json").write_text(text, encoding="utf-8", newline="\n")


def write_pooling(staging: Path, pooling: Pooling, width: int) -> None:
    """How token vectors become one, in the layout of sentence-transformers."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    kinds |= {"2_Normalize": "Normalize"} if pooling.normalize else {}
    modules = [
        {"idx": number, "name": str(number), "path": path,
         "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(kinds.items())
    ]  # fmt: skip
    (staging / "1_Pooling").mkdir()
    table = {"word_embedding_dimension": width, "pooling_mode": pooling.mode}
    _json(staging / "1_Pooling" / "config.json", table)
    _json(staging / "modules.json", modules)
    _json(staging / "sentence_bert_config.json", {"max_seq_length": pooling.max_length})


def _json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8", newline="\n")


def readme(model: Model, numbers: Mapping[str, Any]) -> str:
    """The model card: the source's licence and languages, then what was done, in numbers."""
    import yaml

    source = card.front_matter(model.folder)
    fields = {name: source[name] for name in KEPT_FIELDS if source.get(name)}
    if "license" not in fields and model.licence.id != "unknown":
        fields["license"] = model.licence.id
    fields |= {"base_model": model.name, "tags": ["edgecompile"]}
    rows = "\n".join(f"| {name} | {_shown(value)} |" for name, value in numbers.items())
    front = yaml.safe_dump(fields, sort_keys=True, allow_unicode=True)
    return (
        f"---\n{front}---\n# {model.name}, trained for {model.task}\n\n"
        f"Trained by `edgecompile train` from {model.name} ({model.architecture}); its licence is "
        f"the source's ({model.licence.id}).\n\n| what | value |\n|---|---|\n{rows}\n"
    )


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
