"""A PEFT adapter folder: merged into its base model once, in the cache."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgecompile import cache
from edgecompile.errors import BadInputError, MissingLibraryError
from edgecompile.passes import Progress
from edgecompile.sources import huggingface
from edgecompile.tasks import TASKS


def base_folder(adapter: Path, load: Mapping[str, Any]) -> Path:
    """The base model's folder: `--set load.base=DIR`, else what the adapter's config names."""
    config = huggingface.read_json(adapter / "adapter_config.json")
    named = str(load.get("base") or config.get("base_model_name_or_path", ""))
    for path in (Path(named), adapter / named):
        if named and (path / "config.json").is_file():
            return path
    raise BadInputError(
        str(adapter), f"a PEFT adapter whose base model {named!r} is not a folder here",
        way_out="add --set load.base=FOLDER-OF-THE-BASE-MODEL, or merge it with "
        "peft's merge_and_unload() and save_pretrained()",
    )  # fmt: skip


def merged(adapter: Path, load: Mapping[str, Any], progress: Progress) -> Path:
    """The merged model as a plain folder in the cache (LoRA and its kin that can be merged)."""
    base = base_folder(adapter, load)
    weights = adapter / "adapter_model.safetensors"
    if not weights.is_file():
        found = "no adapter_model.safetensors"
        raise BadInputError(str(adapter), found, "an adapter in safetensors")
    sums = [huggingface.sha256(file) for file in (weights, adapter / "adapter_config.json")]
    sums += [huggingface.sha256(file) for file in huggingface.weight_files(base)]

    def work(folder: Path) -> None:
        progress("merge adapter", 0, 1)
        _merge(adapter, base, folder)
        progress("merge adapter", 1, 1)

    key = cache.key("merge", modules=(__name__,), files=sums)
    return cache.stage("merge", key, work)[0]


def _merge(adapter: Path, base: Path, folder: Path) -> None:
    try:
        from peft import PeftModel
    except ModuleNotFoundError as error:
        raise MissingLibraryError("peft", "not installed", way_out="pip install peft") from error
    import shutil

    import transformers

    config = huggingface.read_json(base / "config.json")
    task = huggingface.task_of(base, config)
    auto = getattr(transformers, TASKS[task].auto)
    model = auto.from_pretrained(base, dtype="auto", local_files_only=True, use_safetensors=True)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(folder)
    extra = [(base, file) for file in huggingface.tokenizer_files(base)]
    extra += [(adapter, file) for file in huggingface.tokenizer_files(adapter)]
    for start, file in [*extra, *((base, file) for file in huggingface.licence(base).files)]:
        target = folder / file.relative_to(start)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
