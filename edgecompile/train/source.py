"""Models in: what MODEL names, as a transformers module with the head that the task needs."""
from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgecompile import tokenizer
from edgecompile.architectures import turned
from edgecompile.errors import UnsupportedError, UsageError
from edgecompile.model import Model
from edgecompile.modules import without_torchao
from edgecompile.numerics.linears import as_linear
from edgecompile.passes import Progress
from edgecompile.runtime.tokens import Tokens
from edgecompile.sources import SourceRef, describe, load
from edgecompile.tasks import TASKS, takes_text

LONGEST = 512  # tokens of a text, where neither model nor user says less


def source_model(ref: SourceRef, task: str, progress: Progress) -> Model:
    """The model, its weights checked, as one of `task` (whatever it was trained for before)."""
    if ref.kind == "torch":
        raise UnsupportedError(
            ref.place, "a torch module", "a Hugging Face folder, adapter or GGUF file",
            "train it by itself: edgecompile.train.loop.fit takes any module",
        )  # fmt: skip
    if not takes_text(task):
        raise UnsupportedError("--task", f"training for {task}", "a task of texts")
    # Its own task decides what is read: a sentence-transformers folder has a pooling.
    model = load(dataclasses.replace(ref, task=own_task(ref) or task), progress)
    pooling = model.pooling if task == "embedding" else None
    return dataclasses.replace(model, task=task, pooling=pooling)


def own_task(ref: SourceRef) -> str:
    """The task that the source says it has; empty where it says none."""
    try:
        return describe(dataclasses.replace(ref, task="")).task
    except UsageError:
        return ""


def module_of(model: Model, labels: tuple[str, ...], dropout: float = -1.0) -> nn.Module:
    """The task's transformers class with the model's weights, float32; a new head is seeded.

    Draws from torch's generator: seed it before.
    """
    import transformers

    without_torchao()
    logging: Any = transformers.logging
    logging.set_verbosity_error()  # of weights that a new head does not have
    logging.disable_progress_bar()
    auto = getattr(transformers, TASKS[model.task].auto)
    changes = _config_changes(model, labels, dropout)
    try:
        module: Any = auto.from_pretrained(
            model.folder, dtype=torch.float32, local_files_only=True, use_safetensors=True,
            trust_remote_code=False, **changes,
        )  # fmt: skip
    except (ValueError, KeyError) as error:
        raise UnsupportedError(
            model.name, f"{model.architecture} has no {auto.__name__}: {str(error)[:200]}"
        ) from error
    if model.task == "embedding" and getattr(module, "pooler", None) is not None:
        module.pooler = None  # sentence embeddings are pooled from token vectors
    built: nn.Module = module
    as_linear(built, partial(turned, model.architecture))
    return built


def _config_changes(model: Model, labels: tuple[str, ...], dropout: float) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    if labels:
        changes["id2label"] = dict(enumerate(labels))
        changes["label2id"] = {name: index for index, name in enumerate(labels)}
        changes["ignore_mismatched_sizes"] = True
    if dropout >= 0:
        changes |= {name: dropout for name in model.config if is_dropout(name, model.config)}
    return changes


def is_dropout(name: str, config: Mapping[str, Any]) -> bool:
    """Whether a config's key is a share of activations to drop."""
    number = isinstance(config[name], float | int) and not isinstance(config[name], bool)
    return number and ("drop" in name or name.endswith("_pdrop"))


@contextmanager
def _as_file(text: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        file.write_text(text, encoding="utf-8")
        yield file


def tokens_of(model: Model, length: int) -> Tokens:
    """The tokenizer that a bundle would ship, cut at `length` tokens.

    0: at what the model says, LONGEST at most; below 0: nowhere.
    """
    most = longest(model)
    if length > most:
        found = f"length = {length}"
        raise UsageError("[train]", found, f"at most {most}, which {model.name} takes")
    with _as_file(tokenizer.tokenizer_json(model.folder)) as file:
        return Tokens(file, max(0, length or min(most, LONGEST)))


def longest(model: Model) -> int:
    """Tokens that the model takes at most, special ones included."""
    config = model.common_config
    said = int(config.get("max_position_embeddings") or config.get("n_positions") or 0)
    padding_first = model.architecture in ("roberta", "xlm-roberta", "camembert")
    return (said - 2 * padding_first) or 1 << 20
